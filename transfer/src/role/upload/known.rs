//! What was staged before: by this worker while main ran, or by one before it.

use super::super::Fault;
use super::super::walk::{Found, unreadable};
use super::reading::{piece, regular};
use super::{Stager, Staging};
use crate::checksum::{crc64nvme, crc64nvme_join, crc64nvme_text};
use crate::plan::{Item, PART, Staged};
use crate::store::Class;

impl Stager<'_> {
    /// Takes a file as it was staged before.
    pub(super) fn known(&self, found: &Found, staging: &mut Staging) -> Result<bool, Fault> {
        let Some(item) = self.ledger.find(&found.name, &found.stamp) else { return Ok(false) };
        let holds = match &item.staged {
            // Only a listing tells whether the parts of an upload are still there.
            Staged::Upload { upload_id, parts } => {
                match self.to.store.list_parts(&self.to.key(&item.file.path), upload_id) {
                    // Keys that may not ask: what is not known to be there is sent again.
                    Err(e) if e.class == Class::AccessDenied => false,
                    listed => listed?.is_some_and(|listed| listed.len() == parts.len()),
                }
            }
            Staged::Object { .. } | Staged::Pack { .. } => true,
        };
        if !holds || (self.recheck && !self.unchanged(found, &item)?) {
            return Ok(false);
        }
        self.meter.add(1, item.file.size);
        staging.items.push(item);
        Ok(true)
    }

    /// Reads a staged file again: where a write through a memory map leaves no trace in the file's times.
    fn unchanged(&self, found: &Found, item: &Item) -> Result<bool, Fault> {
        let Ok(Some(file)) = regular(&found.path) else { return Ok(false) };
        let (mut crc, mut at) = (0, 0);
        while at < item.file.size {
            self.go_on()?;
            let bytes = piece(&file, at, PART.min(item.file.size - at) as usize).map_err(|e| unreadable(&found.path, &e))?;
            if bytes.is_empty() {
                return Ok(false);
            }
            crc = if at == 0 { crc64nvme(&bytes) } else { crc64nvme_join(crc, crc64nvme(&bytes), bytes.len() as u64) };
            at += bytes.len() as u64;
        }
        Ok(crc64nvme_text(crc) == item.file.crc64nvme)
    }
}
