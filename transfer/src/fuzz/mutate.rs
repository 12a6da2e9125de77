//! Changes to a seed, of the kinds that break parsers: bits, lengths, borders, pieces of other seeds, words of the formats.

/// What the formats are made of.
const WORDS: [&str; 28] = [
    "\r\n",
    "\r\n\r\n",
    "\n",
    ":",
    "HTTP/1.1 ",
    "100 Continue",
    "content-length: ",
    "transfer-encoding: chunked\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff",
    "<",
    ">",
    "</",
    "/>",
    "<![CDATA[",
    "]]>",
    "<!--",
    "&#x0;",
    "&amp;",
    "&#1114112;",
    "{",
    "}",
    "null",
    "18446744073709551615",
    "-1",
    "1e999",
    "\\u0000",
    "\u{fffd}",
];

/// A stream of changed inputs, the same for the same start.
pub(super) struct Mutator(u64);

impl Mutator {
    pub(super) fn new(start: u64) -> Mutator {
        Mutator(start | 1)
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of the seeds with one to six changes.
    pub(super) fn change(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(40)).min(bytes.len());
            match self.below(8) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].bytes())),
                5 => drop(bytes.splice(at..end, WORDS[self.below(WORDS.len())].bytes())),
                6 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(120)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}
