//! A small seeded generator (SplitMix64), so that one seed is one model on every machine and in every build.

/// SplitMix64: 64 bits of state, equidistributed, more than good enough for weights and shuffles.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator for one purpose: `stream` keeps the initial weights and each epoch's shuffle independent of each other,
    /// so that a run resumed at epoch N shuffles as the uninterrupted one would have.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut start = Self { state: seed };
        let mixed = start.next_u64() ^ stream.wrapping_mul(0xD134_2543_DE82_EF95);
        Self { state: mixed }
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `-bound..bound`, all of its 24 bits exact.
    pub fn symmetric(&mut self, bound: f32) -> f32 {
        let unit = (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32;
        (2.0 * unit - 1.0) * bound
    }

    /// A number in `0..end`; `end` must not be 0.
    fn below(&mut self, end: usize) -> usize {
        // The bias of the multiply-shift is below 2^-50 for the sizes here.
        ((u128::from(self.next_u64()) * end as u128) >> 64) as usize
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_every_item_and_depends_on_seed_and_stream() {
        let shuffled = |seed, stream| {
            let mut items: Vec<usize> = (0..100).collect();
            Random::new(seed, stream).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(1, 1);
        assert_ne!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(sorted, shuffled(1, 1));
        assert_ne!(sorted, shuffled(1, 2));
        assert_ne!(sorted, shuffled(2, 1));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn symmetric_numbers_fill_their_range() {
        let mut random = Random::new(7, 0);
        let drawn: Vec<f32> = (0..10_000).map(|_| random.symmetric(0.5)).collect();
        assert!(drawn.iter().all(|x| (-0.5..0.5).contains(x)));
        assert!(drawn.iter().any(|x| *x > 0.49) && drawn.iter().any(|x| *x < -0.49));
        let mean = drawn.iter().sum::<f32>() / drawn.len() as f32;
        assert!(mean.abs() < 0.01, "{mean}");
    }
}
