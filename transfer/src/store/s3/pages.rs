//! A buffered reader whose memory begins at a page.
//!
//! Why not `BufReader`: its memory begins 16 bytes into a page, and on some processors (seen on AMD) a copy out of the kernel to such a
//! place takes up to 2.5 times as long. Downloads are little else than such copies.

use std::io::{self, BufRead, Read, Write};

use super::framing::Ahead;

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
    /// What ended the reading, kept until all that came before it was handed out.
    failed: Option<io::Error>,
}

impl<R> Pages<R> {
    /// `capacity`: bytes that are read at once.
    pub(super) fn new(capacity: usize, inner: R) -> Pages<R> {
        let memory = vec![0; capacity + PAGE];
        // It may say that it cannot tell; then the reader is only slower.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Pages { inner, memory, start, at: 0, end: 0, failed: None }
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
            if let Some(e) = self.failed.take() {
                return Err(e);
            }
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

impl<W: Write> Write for Pages<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.inner.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Ahead for Pages<R> {
    /// Whole buffers, each from its first page on: what is written to a file from them touches each of its pages once.
    fn ahead(&mut self, most: u64) -> io::Result<&[u8]> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.memory.len() - PAGE);
        if self.end - self.at < most {
            self.memory.copy_within(self.start + self.at..self.start + self.end, self.start);
            (self.at, self.end) = (0, self.end - self.at);
        }
        while self.end - self.at < most && self.failed.is_none() {
            match self.inner.read(&mut self.memory[self.start + self.end..self.start + most]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.failed = Some(e),
            }
        }
        if self.at == self.end
            && let Some(e) = self.failed.take()
        {
            return Err(e);
        }
        Ok(&self.memory[self.start + self.at..self.start + self.end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Hands out its pieces one by one, then fails.
    struct Breaking(Vec<&'static [u8]>);

    impl Read for Breaking {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let piece = self.0.remove(0);
            into[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn ahead_gathers_whole_buffers_and_no_failure_hides_what_came_before() {
        let mut reader = Pages::new(8, Breaking(vec![b"head\n", b"ab", b"c", b"defgh", b"i", b"j"]));
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).expect("it reads");
        assert_eq!((line.as_slice(), reader.ahead(3).expect("it reads")), (&b"head\n"[..], &b"abc"[..]));
        reader.consume(1);
        let whole = reader.ahead(9).expect("it reads");
        assert_eq!((whole, whole.as_ptr().addr() % PAGE), (&b"bcdefghi"[..], 0));
        reader.consume(8);
        assert_eq!(reader.ahead(8).expect("what came before the failure"), b"j");
        reader.consume(1);
        assert_eq!(reader.ahead(8).expect_err("it is broken").kind(), io::ErrorKind::ConnectionReset);
    }

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
