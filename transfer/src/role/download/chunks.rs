//! A file that is written in whole, aligned chunks.
//!
//! Why: a copy between the kernel's pages and a buffer that does not begin at a page takes up to 2.5 times as long on some processors
//! (seen on AMD, whose `rep movsb` has a slow path), and a write that begins within a page touches that page twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of one write.
pub(super) const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;

/// Gathers bytes for one stretch of a file.
pub(super) struct Chunks<'a> {
    file: &'a File,
    memory: Vec<u8>,
    /// Where the page begins in `memory`.
    start: usize,
    filled: usize,
    /// Where the next chunk goes.
    offset: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(file: &'a File, offset: u64) -> Chunks<'a> {
        let memory = vec![0; CHUNK + PAGE];
        // It may say that it cannot tell; then the buffer is only slower.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Chunks { file, memory, start, filled: 0, offset }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // Nothing to gather: from the reader's own pages.
            if self.filled == 0 && bytes.len() >= CHUNK {
                self.file.write_all_at(&bytes[..CHUNK], self.offset)?;
                self.offset += CHUNK as u64;
                bytes = &bytes[CHUNK..];
                continue;
            }
            let take = bytes.len().min(CHUNK - self.filled);
            let at = self.start + self.filled;
            self.memory[at..at + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left. To be called at the end.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.memory[self.start..self.start + self.filled], self.offset)?;
        self.offset += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// From the beginning of the stretch again.
    pub(super) fn rewind(&mut self, offset: u64) {
        (self.filled, self.offset) = (0, offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_become_the_same_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let want: Vec<u8> = (0..CHUNK * 2 + 777).map(|n| (n / 7 % 251) as u8).collect();
        for size in [1000, 4096, CHUNK - 1, CHUNK, CHUNK * 3] {
            let path = folder.path().join(size.to_string());
            let file = File::create(&path).expect("a file");
            let mut chunks = Chunks::new(&file, 0);
            chunks.write(b"of a try that broke").expect("it writes");
            chunks.rewind(0);
            for piece in want.chunks(size) {
                chunks.write(piece).expect("it writes");
            }
            chunks.flush().expect("it writes");
            assert!(std::fs::read(&path).expect("it is there") == want, "{size}");
        }
    }
}
