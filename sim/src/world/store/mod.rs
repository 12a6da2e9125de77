//! Object storage in memory: conditional puts, and the truth about what was delivered.
//!
//! [`role`] plays `gpujob-transfer` over it, with that crate's own epoch, plan, manifest and receipts.

pub(super) mod checkpoints;
mod delivered;
pub(super) mod destination;
pub(super) mod role;

pub use delivered::Delivered;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The one bucket that does not exist.
pub const NO_SUCH_BUCKET: &str = "s3://no-such-bucket/";

/// All buckets. Keys are whole addresses: `s3://bucket/prefix/name`. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<Mutex<Objects>>,
    latency: Duration,
}

#[derive(Debug, Default)]
struct Objects {
    all: BTreeMap<String, Object>,
    writes: u64,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Vec<u8>,
    version: u64,
}

/// Somebody else's write came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreconditionFailed;

impl Store {
    /// Empty, with so long a round trip for each request.
    #[must_use]
    pub fn new(latency: Duration) -> Self {
        Store { objects: Arc::default(), latency }
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no panic holds this lock")
    }

    /// An object as it is now, without a request: for oracles and tests.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().all.get(key).map(|o| o.bytes.clone())
    }

    /// Puts an object without a request: what lay there before a scenario began.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        self.lock().write(key, bytes);
    }

    /// All keys below a prefix, sorted.
    #[must_use]
    pub fn below(&self, prefix: &str) -> Vec<String> {
        self.lock().all.range(prefix.to_owned()..).map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub(super) async fn get(&self, key: &str) -> Option<(Vec<u8>, u64)> {
        self.round_trip().await;
        self.lock().all.get(key).map(|o| (o.bytes.clone(), o.version))
    }

    pub(super) async fn put(&self, key: &str, bytes: &[u8]) {
        self.round_trip().await;
        self.lock().write(key, bytes);
    }

    /// Writes only if the object still has this version; `None`: only if there is none.
    pub(super) async fn put_if(&self, key: &str, bytes: &[u8], version: Option<u64>) -> Result<(), PreconditionFailed> {
        self.round_trip().await;
        let mut objects = self.lock();
        if objects.all.get(key).map(|o| o.version) != version {
            return Err(PreconditionFailed);
        }
        objects.write(key, bytes);
        Ok(())
    }

    pub(super) async fn delete(&self, key: &str) {
        self.round_trip().await;
        self.lock().all.remove(key);
    }

    /// The request reaches the store, and takes effect, at the end of this.
    async fn round_trip(&self) {
        tokio::time::sleep(self.latency).await;
    }
}

impl Objects {
    fn write(&mut self, key: &str, bytes: &[u8]) {
        self.writes += 1;
        self.all.insert(key.to_owned(), Object { bytes: bytes.to_vec(), version: self.writes });
    }
}
