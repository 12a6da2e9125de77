//! A buffered reader whose memory begins at a page.
//!
//! Why not `BufReader`: its memory begins 16 bytes into a page, and on some processors (seen on AMD) a copy out of the kernel to such a
//! place takes up to 2.5 times as long. Downloads are little else than such copies.

use std::io::{self, BufRead, Read};

const PAGE: usize = 4096;

/// Reads ahead into aligned memory.
pub(super) struct Pages<R> {
    inner: R,
    memory: Vec<u8>,
    /// Where the first whole page of `memory` begins.
    start: usize,
    /// What is read ahead, relative to `start`.
    at: usize,
    end: usize,
}

impl<R> Pages<R> {
    /// `capacity`: bytes that are read at once.
    pub(super) fn new(capacity: usize, inner: R) -> Pages<R> {
        let memory = vec![0; capacity + PAGE];
        // It may say that it cannot tell; then the reader is only slower.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Pages { inner, memory, start, at: 0, end: 0 }
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// Reading from it directly would pass over what is read ahead.
    pub(super) fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }
}

impl<R: Read> Read for Pages<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let take = there.len().min(into.len());
        into[..take].copy_from_slice(&there[..take]);
        self.consume(take);
        Ok(take)
    }
}

impl<R: Read> BufRead for Pages<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            let capacity = self.memory.len() - PAGE;
            (self.at, self.end) = (0, 0);
            self.end = loop {
                match self.inner.read(&mut self.memory[self.start..self.start + capacity]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
        }
        Ok(&self.memory[self.start + self.at..self.start + self.end])
    }

    fn consume(&mut self, taken: usize) {
        self.at = self.end.min(self.at + taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn it_reads_what_is_there_and_begins_at_a_page() {
        let want: Vec<u8> = (0..100_000).map(|n| (n % 253) as u8).collect();
        for capacity in [1, 7, 4096, 200_000] {
            let mut reader = Pages::new(capacity, Cursor::new(&want));
            assert!(reader.fill_buf().expect("it reads").as_ptr().addr().is_multiple_of(PAGE), "{capacity}");
            let mut line = Vec::new();
            reader.read_until(100, &mut line).expect("it reads");
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).expect("it reads");
            assert!([line, rest].concat() == want, "{capacity}");
        }
    }
}
