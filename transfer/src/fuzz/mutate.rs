//! Changes to a seed, of the kinds that break parsers: bits, lengths, borders, pieces of other seeds, words of the formats.

use bolero::TypeGenerator;

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

/// A seed with some changes. Numbers are taken modulo what there is, so every value means something.
#[derive(Clone, Debug, TypeGenerator)]
pub(crate) struct Changed {
    seed: u16,
    first: Change,
    #[generator(bolero::produce_with::<Vec<Change>>().len(0..=6usize))]
    more: Vec<Change>,
}

/// One change, somewhere.
#[derive(Clone, Debug, TypeGenerator)]
struct Change {
    at: u16,
    /// How many bytes from there on.
    length: u8,
    what: What,
}

#[derive(Clone, Debug, TypeGenerator)]
enum What {
    Flip(u8),
    Set(u8),
    Remove,
    Repeat,
    Insert(u8),
    Replace(u8),
    Splice { seed: u16, from: u16, length: u8 },
    Cut,
}

fn below(value: impl Into<usize>, limit: usize) -> usize {
    value.into() % limit.max(1)
}

impl Changed {
    /// What becomes of the seed.
    pub(crate) fn of(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[below(self.seed, seeds.len())].clone();
        for change in std::iter::once(&self.first).chain(&self.more) {
            change.apply(&mut bytes, seeds);
        }
        bytes
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = below(self.at, bytes.len() + 1);
        let end = (at + below(self.length, 40)).min(bytes.len());
        let word = |n: u8| WORDS[below(n, WORDS.len())].bytes();
        match self.what {
            What::Flip(bit) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(bit, 8)),
            What::Set(value) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value),
            What::Remove => drop(bytes.drain(at..end)),
            What::Repeat => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            What::Insert(n) => drop(bytes.splice(at..at, word(n))),
            What::Replace(n) => drop(bytes.splice(at..end, word(n))),
            What::Splice { seed, from, length } => {
                let other = &seeds[below(seed, seeds.len())];
                let from = below(from, other.len() + 1);
                let to = (from + below(length, 120)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            What::Cut => bytes.truncate(at),
        }
    }
}
