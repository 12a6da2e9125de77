//! The rounds by the instructions of x86, the two messages in turns.

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x, _mm_setzero_si128, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_storeu_si128,
};

use super::BLOCK;

const TWO: usize = 2;

/// FIPS 180-4, 4.2.2.
const K: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// Whether this processor has the instructions.
pub(super) fn able() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// Adds whole blocks, as many of one message as of the other.
pub(super) fn rounds(states: &mut [[u32; 8]; TWO], pieces: [&[u8]; TWO]) {
    assert!(able() && pieces[0].len() == pieces[1].len());
    // SAFETY: the instructions are there, and no load goes beyond the shorter piece.
    unsafe { compress(states, pieces) }
}

/// # Safety
/// The processor has the instructions, and the pieces are of one length.
#[target_feature(enable = "sha,ssse3,sse4.1")]
unsafe fn compress(states: &mut [[u32; 8]; TWO], pieces: [&[u8]; TWO]) {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    // The instructions want the state as ABEF and CDGH.
    let (mut abef, mut cdgh) = ([_mm_setzero_si128(); TWO], [_mm_setzero_si128(); TWO]);
    for n in 0..TWO {
        let from: *const __m128i = states[n].as_ptr().cast();
        // SAFETY: a state is two registers wide.
        let (abcd, efgh) = unsafe { (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))) };
        let (cdab, efgh) = (_mm_shuffle_epi32(abcd, 0xb1), _mm_shuffle_epi32(efgh, 0x1b));
        abef[n] = _mm_alignr_epi8(cdab, efgh, 8);
        cdgh[n] = _mm_blend_epi16(efgh, cdab, 0xf0);
    }
    for block in 0..pieces[0].len() / BLOCK {
        let before = (abef, cdgh);
        let mut words = [[_mm_setzero_si128(); 4]; TWO];
        for n in 0..TWO {
            for (i, word) in words[n].iter_mut().enumerate() {
                // SAFETY: four registers are a block, and this is one of the piece's whole blocks.
                let loaded = unsafe { _mm_loadu_si128(pieces[n].as_ptr().add(block * BLOCK + i * 16).cast()) };
                *word = _mm_shuffle_epi8(loaded, big_endian);
            }
        }
        // Unrolled by hand: the words must stay in registers, which an index that is known only at run time would end.
        macro_rules! four_rounds {
            ($($group:literal)*) => {$(
                // SAFETY: 16 groups of four constants.
                let k = unsafe { _mm_loadu_si128(K.as_ptr().add($group * 4).cast()) };
                for n in 0..TWO {
                    let word = _mm_add_epi32(words[n][$group % 4], k);
                    cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], word);
                    abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], _mm_shuffle_epi32(word, 0x0e));
                    if $group < 12 {
                        let next = words[n][($group + 3) % 4];
                        let sum = _mm_add_epi32(
                            _mm_sha256msg1_epu32(words[n][$group % 4], words[n][($group + 1) % 4]),
                            _mm_alignr_epi8(next, words[n][($group + 2) % 4], 4),
                        );
                        words[n][$group % 4] = _mm_sha256msg2_epu32(sum, next);
                    }
                }
            )*};
        }
        four_rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for n in 0..TWO {
            abef[n] = _mm_add_epi32(abef[n], before.0[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], before.1[n]);
        }
    }
    for n in 0..TWO {
        let to: *mut __m128i = states[n].as_mut_ptr().cast();
        let (feba, dchg) = (_mm_shuffle_epi32(abef[n], 0x1b), _mm_shuffle_epi32(cdgh[n], 0xb1));
        // SAFETY: a state is two registers wide.
        unsafe {
            _mm_storeu_si128(to, _mm_blend_epi16(feba, dchg, 0xf0));
            _mm_storeu_si128(to.add(1), _mm_alignr_epi8(dchg, feba, 8));
        }
    }
}
