//! All of a job's inputs: listed, then downloaded, at the same time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crew;
use crate::progress::{Meter, count, say, size};
use crate::receipt::{Outcome, Receipt, Role};
use crate::store::ObjectStore;
use crate::store::location::{Location, Scheme};

use super::download::{self, Wanted};
use super::{Context, Fault, open, stage};

/// Downloads at a time.
const THREADS: usize = 8;

/// What each input consists of, in the inputs' order. Nothing is written.
///
/// # Errors
/// A missing input, and the stores'.
pub(super) fn listed(context: &Context) -> Result<Vec<Vec<Wanted>>, Fault> {
    let buckets: Mutex<HashMap<(Scheme, String), Arc<dyn ObjectStore>>> = Mutex::default();
    crew::run(THREADS, context.spec.inputs.iter().collect(), |input| {
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

/// Downloads every input.
///
/// # Errors
/// A missing input, damaged bytes, a full disk, and the stores'.
pub(super) fn fetch(context: &Context) -> Result<Receipt, Fault> {
    let found = listed(context)?;
    for (input, objects) in context.spec.inputs.iter().zip(&found) {
        stage::prepare(Path::new(&input.path));
        let bytes = objects.iter().map(|w| w.size).sum();
        say(&format!("{}: {}, {} to {}", input.from, count(objects.len() as u64, "object"), size(bytes), input.path));
    }
    let wanted: Vec<Wanted> = found.into_iter().flatten().collect();
    let (files, bytes) = (wanted.len() as u64, wanted.iter().map(|w| w.size).sum());
    let meter = Meter::new("fetched", files, bytes);
    let done = crew::run(THREADS, wanted, |one| one.fetch(&meter));
    for input in &context.spec.inputs {
        download::tidy(Path::new(&input.path));
    }
    let bytes = done?.into_iter().sum();
    let seconds = context.started.elapsed().as_secs_f64();
    let message = format!("fetched {}, {} in {seconds:.1} s", count(files, "file"), size(bytes));
    say(&message);
    let mut receipt = Receipt::new(Role::Fetch, Outcome::Done, message);
    (receipt.files, receipt.bytes) = (files, bytes);
    Ok(receipt)
}
