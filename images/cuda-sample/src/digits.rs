//! The data set: rows of 64 pixels (0..=16) and one label (0..=9), as CSV or gzipped CSV.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::random::Random;

/// Pixels of one image (8x8).
pub const PIXELS: usize = 64;
/// Kinds of digit.
pub const CLASSES: usize = 10;
/// Of a single file one image in five is kept for testing.
const TEST_SHARE: usize = 5;
/// The split is drawn, for files go in patterns (UCI's writes 0 to 9 over and over), and with a seed of its own, so that
/// models of all seeds are tested on the same images.
const SPLIT_SEED: u64 = 0x6469_6769_7473;

/// Why the input cannot be used; every message names the file and says what was expected.
#[derive(Debug, thiserror::Error)]
pub enum DigitsError {
    /// The folder holds none of the known files.
    #[error(
        "no digits in {0}: expected digits.csv, digits.csv.gz, or train.csv and test.csv (each may end in .gz); one image a line, 64 pixels 0..16 and the digit"
    )]
    NotFound(PathBuf),
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not 64 pixels and a digit.
    #[error("{path}, line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Too few images to train and test on.
    #[error("{path} has {found} images, at least {needed} are needed")]
    TooFew {
        /// The file.
        path: PathBuf,
        /// Images in it.
        found: usize,
        /// Images needed.
        needed: usize,
    },
}

/// Images and their labels; `pixels` holds [`PIXELS`] numbers in 0..=1 for each of `labels`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Images {
    /// Row-major, one image after the other.
    pub pixels: Vec<f32>,
    /// The digit shown, 0..=9.
    pub labels: Vec<u8>,
}

impl Images {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of one image.
    pub fn image(&self, index: usize) -> &[f32] {
        &self.pixels[index * PIXELS..(index + 1) * PIXELS]
    }

    fn push(&mut self, pixels: &[f32], label: u8) {
        self.pixels.extend_from_slice(pixels);
        self.labels.push(label);
    }
}

/// What to train on and what to test on.
#[derive(Debug, Clone)]
pub struct Digits {
    /// Images to train on.
    pub train: Images,
    /// Images never trained on.
    pub test: Images,
    /// The files read.
    pub files: Vec<PathBuf>,
}

impl Digits {
    /// Reads `digits.csv[.gz]`, or `train.csv[.gz]` with `test.csv[.gz]`, from a folder.
    pub fn read(folder: &Path) -> Result<Self, DigitsError> {
        let find = |name: &str| [name.to_owned(), format!("{name}.gz")].iter().map(|name| folder.join(name)).find(|path| path.is_file());
        if let Some(path) = find("digits.csv") {
            let all = read_file(&path, 2 * TEST_SHARE)?;
            let mut order: Vec<usize> = (0..all.len()).collect();
            Random::new(SPLIT_SEED, 0).shuffle(&mut order);
            let (mut train, mut test) = (Images::default(), Images::default());
            for (place, index) in order.into_iter().enumerate() {
                let part = if place < all.len() / TEST_SHARE { &mut test } else { &mut train };
                part.push(all.image(index), all.labels[index]);
            }
            return Ok(Self { train, test, files: vec![path] });
        }
        match (find("train.csv"), find("test.csv")) {
            (Some(train), Some(test)) => Ok(Self { train: read_file(&train, 1)?, test: read_file(&test, 1)?, files: vec![train, test] }),
            _ => Err(DigitsError::NotFound(folder.to_owned())),
        }
    }

    /// A checksum of what is trained on: a checkpoint is resumed only with the data that it was made from.
    pub fn fingerprint(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for pixel in &self.train.pixels {
            hasher.update(&pixel.to_le_bytes());
        }
        hasher.update(&self.train.labels);
        hasher.finalize()
    }
}

fn read_file(path: &Path, needed: usize) -> Result<Images, DigitsError> {
    let failed = |source| DigitsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let reader: Box<dyn Read> =
        if path.extension().is_some_and(|end| end == "gz") { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut images = Images::default();
    for (index, line) in BufReader::new(reader).lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.trim().is_empty() {
            continue;
        }
        let (pixels, label) = parse_line(&line).map_err(|problem| DigitsError::Line { path: path.to_owned(), line: index + 1, problem })?;
        images.push(&pixels, label);
    }
    if images.len() < needed {
        return Err(DigitsError::TooFew { path: path.to_owned(), found: images.len(), needed });
    }
    Ok(images)
}

fn parse_line(line: &str) -> Result<([f32; PIXELS], u8), String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    if fields.len() != PIXELS + 1 {
        return Err(format!("{} fields, expected 64 pixels and the digit", fields.len()));
    }
    let mut pixels = [0.0; PIXELS];
    for (pixel, field) in pixels.iter_mut().zip(&fields) {
        *pixel = match field.parse::<f32>() {
            Ok(value) if (0.0..=16.0).contains(&value) => value / 16.0,
            _ => return Err(format!("pixel {field:?} is not a number in 0..16")),
        };
    }
    match fields[PIXELS].parse::<f32>() {
        Ok(digit) if (0.0..=9.0).contains(&digit) && digit.fract() == 0.0 => Ok((pixels, digit as u8)),
        _ => Err(format!("label {:?} is not a digit", fields[PIXELS])),
    }
}

#[cfg(test)]
mod tests;
