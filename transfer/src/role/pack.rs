//! Small files go in packs: one object of a MiB holds many of them, so staging costs a request for hundreds of files, and the
//! commit reads many with one request.

use crate::checksum::{crc64nvme, crc64nvme_text};
use crate::epoch::{Epoch, State};
use crate::plan::{Item, Landing, Staged, landing};
use crate::receipt::reason;
use crate::store::{Class, Condition};

use super::Fault;
use super::destination::Destination;
use super::roll::{broken, read_back};
use super::walk::Found;

/// Files up to this size go in packs: above it, the bytes cost more than the request.
pub(super) const SMALL: u64 = 256 << 10;
/// Size of a pack: each thread that fills one holds it in memory.
pub(super) const PACK: u64 = 1 << 20;
/// Most files of one pack: what is lost by one that is sent again.
const FILES: usize = 4096;
/// How much of a pack the commit reads at a time: each of its threads holds that much.
const READ: u64 = 128 << 10;

/// Divides files into packs, in their order.
pub(super) fn groups(files: Vec<Found>) -> Vec<Vec<Found>> {
    let (mut groups, mut group, mut bytes) = (vec![], vec![], 0);
    for found in files {
        if !group.is_empty() && (bytes + found.size > PACK || group.len() == FILES) {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += found.size;
        group.push(found);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

/// Divides packed items into runs that are read with one request: neighbours in one pack.
pub(super) fn runs(mut items: Vec<&Item>) -> Vec<Vec<&Item>> {
    fn place(item: &Item) -> Option<(&str, u64)> {
        if let Staged::Pack { key, offset } = &item.staged { Some((key, *offset)) } else { None }
    }
    items.sort_by(|a, b| place(a).cmp(&place(b)));
    let (mut runs, mut run): (Vec<Vec<&Item>>, Vec<&Item>) = (vec![], vec![]);
    for item in items {
        let Some((key, offset)) = place(item) else { continue };
        let fits = run.first().and_then(|first| place(first)).is_some_and(|(k, from)| k == key && offset + item.file.size - from <= READ);
        // A file that was left out lies between them.
        let next = run.last().and_then(|last| place(last).map(|(_, at)| at + last.file.size)) == Some(offset);
        if !(run.is_empty() || (fits && next)) {
            runs.push(std::mem::take(&mut run));
        }
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

/// Makes the files of one run visible. The name of one that is neither in its pack nor at its key is returned.
pub(super) fn land(to: &Destination, subject: &Epoch, run: &[&Item]) -> Result<Option<String>, Fault> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(None) };
    let (Staged::Pack { key, offset: from }, Staged::Pack { offset: end, .. }) = (&first.staged, &last.staged) else {
        return Err(broken("an item of a pack is in none"));
    };
    let mut bytes = Some(vec![]);
    for attempt in 0..3 {
        bytes = match to.store.read_range(&to.key(key), *from, end + last.file.size) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.class == Class::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let Some(bytes) = &bytes else { break };
        if run.iter().all(|item| piece(bytes, *from, item).is_some_and(|b| crc64nvme_text(crc64nvme(b)) == item.file.crc64nvme)) {
            break;
        }
        if attempt == 2 {
            let name = to.store.name(&to.key(key));
            return Err(Fault::passing(reason::CHECKSUM_MISMATCH, format!("{name}: other bytes than were staged, 3 times")));
        }
    }
    for item in run {
        let there = match &bytes {
            Some(bytes) => {
                let piece = piece(bytes, *from, item).ok_or_else(|| broken("a run is shorter than its files"))?;
                write(to, subject, item, piece)?
            }
            // Another roller may have finished, and the packs went because of that: what lies at the key counts.
            None => is_there(to, item, true)?,
        };
        if !there {
            return Ok(Some(item.file.path.clone()));
        }
    }
    Ok(None)
}

fn piece<'a>(bytes: &'a [u8], from: u64, item: &Item) -> Option<&'a [u8]> {
    let Staged::Pack { offset, .. } = &item.staged else { return None };
    let at = usize::try_from(offset.checked_sub(from)?).ok()?;
    bytes.get(at..at + usize::try_from(item.file.size).ok()?)
}

/// Writes one file under its key, unless it is there.
///
/// A copy within the store finds its source gone when it comes too late; these bytes travel with the request. So the first try is for
/// a key where nothing is, and over something else it is written only as the version that was seen before the epoch still said
/// `committing`: a process that slept must not write over what a later job has committed.
fn write(to: &Destination, subject: &Epoch, item: &Item, bytes: &[u8]) -> Result<bool, Fault> {
    let key = to.key(&item.file.path);
    let mut version: Option<String> = None;
    for _ in 0..20 {
        let condition = version.as_deref().map_or(Condition::Absent, Condition::Version);
        match to.store.put_if(&key, bytes, condition) {
            Ok(_) => return Ok(true),
            Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => {}
            // A store without conditions: every attempt publishes in a folder of its own there.
            Err(e) if e.class == Class::NotImplemented => {
                to.store.put(&key, bytes)?;
                return Ok(true);
            }
            Err(e) => return Err(e.into()),
        }
        if is_there(to, item, false)? {
            return Ok(true);
        }
        version = to.store.head(&key)?.map(|info| info.version);
        match to.epoch()? {
            Some((epoch, _)) if epoch.same_attempt(subject) && epoch.state == State::Committing => {}
            // Finished by another process: the file was there, and may be a later job's by now.
            _ => return Ok(true),
        }
    }
    Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("{} keeps changing", to.store.name(&key))))
}

/// Whether the key holds this very file. `gone`: its staged form was not found.
pub(super) fn is_there(to: &Destination, item: &Item, gone: bool) -> Result<bool, Fault> {
    let key = to.key(&item.file.path);
    match landing(&item.file, gone, to.store.head(&key)?.as_ref()) {
        Landing::Landed => Ok(true),
        Landing::Unproven => read_back(to, item, &key),
        Landing::Again | Landing::Lost => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{FileSum, Strong};

    fn item(pack: &str, offset: u64, size: u64) -> Item {
        let file = FileSum { path: format!("{pack}{offset}"), size, crc64nvme: String::new(), strong: Strong::Whole(String::new()) };
        Item { file, staged: Staged::Pack { key: pack.into(), offset } }
    }

    #[test]
    fn runs_are_neighbours_of_one_pack() {
        let items = [
            item("b", 0, 10),
            item("a", 50_000, 50_000),
            item("a", 0, 50_000),
            item("a", 100_000, 50_000),
            item("b", 10, 0),
            item("b", 10, 5),
            item("b", 20, 5),
        ];
        let runs = runs(items.iter().collect());
        let names: Vec<Vec<&str>> = runs.iter().map(|run| run.iter().map(|item| item.file.path.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a0", "a50000"], vec!["a100000"], vec!["b0", "b10", "b10"], vec!["b20"]]);
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(piece(&bytes, 0, &items[5]), Some(&[10, 11, 12, 13, 14][..]));
        assert_eq!(piece(&bytes, 0, &items[6]), None);
    }
}
