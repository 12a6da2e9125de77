//! Object stores: what the roles need of one, whatever its protocol.

use std::ops::ControlFlow;

use crate::checksum::{Check, Stored};
use crate::spec::Integrity;

pub mod clock;
pub mod conditional;
mod error;
pub mod gcs;
pub mod https;
pub mod location;
pub mod reach;
pub mod s3;
pub mod stretch;
mod wire;

pub use error::{Class, StoreError};
use location::{Location, Scheme};
pub use stretch::Stretch;

/// What a store says about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Size in bytes.
    pub size: u64,
    /// Opaque version for [`Condition::Version`]: an ETag with its quotes.
    pub version: String,
    /// Checksums kept with it.
    pub sums: Stored,
}

/// When a conditional write may happen.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// Only if there is no such object.
    Absent,
    /// Only if the object still has this version.
    Version(&'a str),
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Key and size, in the store's order.
    pub objects: Vec<(String, u64)>,
    /// Give it to the next call; none when this was the last page.
    pub next: Option<String>,
}

/// Number (from 1) and ETag of each part of an upload.
pub type Parts = Vec<(u32, String)>;

/// Takes the bytes of a download; `Break` ends it with [`Class::Stopped`].
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> ControlFlow<()>;

/// One bucket. Every call repeats itself on failures that may pass, and returns when it has used up its tries.
///
/// A conditional write that was repeated may find its own first try: [`Class::PreconditionFailed`] means "read again",
/// not "lost". `complete_upload` and `copy` may be called again after they succeeded; then they find their source gone.
pub trait ObjectStore: Send + Sync {
    /// `s3://bucket/key`, for people.
    fn name(&self, key: &str) -> String;

    /// Size, version and checksums; `None` when there is no such object.
    fn head(&self, key: &str) -> Result<Option<Info>, StoreError>;

    /// Streams an object in order, and goes on where it was when the connection breaks.
    fn get(&self, key: &str, sink: Sink<'_>) -> Result<Info, StoreError>;

    /// Whether [`ObjectStore::get_range`] works here.
    fn ranged(&self) -> bool {
        false
    }

    /// Streams `length` bytes from `from` on, of that version of an object that has them, and goes on where it was when the connection
    /// breaks. [`Class::PreconditionFailed`] when it was replaced.
    fn get_range(&self, key: &str, _version: &str, _from: u64, _length: u64, _sink: Sink<'_>) -> Result<(), StoreError> {
        Err(StoreError {
            class: Class::NotImplemented,
            request: format!("GET {}", self.name(key)),
            status: 0,
            code: String::new(),
            detail: "this store gives whole objects only".into(),
        })
    }

    /// What uploads are checked by, as `crc64nvme`. Where that is not known, the first call asks with a write that must be
    /// refused, below the folder that the store was opened for.
    ///
    /// # Errors
    /// Those of a write, and [`Class::NotHonoured`] when the job asks for a kind that this store does not check.
    fn integrity(&self) -> Result<&'static str, StoreError>;

    /// A version that no object has.
    fn no_version(&self) -> String;

    /// Bytes `from` to (not with) `to` of an object: all of them, or an error.
    fn read_range(&self, key: &str, from: u64, to: u64) -> Result<Vec<u8>, StoreError> {
        let (mut at, mut bytes) = (0u64, Vec::new());
        let done = self.get(key, &mut |piece| {
            let (first, last) = (from.clamp(at, at + piece.len() as u64), to.clamp(at, at + piece.len() as u64));
            bytes.extend_from_slice(&piece[(first - at) as usize..(last - at) as usize]);
            at += piece.len() as u64;
            if at >= to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match done {
            Err(e) if e.class != Class::Stopped => Err(e),
            _ if bytes.len() as u64 == to - from => Ok(bytes),
            _ => Err(StoreError {
                class: Class::Refused,
                request: format!("GET {}", self.name(key)),
                status: 0,
                code: String::new(),
                detail: format!("it has no bytes {from} to {to}"),
            }),
        }
    }

    /// Writes an object, checked by [`ObjectStore::integrity`]. Returns its version.
    fn put(&self, key: &str, body: &[u8]) -> Result<String, StoreError>;

    /// Writes an object only if the condition holds. Returns its version.
    fn put_if(&self, key: &str, body: &[u8], condition: Condition<'_>) -> Result<String, StoreError>;

    /// Lists what begins with `prefix`, a page a call.
    fn list(&self, prefix: &str, page: Option<&str>) -> Result<Page, StoreError>;

    /// Begins a multipart upload. Returns its id.
    fn create_upload(&self, key: &str) -> Result<String, StoreError>;

    /// Sends part `number` (from 1). Returns what `complete_upload` needs of it: an ETag, mostly.
    fn upload_part(&self, key: &str, upload: &str, number: u32, body: &[u8]) -> Result<String, StoreError>;

    /// As [`ObjectStore::put`], from a file, of which no more than a buffer is in memory: a part of a large file may have hundreds of MiB.
    /// [`Class::BadDigest`] when the file has changed since its sums were taken.
    fn put_stretch(&self, key: &str, body: &Stretch<'_>) -> Result<String, StoreError>;

    /// As [`ObjectStore::upload_part`], from a file, as [`ObjectStore::put_stretch`].
    fn upload_stretch(&self, key: &str, upload: &str, number: u32, body: &Stretch<'_>) -> Result<String, StoreError>;

    /// Number and ETag of every part that an upload has. `None`: there is no such upload, or the store cannot say; begin anew.
    fn list_parts(&self, _key: &str, _upload: &str) -> Result<Option<Parts>, StoreError> {
        Ok(None)
    }

    /// Whether an upload with these parts can still be completed, as far as one question tells: `true` also where the store cannot
    /// say, or these keys may not ask.
    ///
    /// # Errors
    /// Those that may pass.
    fn holds_upload(&self, _key: &str, _upload: &str, _parts: &[String]) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Makes the object of these parts; a store that checks CRC-64/NVME refuses unless the whole one is `crc64nvme`.
    fn complete_upload(&self, key: &str, upload: &str, parts: &[String], crc64nvme: &str) -> Result<(), StoreError>;

    /// Forgets an upload and its parts. One that does not exist is fine.
    fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError>;

    /// Copies an object (of at most 5 GiB) within the bucket.
    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError>;

    /// Removes an object. One that does not exist is fine.
    fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// After how many days the bucket's own rules abort uploads below `prefix` that were not completed; `None` when no rule does,
    /// or the store does not say.
    fn abort_days(&self, _prefix: &str) -> Result<Option<u32>, StoreError> {
        Ok(None)
    }
}

/// The store of a place, with the credentials that the environment names. Connects to nothing.
///
/// `integrity` is what the job asks for; the strongest kind that the store honours when it asks for none.
///
/// # Errors
/// [`Class::InvalidCredentials`] when there are none, [`Class::Refused`] when an endpoint is no URL.
pub fn open(
    place: &Location,
    integrity: Option<Integrity>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Box<dyn ObjectStore>, StoreError> {
    match place.scheme {
        Scheme::S3 => Ok(Box::new(s3::S3::from_env(&place.bucket, env)?.checked_by(integrity, &place.key))),
        Scheme::Gs => Ok(Box::new(gcs::Gcs::from_env(&place.bucket, env)?.checked_by(integrity, &place.key))),
    }
}

/// Reads a stretch once more, for a sum that the store checks or answers with. The bytes must be those that its own sums are of: another
/// sum, of what the file has become meanwhile, would pass, and the manifest would say what it was.
fn summed(name: &str, body: &Stretch<'_>, each: impl FnMut(&[u8])) -> Result<(), StoreError> {
    if body.read_again(each).map_err(|e| unread(name, &e))? {
        return Ok(());
    }
    Err(changed(name))
}

/// A file that was written to since its sums were taken.
fn changed(name: &str) -> StoreError {
    let detail = "the file that goes there has changed since it was summed".to_owned();
    StoreError { class: Class::BadDigest, request: format!("PUT {name}"), status: 0, code: String::new(), detail }
}

/// A file that cannot be read while it is sent.
fn unread(name: &str, error: &std::io::Error) -> StoreError {
    let detail = format!("the file that goes there cannot be read: {error}");
    StoreError { class: Class::Refused, request: format!("PUT {name}"), status: 0, code: String::new(), detail }
}

/// What begins the name of every object that lives only while a store is being asked something, below a destination's folder.
pub const PROBES: &str = ".gpujob/check-";

/// A new key for such an object, below `folder` (empty or with a slash at its end). Its name has the time in it, so that what a
/// killed process has left can be told from what is in use.
pub fn probe_key(folder: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format!("{folder}{PROBES}{now}-{}", crate::checksum::nonce())
}

/// When the probe of that name (without its folder) was made, in seconds since 1970.
pub fn probe_time(name: &str) -> Option<u64> {
    name.strip_prefix(PROBES)?.split_once('-')?.0.parse().ok()
}

/// How often bytes are asked for that come damaged.
pub(crate) const READINGS: usize = 3;

/// Reads a small object whole, and checks it by what the store keeps with it: a bit that flips on its way must not be taken for what was
/// written.
///
/// # Errors
/// The store's, [`Class::TooLarge`] beyond `limit` bytes, [`Class::BadDigest`] for bytes that come differently wrong each time.
pub fn read(store: &dyn ObjectStore, key: &str, limit: usize) -> Result<Option<(Vec<u8>, Info)>, StoreError> {
    let mut before: Option<Vec<u8>> = None;
    for reading in 1..=READINGS {
        let (bytes, info) = match read_once(store, key, limit) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // Replaced between its first byte and its last.
            Err(e) if e.class == Class::PreconditionFailed && reading < READINGS => continue,
            Err(e) => return Err(e),
        };
        let right = Check::against(&info.sums).is_none_or(|mut check| {
            check.update(&bytes);
            check.finish().is_ok()
        });
        // What comes twice alike is what lies there: then the sum is not of these bytes, and whoever wrote them judges.
        if right || before.as_ref() == Some(&bytes) {
            return Ok(Some((bytes, info)));
        }
        before = Some(bytes);
    }
    let detail = format!("it does not come as it was stored, {READINGS} times");
    Err(StoreError { class: Class::BadDigest, request: format!("GET {}", store.name(key)), status: 0, code: String::new(), detail })
}

fn read_once(store: &dyn ObjectStore, key: &str, limit: usize) -> Result<Option<(Vec<u8>, Info)>, StoreError> {
    let mut bytes = Vec::new();
    let answer = store.get(key, &mut |piece| {
        if bytes.len() + piece.len() > limit {
            return ControlFlow::Break(());
        }
        bytes.extend_from_slice(piece);
        ControlFlow::Continue(())
    });
    match answer {
        Ok(info) => Ok(Some((bytes, info))),
        Err(e) if e.class == Class::NotFound => Ok(None),
        Err(e) if e.class == Class::Stopped => Err(StoreError {
            class: Class::TooLarge,
            detail: format!("larger than {limit} bytes, which is not what was written there"),
            ..e
        }),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn a_file_that_has_changed_since_it_was_summed_is_told() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let stretch = Stretch::read(&file, 0, 10_000).unwrap().unwrap();
        let mut bytes = vec![];
        summed("b/k", &stretch, |piece| bytes.extend_from_slice(piece)).unwrap();
        assert_eq!(bytes, [7; 10_000]);
        (&file).rewind().unwrap();
        (&file).write_all(b"8").unwrap();
        assert_eq!(summed("b/k", &stretch, |_| {}).unwrap_err().class, Class::BadDigest);
        file.set_len(9_999).unwrap();
        assert_eq!(summed("b/k", &stretch, |_| {}).unwrap_err().class, Class::BadDigest);
    }
}
