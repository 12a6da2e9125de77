//! The model file, and how files of parameters are written: little-endian, an 8-byte magic first, a CRC-32 of all before it
//! last; beside their place, synced and renamed, so that a file under its final name is whole. The checksum tells of a disk
//! that lied.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::digits::{CLASSES, PIXELS};
use crate::network::HIDDEN;

const MODEL_MAGIC: &[u8; 8] = b"DIGITNN1";

/// The model file: magic, the three layer sizes as u32, the parameters layer by layer (weights `[inputs,outputs]`, then
/// biases), CRC-32.
pub fn model_bytes(parameters: &[f32]) -> Vec<u8> {
    let mut bytes = MODEL_MAGIC.to_vec();
    for size in [PIXELS, HIDDEN, CLASSES] {
        bytes.extend((size as u32).to_le_bytes());
    }
    seal(bytes, parameters)
}

/// Appends the parameters and the checksum.
pub(crate) fn seal(mut bytes: Vec<u8>, parameters: &[f32]) -> Vec<u8> {
    bytes.extend(parameters.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Writes a file so that it is whole or not there: beside its place, synced, renamed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = folder.join(format!(".{name}.partial"));
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(folder)?.sync_all()
}
