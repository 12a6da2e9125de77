//! Launch geometry: one thread for each element, in one dimension.

use super::DeviceError;

/// Threads in a block: a multiple of the warp size that every GPU allows and that leaves registers to spare.
pub const THREADS_PER_BLOCK: u32 = 256;

/// How many blocks of [`THREADS_PER_BLOCK`] threads a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x; y and z are 1.
    pub blocks: u32,
}

impl Geometry {
    /// The fewest blocks that give each element a thread; none for no element (the driver refuses an empty grid, so
    /// the launch is left out). Kernels compute `block * 256 + thread` and all element offsets in 32 bits, so 2^31 is the end.
    pub fn for_elements(elements: u64) -> Result<Option<Self>, DeviceError> {
        match u32::try_from(elements) {
            Ok(0) => Ok(None),
            Ok(elements) if elements <= 1 << 31 => Ok(Some(Self { blocks: elements.div_ceil(THREADS_PER_BLOCK) })),
            _ => Err(DeviceError::TooManyElements(elements)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_element_has_exactly_one_thread_and_no_block_is_idle() {
        for elements in (1u64..2000).chain([65_535, 65_536, 65_537, (1 << 31) - 1, 1 << 31]) {
            let blocks = u64::from(Geometry::for_elements(elements).unwrap().unwrap().blocks);
            let threads = blocks * u64::from(THREADS_PER_BLOCK);
            assert!(threads >= elements, "{elements}");
            assert!(threads - elements < u64::from(THREADS_PER_BLOCK), "{elements}");
            assert!(threads - 1 <= u64::from(u32::MAX), "the thread's index overflows at {elements}");
            assert!(blocks < 1 << 31, "more blocks than a grid may have in x");
        }
        // Which index each thread takes, counted out as the hardware numbers them.
        let mut seen = vec![0; 1000];
        for block in 0..Geometry::for_elements(1000).unwrap().unwrap().blocks {
            for thread in 0..THREADS_PER_BLOCK {
                if let Some(count) = seen.get_mut((block * THREADS_PER_BLOCK + thread) as usize) {
                    *count += 1;
                }
            }
        }
        assert_eq!(seen, vec![1; 1000]);
    }

    #[test]
    fn nothing_is_no_launch_and_too_much_is_refused() {
        assert_eq!(Geometry::for_elements(0).unwrap(), None);
        assert!(Geometry::for_elements((1 << 31) + 1).is_err());
        assert!(Geometry::for_elements(1 << 40).is_err());
    }
}
