//! The memory of the machine, which owns up to every access.

use std::collections::BTreeMap;

/// Where the device's addresses begin.
pub(super) const BASE: u64 = 0x7f12_3400_0000;

/// Who touched a word in which launch; threads from 1.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Touched {
    launch: u32,
    reader: u32,
    writer: u32,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) words: Vec<f32>,
    pub(super) touched: Vec<Touched>,
    /// First word and length of what is allocated now.
    pub(super) live: BTreeMap<usize, usize>,
    pub(super) launch: u32,
}

impl Memory {
    /// The first of `length` words at an address, all in one allocation.
    pub(super) fn word(&self, address: u64, length: usize) -> usize {
        assert_eq!(address % 4, 0, "misaligned address");
        let word = usize::try_from((address - BASE) / 4).unwrap();
        let (start, size) = self.live.range(..=word).next_back().expect("an address below all memory");
        assert!(word + length <= start + size, "word {word} is outside of {size} words at {start}");
        word
    }

    /// Notes an access of a thread of this launch.
    pub(super) fn touch(&mut self, word: usize, thread: u32, writes: bool) {
        let touched = &mut self.touched[word];
        if touched.launch != self.launch {
            *touched = Touched { launch: self.launch, ..Touched::default() };
        }
        let alone = |other: u32| other == 0 || other == thread;
        assert!(alone(touched.writer) && (!writes || alone(touched.reader)), "threads race for word {word}");
        *(if writes { &mut touched.writer } else { &mut touched.reader }) = thread;
    }
}
