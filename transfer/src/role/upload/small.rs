//! Small files: many of them with one request.

use std::fs::{File, Metadata};

use super::super::walk::{Found, unreadable};
use super::super::{Fault, pack};
use super::reading::{changing, open, piece, same};
use super::{PATIENCE, Stager, Staging, serial};
use crate::checksum::{crc64nvme, crc64nvme_text, sha256_hex};
use crate::plan::{FileSum, Item, Staged, Strong};
use crate::role::ledger::Entry;
use crate::stamp::Stamp;

/// A file for a pack.
enum Small {
    Read(Vec<u8>, Stamp),
    Grown,
    Gone,
}

impl Stager<'_> {
    /// Stages small files with one request.
    pub(super) fn pack(&self, group: Vec<Found>) -> Result<Staging, Fault> {
        let key = format!("{}p/{:08}", self.base, serial());
        let mut staging = Staging::default();
        let expected: u64 = group.iter().map(|found| found.size).sum();
        let (mut body, mut entries) = (Vec::with_capacity(usize::try_from(expected).unwrap_or(0)), vec![]);
        for found in group {
            match self.small(&found)? {
                Small::Read(bytes, stamp) => {
                    let item = Item { file: sum(&found, &bytes), staged: Staged::Pack { key: key.clone(), offset: body.len() as u64 } };
                    entries.push(Entry { stamp, item });
                    body.extend_from_slice(&bytes);
                }
                // It has grown since it was found.
                Small::Grown => {
                    let item = self.one(&found, 1)?;
                    staging.add(found.name, item);
                }
                Small::Gone => staging.add(found.name, None),
            }
        }
        if !entries.is_empty() {
            self.to.store.put(&self.to.key(&key), &body)?;
            self.meter.add(entries.len() as u64, body.len() as u64);
            staging.items.extend(entries.iter().map(|entry| entry.item.clone()));
            self.note(entries)?;
        }
        Ok(staging)
    }

    fn small(&self, found: &Found) -> Result<Small, Fault> {
        for patience in PATIENCE {
            self.go_on()?;
            let Some((file, about)) = open(found, self.main_runs)? else { return Ok(Small::Gone) };
            if about.len() > pack::SMALL {
                return Ok(Small::Grown);
            }
            match whole(found, &file, &about)? {
                Some(bytes) => return Ok(Small::Read(bytes, Stamp::of(&about))),
                None => std::thread::sleep(patience),
            }
        }
        Err(changing(found))
    }
}

/// Its bytes; none when it changed meanwhile.
fn whole(found: &Found, file: &File, about: &Metadata) -> Result<Option<Vec<u8>>, Fault> {
    // One byte more than expected would show a file that grew.
    let bytes = piece(file, 0, about.len() as usize + 1).map_err(|e| unreadable(&found.path, &e))?;
    Ok((bytes.len() as u64 == about.len() && same(found, about)).then_some(bytes))
}

fn sum(found: &Found, bytes: &[u8]) -> FileSum {
    FileSum {
        path: found.name.clone(),
        size: bytes.len() as u64,
        crc64nvme: crc64nvme_text(crc64nvme(bytes)),
        strong: Strong::Whole(sha256_hex(bytes)),
    }
}
