//! All of a job's inputs: listed, then downloaded, at the same time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::Cache;
use crate::crew;
use crate::progress::{Meter, count, say, size};
use crate::receipt::{Outcome, Receipt, Role};
use crate::store::ObjectStore;
use crate::store::location::{Location, Scheme};

use super::download::{self, Shelf, Wanted};
use super::{Context, Fault, open, stage};

/// Downloads at a time: small files wait for answers most of the time.
const THREADS: usize = 16;
/// At most, of small files from a store that is far away.
const MOST: usize = 48;
/// Most connections that write one file: more of them wait for each other in the kernel.
const WRITERS: usize = 4;

/// What each input consists of, in the inputs' order. Nothing is written.
///
/// # Errors
/// A missing input, and the stores'.
pub(super) fn listed(context: &Context) -> Result<Vec<Vec<Wanted>>, Fault> {
    let buckets: Mutex<HashMap<(Scheme, String), Arc<dyn ObjectStore>>> = Mutex::default();
    crew::run(THREADS, context.spec.inputs.iter().collect(), |input| {
        if input.from.starts_with("https://") || input.from.starts_with("http://") {
            return download::of_url(input);
        }
        let place = Location::parse(&input.from).map_err(|e| Fault::invalid(e.to_string()))?;
        let bucket = (place.scheme, place.bucket.clone());
        let store = {
            let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
            match buckets.get(&bucket) {
                Some(store) => store.clone(),
                None => {
                    let store: Arc<dyn ObjectStore> = Arc::from(open(&place, None)?);
                    buckets.insert(bucket, store.clone());
                    store
                }
            }
        };
        download::list(input, store, &place)
    })
}

/// The node's cache, if an input asks for it.
fn shelf(context: &Context) -> Option<Shelf> {
    if !context.spec.inputs.iter().any(|input| input.cache) {
        return None;
    }
    let cache = Cache::from_env()?;
    // What a name of a bucket means depends on these.
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let stores = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"].map(env);
    Some(Shelf { cache, scope: [vec![context.spec.job.namespace.clone()], stores.to_vec()].concat() })
}

/// Downloads every input.
///
/// # Errors
/// A missing input, damaged bytes, a full disk, and the stores'.
pub(super) fn fetch(context: &Context) -> Result<Receipt, Fault> {
    let found = listed(context)?;
    for (input, objects) in context.spec.inputs.iter().zip(&found) {
        stage::prepare(Path::new(&input.path));
        let bytes = objects.iter().map(|w| w.size).sum();
        // Without a query, which may be a signature.
        let from = input.from.split('?').next().unwrap_or_default();
        say(&format!("{from}: {}, {} to {}", count(objects.len() as u64, "object"), size(bytes), input.path));
    }
    let wanted: Vec<Wanted> = found.into_iter().flatten().collect();
    let (files, bytes) = (wanted.len() as u64, wanted.iter().map(|w| w.size).sum());
    let meter = Meter::new("fetched", files, bytes);
    // One stream a file, where there are enough files.
    let large = wanted.iter().filter(|w| w.size > download::LARGE).count();
    let writers = (THREADS / 2 / large.max(1)).clamp(1, WRITERS);
    let shelf = shelf(context);
    let fetch = |one: Wanted| one.fetch(&meter, writers, shelf.as_ref());
    let done = match large {
        0 => crew::widening(crew::Limits { first: THREADS, most: MOST }, wanted, fetch),
        _ => crew::run(THREADS / 2, wanted, fetch),
    };
    for input in &context.spec.inputs {
        download::tidy(Path::new(&input.path));
    }
    let done = done?;
    let bytes = done.iter().map(|fetched| fetched.size).sum();
    let unchecked = done.iter().filter(|fetched| !fetched.checked).count();
    let seconds = context.started.elapsed().as_secs_f64();
    let mut message = format!("fetched {}, {} in {seconds:.1} s", count(files, "file"), size(bytes));
    let cached = done.iter().filter(|fetched| fetched.cached).count() as u64;
    if cached > 0 {
        message.push_str(&format!("; {} from the node's cache", count(cached, "file")));
    }
    if unchecked > 0 {
        message.push_str(&format!("; {unchecked} could not be checked: the store keeps no checksum of their bytes"));
    }
    say(&message);
    let mut receipt = Receipt::new(Role::Fetch, Outcome::Done, message);
    (receipt.files, receipt.bytes) = (files, bytes);
    Ok(receipt)
}
