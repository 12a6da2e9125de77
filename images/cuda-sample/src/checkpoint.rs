//! Checkpoints, which a later run resumes from: parameters after an epoch, and what they depend on.
//!
//! A checksum and a rename make them whole or useless, never half right; see [`crate::model`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::{seal, write_atomically};
use crate::network::PARAMETERS;

const CHECKPOINT_MAGIC: &[u8; 8] = b"DIGITCK1";
/// Checkpoints kept: the newest, and one in reserve.
const KEPT: usize = 2;

/// What a checkpoint must share with the run that resumes from it, or the model would be that of neither.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lineage {
    /// Seed of the weights and shuffles.
    pub seed: u64,
    /// Images in a batch.
    pub batch: u32,
    /// Step size of the descent.
    pub rate: f32,
    /// [`crate::digits::Digits::fingerprint`] of the training images.
    pub data: u32,
}

/// Parameters after an epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Epochs done.
    pub epoch: u32,
    /// Mean loss over the last of them.
    pub loss: f32,
    /// [`PARAMETERS`] numbers.
    pub parameters: Vec<f32>,
}

/// A folder of checkpoints of one lineage.
#[derive(Debug)]
pub struct CheckpointFolder {
    folder: PathBuf,
    lineage: Lineage,
}

impl CheckpointFolder {
    /// Opens the folder, made where it is missing.
    pub fn open(folder: &Path, lineage: Lineage) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), lineage })
    }

    /// The newest complete checkpoint of this lineage that is not past `epochs`; `passed_over` hears of each newer
    /// file that cannot be used, and why.
    pub fn newest(&self, epochs: u32, mut passed_over: impl FnMut(String)) -> io::Result<Option<Checkpoint>> {
        for (epoch, path) in self.list()?.into_iter().rev() {
            match decode(&fs::read(&path)?, self.lineage) {
                Ok(checkpoint) if checkpoint.epoch <= epochs => return Ok(Some(checkpoint)),
                Ok(_) => passed_over(format!("{} is past epoch {epochs}", path.display())),
                Err(problem) => passed_over(format!("{} (epoch {epoch}) {problem}", path.display())),
            }
        }
        Ok(None)
    }

    /// Writes a checkpoint, then removes all but the newest two up to it; returns its path.
    pub fn write(&self, checkpoint: &Checkpoint) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("epoch-{:06}.ckpt", checkpoint.epoch));
        write_atomically(&path, &encode(checkpoint, self.lineage))?;
        let older: Vec<_> = self.list()?.into_iter().filter(|(epoch, _)| *epoch <= checkpoint.epoch).collect();
        for (_, path) in older.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(path)
    }

    /// Epochs and paths, oldest first.
    fn list(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let epoch = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix("epoch-")?.strip_suffix(".ckpt")?.parse().ok());
            found.extend(epoch.map(|epoch| (epoch, path)));
        }
        found.sort();
        Ok(found)
    }
}

fn encode(checkpoint: &Checkpoint, lineage: Lineage) -> Vec<u8> {
    let mut bytes = CHECKPOINT_MAGIC.to_vec();
    bytes.extend(header(checkpoint.epoch, checkpoint.loss.to_bits(), lineage));
    seal(bytes, &checkpoint.parameters)
}

fn header(epoch: u32, loss: u32, lineage: Lineage) -> Vec<u8> {
    let mut bytes = lineage.seed.to_le_bytes().to_vec();
    for number in [lineage.batch, lineage.rate.to_bits(), lineage.data, epoch, loss] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8], lineage: Lineage) -> Result<Checkpoint, &'static str> {
    const HEADER: usize = 8 + 8 + 5 * 4;
    if bytes.len() != HEADER + 4 * PARAMETERS + 4 || !bytes.starts_with(CHECKPOINT_MAGIC) {
        return Err("is no whole checkpoint");
    }
    let (body, checksum) = bytes.split_at(bytes.len() - 4);
    if crc32fast::hash(body).to_le_bytes() != checksum {
        return Err("is damaged");
    }
    let (head, parameters) = body.split_at(HEADER);
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let (epoch, loss) = (word(&head[HEADER - 8..]), word(&head[HEADER - 4..]));
    if head[8..] != header(epoch, loss, lineage) {
        return Err("is of a run with other data, seed, batch or learning rate");
    }
    let parameters = parameters.chunks_exact(4).map(|bytes| f32::from_bits(word(bytes))).collect();
    Ok(Checkpoint { epoch, loss: f32::from_bits(loss), parameters })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LINEAGE: Lineage = Lineage { seed: 1, batch: 32, rate: 0.1, data: 7 };

    fn checkpoint(epoch: u32) -> Checkpoint {
        let parameters = (0..PARAMETERS).map(|index| index as f32 - epoch as f32).collect();
        Checkpoint { epoch, loss: 0.5, parameters }
    }

    #[test]
    fn the_newest_complete_checkpoint_is_found_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointFolder::open(&folder.path().join("new"), LINEAGE).unwrap();
        assert_eq!(checkpoints.newest(100, |_| panic!()).unwrap(), None);
        let paths: Vec<_> = [5, 10, 15].map(|epoch| checkpoints.write(&checkpoint(epoch)).unwrap()).into();
        assert!(!paths[0].exists() && paths[1].exists() && paths[2].exists());
        assert_eq!(checkpoints.newest(100, |_| panic!()).unwrap(), Some(checkpoint(15)));

        let mut bytes = fs::read(&paths[2]).unwrap();
        bytes[100] ^= 1;
        fs::write(&paths[2], &bytes).unwrap();
        fs::write(paths[2].with_file_name("epoch-000020.ckpt"), &bytes[..50]).unwrap();
        fs::write(paths[2].with_file_name(".epoch-000030.ckpt.partial"), &bytes).unwrap();
        let mut passed_over = Vec::new();
        let found = checkpoints.newest(100, |line| passed_over.push(line)).unwrap();
        assert_eq!(found, Some(checkpoint(10)));
        assert!(passed_over[0].ends_with("000020.ckpt (epoch 20) is no whole checkpoint"), "{passed_over:?}");
        assert!(passed_over[1].ends_with("000015.ckpt (epoch 15) is damaged"), "{passed_over:?}");
        assert_eq!(checkpoints.newest(9, |_| ()).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_of_another_lineage_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        CheckpointFolder::open(folder.path(), LINEAGE).unwrap().write(&checkpoint(5)).unwrap();
        for other in [
            Lineage { seed: 2, ..LINEAGE },
            Lineage { batch: 64, ..LINEAGE },
            Lineage { rate: 0.2, ..LINEAGE },
            Lineage { data: 8, ..LINEAGE },
        ] {
            let mut passed_over = 0;
            let checkpoints = CheckpointFolder::open(folder.path(), other).unwrap();
            assert_eq!(checkpoints.newest(100, |_| passed_over += 1).unwrap(), None);
            assert_eq!(passed_over, 1);
        }
    }
}
