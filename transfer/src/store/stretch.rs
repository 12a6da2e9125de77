//! A stretch of a file that is uploaded: read once for its sums, and again, straight to the connection, for its bytes.
//!
//! Why twice: the sums go into the request's head, and a stretch in memory would cost 8 MiB for each connection. The second reading
//! comes from the kernel's page cache; over plain HTTP it never enters this process. A file that was written to in between does not
//! match its sums any more, and the store refuses it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use gpujob_twins::{BLOCK, Twins};

use crate::checksum::{Crc64, Sha256};

/// Bytes of one read: they stay in the processor's cache while they are summed.
const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;

/// A stretch and its sums.
pub struct Stretch<'a> {
    file: &'a File,
    offset: u64,
    /// Bytes.
    pub length: u64,
    /// CRC-64/NVME.
    pub crc64nvme: u64,
    /// SHA-256.
    pub sha256: [u8; 32],
}

impl Stretch<'_> {
    /// Sums `length` bytes at `offset`; none when the file ends before.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(file: &File, offset: u64, length: u64) -> io::Result<Option<Stretch<'_>>> {
        let (mut crc, mut sha, mut at) = (Crc64::new(), Sha256::new(), 0);
        while at < length {
            let read = chunk(file, offset + at, length - at, |bytes| {
                crc.update(bytes);
                sha.update(bytes);
                Ok(())
            })?;
            if read == 0 {
                return Ok(None);
            }
            at += read;
        }
        Ok(Some(Stretch { file, offset, length, crc64nvme: crc.finish(), sha256: sha.finish() }))
    }

    /// As [`Stretch::read`], of two stretches of one length: their SHA-256 takes little longer than that of one.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_two(file: &File, offsets: [u64; 2], length: u64) -> io::Result<Option<[Stretch<'_>; 2]>> {
        let Some(mut sha) = Twins::new().filter(|_| length.is_multiple_of(BLOCK as u64)) else {
            let (first, second) = (Stretch::read(file, offsets[0], length)?, Stretch::read(file, offsets[1], length)?);
            return Ok(first.zip(second).map(|(first, second)| [first, second]));
        };
        let (mut crcs, mut at) = ([Crc64::new(), Crc64::new()], 0);
        while at < length {
            let most = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK / 2);
            let read: io::Result<()> = memory(|memory| {
                let (first, second) = memory.split_at_mut(CHUNK / 2);
                let pieces = [&mut first[..most], &mut second[..most]];
                for n in 0..2 {
                    file.read_exact_at(pieces[n], offsets[n] + at)?;
                    crcs[n].update(pieces[n]);
                }
                sha.update(pieces.map(|piece| &*piece));
                Ok(())
            });
            match read {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
            at += most as u64;
        }
        let ([first, second], [one, other]) = (crcs.map(Crc64::finish), sha.finish());
        let stretch = |offset, crc64nvme, sha256| Stretch { file, offset, length, crc64nvme, sha256 };
        Ok(Some([stretch(offsets[0], first, one), stretch(offsets[1], second, other)]))
    }

    /// Whether the file still has these bytes there.
    ///
    /// # Errors
    /// The disk's.
    pub fn holds(&self) -> io::Result<bool> {
        let mut sha = Sha256::new();
        Ok(self.read_again(|bytes| sha.update(bytes))? && sha.finish() == self.sha256)
    }

    /// Hands its bytes to `each`, for another sum than those. False: the file has other bytes there by now.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_again(&self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let (mut crc, mut at) = (Crc64::new(), 0);
        while at < self.length {
            let read = chunk(self.file, self.offset + at, self.length - at, |bytes| {
                crc.update(bytes);
                each(bytes);
                Ok(())
            })?;
            if read == 0 {
                return Ok(false);
            }
            at += read;
        }
        Ok(crc.finish() == self.crc64nvme)
    }

    /// Writes its bytes; those that are there no more are zeros, so that a request has the length that it says.
    ///
    /// # Errors
    /// The disk's and the writer's.
    pub fn send(&self, to: &mut dyn Write) -> io::Result<()> {
        self.send_from(0, to)
    }

    /// As [`Stretch::send`], by the kernel.
    ///
    /// # Errors
    /// The disk's and the connection's.
    pub fn send_plain(&self, mut to: &TcpStream) -> io::Result<()> {
        let mut at = 0;
        while at < self.length {
            let mut place = self.offset + at;
            let most = usize::try_from(self.length - at).unwrap_or(usize::MAX);
            match rustix::fs::sendfile(to, self.file, Some(&mut place), most) {
                // The file has become shorter.
                Ok(0) => break,
                Ok(sent) => at += sent as u64,
                Err(rustix::io::Errno::INTR) => {}
                // A file system that cannot.
                Err(rustix::io::Errno::INVAL) => break,
                Err(e) => return Err(e.into()),
            }
        }
        self.send_from(at, &mut to)
    }

    fn send_from(&self, mut at: u64, to: &mut dyn Write) -> io::Result<()> {
        while at < self.length {
            let read = chunk(self.file, self.offset + at, self.length - at, |bytes| to.write_all(bytes))?;
            if read == 0 {
                io::copy(&mut io::Read::take(io::repeat(0), self.length - at), to)?;
                return Ok(());
            }
            at += read;
        }
        Ok(())
    }
}

/// One read of a file into this thread's buffer. Returns its length, 0 at the file's end.
fn chunk(file: &File, offset: u64, most: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    memory(|memory| {
        let most = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
        loop {
            match file.read_at(&mut memory[..most], offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(read) => {
                    take(&memory[..read])?;
                    return Ok(read as u64);
                }
            }
        }
    })
}

/// Lends this thread's buffer of [`CHUNK`] bytes.
///
/// It begins at a page: a copy from the kernel's pages to any other place takes up to 2.5 times as long on some processors.
fn memory<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        if memory.is_empty() {
            *memory = vec![0; CHUNK + PAGE];
        }
        // It may say that it cannot tell; then the buffer is only slower.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        with(&mut memory[start..start + CHUNK])
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checksum::{crc64nvme, sha256};
    use std::io::Read;
    use std::net::TcpListener;

    /// What `send_plain` sends.
    fn sent(stretch: &Stretch<'_>) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![];
            other.read_to_end(&mut bytes).map(|_| bytes)
        });
        stretch.send_plain(&stream).unwrap();
        drop(stream);
        reader.join().unwrap().unwrap()
    }

    /// What `send` writes.
    fn written(stretch: &Stretch<'_>) -> Vec<u8> {
        let mut bytes = vec![];
        stretch.send(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn its_sums_are_those_of_its_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK + 77).map(|n| (n / 5 % 253) as u8).collect();
        file.write_all(&bytes).unwrap();
        for (offset, length) in [(0, bytes.len()), (0, 0), (5, CHUNK), (CHUNK + 1, 2 * CHUNK + 76)] {
            let want = &bytes[offset..offset + length];
            let stretch = Stretch::read(&file, offset as u64, length as u64).unwrap().unwrap();
            assert_eq!((stretch.crc64nvme, stretch.sha256), (crc64nvme(want), sha256(want)), "{offset} {length}");
            assert!(written(&stretch) == want && sent(&stretch) == want, "{offset} {length}");
            let mut again = vec![];
            assert!(stretch.read_again(|bytes| again.extend_from_slice(bytes)).unwrap() && again == want);
        }
        assert!(Stretch::read(&file, 1, bytes.len() as u64).unwrap().is_none());
    }

    #[test]
    fn two_at_once_are_summed_as_each_alone() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..5 * CHUNK).map(|n| (n / 3 % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        // Of whole blocks, and not.
        for length in [0, 64, CHUNK, 2 * CHUNK - 64, CHUNK + 1] {
            let two = Stretch::read_two(&file, [7, 3 * CHUNK as u64], length as u64).unwrap().unwrap();
            for stretch in two {
                let from = usize::try_from(stretch.offset).unwrap();
                let want = &bytes[from..from + length];
                assert_eq!((stretch.crc64nvme, stretch.sha256), (crc64nvme(want), sha256(want)), "{length} at {from}");
                assert!(stretch.holds().unwrap() && written(&stretch) == want);
            }
        }
        assert!(Stretch::read_two(&file, [0, 4 * CHUNK as u64], 2 * CHUNK as u64).unwrap().is_none());
    }

    #[test]
    fn one_that_was_cut_off_keeps_its_length_and_does_not_hold() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let stretch = Stretch::read(&file, 0, 10_000).unwrap().unwrap();
        file.set_len(4_000).unwrap();
        let want = [vec![7; 4_000], vec![0; 6_000]].concat();
        assert!(written(&stretch) == want && sent(&stretch) == want);
        assert!(!stretch.holds().unwrap());
    }
}
