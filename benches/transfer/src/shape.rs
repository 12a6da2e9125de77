//! What is moved: one large file, many middling ones, thousands of small ones.

use anyhow::Result;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Up => "up",
            Way::Down => "down",
        }
    }
}

/// So many files of that size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) files: u64,
    pub(crate) size: u64,
}

pub(crate) const SHAPES: [Shape; 3] = [
    Shape { name: "large", files: 1, size: 2 << 30 },
    Shape { name: "many", files: 64, size: 64 << 20 },
    Shape { name: "small", files: 10_000, size: 16 << 10 },
];

/// Bytes that all files are cut from.
pub(crate) const PATTERN: usize = 8 << 20;

/// Noise, the same at every start.
pub(crate) fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(PATTERN).collect()
}

impl Shape {
    /// With fewer bytes: fewer files, or smaller ones where there is one.
    pub(crate) fn divided(&self, by: u64) -> Shape {
        let by = by.max(1);
        if self.files == 1 { Shape { size: self.size / by, ..*self } } else { Shape { files: (self.files / by).max(1), ..*self } }
    }

    /// The files' names, 100 to a folder.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        (0..self.files).map(|n| format!("d{:03}/f{n:05}", n / 100))
    }

    /// Writes the files into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let bytes = pattern();
        for name in self.names() {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            let mut file = File::create(path)?;
            let mut left = self.size;
            while left > 0 {
                let take = left.min(PATTERN as u64) as usize;
                file.write_all(&bytes[..take])?;
                left -= take as u64;
            }
        }
        Ok(())
    }
}
