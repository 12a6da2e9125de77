//! SHA-256 of two messages of one length at once.
//!
//! Why: the processor's instruction for two rounds takes four cycles, and a new one can begin after two. A single message has to wait for
//! each of them; the rounds of a second one fit in between. Measured on an AMD EPYC (Zen 4): 1.8 GB/s one after the other, 3.1 GB/s two
//! at once. No library that is a dependency of ours does that.
//!
//! The only crate of ours with unsafe code: the instructions, and loads from slices whose lengths are checked.

/// Bytes that are hashed at a time.
pub const BLOCK: usize = 64;

#[cfg(target_arch = "x86_64")]
mod x86;

const START: [u32; 8] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Two hashes in the making.
pub struct Twins {
    states: [[u32; 8]; 2],
    /// Bytes of each message so far.
    length: u64,
}

impl Twins {
    /// Of nothing yet; none where the processor has no instructions for it.
    pub fn new() -> Option<Twins> {
        #[cfg(target_arch = "x86_64")]
        let able = x86::able();
        #[cfg(not(target_arch = "x86_64"))]
        let able = false;
        able.then_some(Twins { states: [START; 2], length: 0 })
    }

    /// More of each message.
    ///
    /// # Panics
    /// When both are not of one length, or it is no multiple of [`BLOCK`].
    pub fn update(&mut self, pieces: [&[u8]; 2]) {
        let length = pieces[0].len();
        assert!(length == pieces[1].len() && length.is_multiple_of(BLOCK), "{length} and {} bytes", pieces[1].len());
        #[cfg(target_arch = "x86_64")]
        x86::rounds(&mut self.states, pieces);
        self.length += length as u64;
    }

    /// Of all that came.
    pub fn finish(mut self) -> [[u8; 32]; 2] {
        // FIPS 180-4, 5.1.1: a one, zeros, and the length in bits.
        let mut padding = [0; BLOCK];
        padding[0] = 0x80;
        padding[BLOCK - 8..].copy_from_slice(&(self.length * 8).to_be_bytes());
        self.update([&padding; 2]);
        self.states.map(|state| {
            let mut out = [0; 32];
            for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
                bytes.copy_from_slice(&word.to_be_bytes());
            }
            out
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn each_is_the_hash_of_its_own_message() {
        // Nothing to test on a processor that cannot.
        if Twins::new().is_none() {
            return;
        }
        for blocks in [0, 1, 2, 3, 17, 100] {
            let message = |salt: usize| (0..blocks * BLOCK).map(|n| (n * 7 / 3 + salt) as u8).collect::<Vec<u8>>();
            let (first, second) = (message(1), message(200));
            let mut twins = Twins::new().expect("it was there before");
            let middle = blocks / 2 * BLOCK;
            twins.update([&first[..middle], &second[..middle]]);
            twins.update([&first[middle..], &second[middle..]]);
            let want = [&first, &second].map(|message| <[u8; 32]>::from(Sha256::digest(message)));
            assert_eq!(twins.finish(), want, "{blocks} blocks");
        }
    }
}
