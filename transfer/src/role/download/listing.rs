//! What an input consists of.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checksum::pinned;
use crate::plan::CONTROL;
use crate::receipt::reason;
use crate::spec::Input;
use crate::store::ObjectStore;
use crate::store::https::Https;
use crate::store::https::url::Url;
use crate::store::location::Location;

use super::source::Source;
use super::{Fault, Wanted};

/// The checksum that an input names.
fn pin(input: &Input) -> Result<Option<[u8; 32]>, Fault> {
    let Some(text) = &input.checksum else { return Ok(None) };
    let bad = || Fault::invalid(format!("inputs[].checksum {text:?} is not of the form sha256:<64 hex digits>"));
    pinned(text).ok_or_else(bad).map(Some)
}

/// The file at a URL. Nothing is asked yet.
pub(in crate::role) fn of_url(input: &Input) -> Result<Vec<Wanted>, Fault> {
    let url = Url::parse(&input.from).map_err(|e| Fault::invalid(format!("inputs[].from {e}")))?;
    let pin = pin(input)?.ok_or_else(|| {
        let message = format!("{} keeps no checksum of its own: add inputs[].checksum, as sha256:<hex>", url.shown());
        Fault::invalid(message)
    })?;
    let name = url.name();
    let (source, root) = (Source::Url(Https { url }), PathBuf::from(&input.path));
    Ok(vec![Wanted { source, size: 0, root, name, pin: Some(pin), kept: input.cache }])
}

/// The objects below a prefix, or the one object of that name.
pub(in crate::role) fn list(input: &Input, store: Arc<dyn ObjectStore>, place: &Location) -> Result<Vec<Wanted>, Fault> {
    let root = PathBuf::from(&input.path);
    let pin = pin(input)?;
    let one = |key: String, size, name: String| {
        let source = Source::Object { store: store.clone(), key };
        Wanted { source, size, root: root.clone(), name, pin, kept: input.cache }
    };
    let prefix = if place.key.is_empty() || place.key.ends_with('/') {
        place.key.clone()
    } else {
        // An object of that very name comes first in the listing of names that begin with it.
        let first = store.list(&place.key, None)?;
        if let Some((key, size)) = first.objects.into_iter().find(|(key, _)| *key == place.key) {
            let name = key.rsplit('/').next().unwrap_or_default().to_string();
            return Ok(vec![one(key, size, name)]);
        }
        format!("{}/", place.key)
    };
    let (mut wanted, mut page) = (vec![], None);
    loop {
        let found = store.list(&prefix, page.as_deref())?;
        for (key, size) in found.objects {
            let name = key.strip_prefix(&prefix).unwrap_or_default().to_string();
            // Another job's results are an input without its control objects.
            if !name.is_empty() && !name.starts_with(CONTROL) {
                wanted.push(one(key, size, name));
            }
        }
        page = found.next;
        if page.is_none() {
            break;
        }
    }
    if wanted.is_empty() {
        let message = format!("{}: no object is there; check inputs[].from", input.from);
        return Err(Fault::permanent(reason::INPUT_NOT_FOUND, message));
    }
    if pin.is_some() {
        let message = format!("{} is a prefix: inputs[].checksum is of one object", input.from);
        return Err(Fault::invalid(message));
    }
    Ok(wanted)
}
