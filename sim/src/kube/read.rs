//! Reading: one object, or a collection page by page, as of one revision.

use super::path::{Query, Target};
use super::refusal::Refusal;
use super::selectors::Selector;
use super::store::{Key, State, Stored};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use std::sync::Arc;

/// One object.
pub(crate) fn get(state: &State, target: &Target) -> Result<Bytes, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    state.get(resource, namespace, name).map(|object| object.text()).ok_or_else(|| Refusal::not_found(resource, name))
}

/// A revision in a query: absent and `0` are any.
pub(crate) fn revision(query: &Query) -> Result<u64, Refusal> {
    let text = query.get("resourceVersion").unwrap_or("0");
    let unreadable = || Refusal::bad_request(format!("invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"));
    text.parse().map_err(|_| unreadable())
}

/// A collection, or a page of it. `horizon`: nothing newer is seen.
pub(crate) fn list(state: &State, target: &Target, query: &Query, horizon: u64) -> Result<Bytes, Refusal> {
    let resource = target.resource;
    let selector = Selector::of(resource, query)?;
    let now = state.revision.min(horizon);
    let asked = revision(query)?;
    let limit = query.get("limit").and_then(|l| l.parse::<usize>().ok()).filter(|l| *l > 0);
    let (at, after) = match query.get("continue") {
        Some(token) => continued(token)?,
        None if query.get("resourceVersionMatch") == Some("Exact") => (asked, None),
        None if asked > now => return Err(too_large(asked, now)),
        None => (now, None),
    };
    if at < state.compacted.min(now) {
        let why = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        return Err(if after.is_some() { Refusal::new(410, "Expired", why) } else { Refusal::expired(at, state.compacted) });
    }
    let objects;
    let objects = if at == state.revision {
        state.of(resource)
    } else {
        objects = state.at(resource, at);
        &objects
    };
    let inside = |key: &Key| target.namespace.is_empty() || key.0 == target.namespace;
    let mut found = objects
        .iter()
        .filter(|(key, object)| inside(key) && after.as_ref().is_none_or(|after| *key > after) && selector.matches(&object.value));
    let mut page: Vec<(&Key, &Arc<Stored>)> = vec![];
    page.extend(found.by_ref().take(limit.unwrap_or(usize::MAX)));
    let rest = found.count();
    let mut metadata = json!({"resourceVersion": at.to_string()});
    if rest > 0
        && let Some((last, _)) = page.last()
    {
        metadata["continue"] = Value::from(format!("{at}:{}/{}", last.0, last.1));
        if selector.is_empty() {
            metadata["remainingItemCount"] = Value::from(rest);
        }
    }
    Ok(written(target, &metadata, &page))
}

fn written(target: &Target, metadata: &Value, page: &[(&Key, &Arc<Stored>)]) -> Bytes {
    let resource = target.resource;
    let mut out = BytesMut::new();
    let head = format!(r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#, resource.kind, resource.api_version());
    out.put_slice(head.as_bytes());
    // Items of the built-in kinds do not say what they are; they are always written with that first.
    let said = format!(r#"{{"apiVersion":"{}","kind":"{}","#, resource.api_version(), resource.kind);
    for (at, (_, object)) in page.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        let text = object.text();
        match text.strip_prefix(said.as_bytes()) {
            Some(rest) if resource.schema().is_none() => {
                out.put_u8(b'{');
                out.put_slice(rest);
            }
            _ => out.put_slice(&text),
        }
    }
    out.put_slice(b"]}");
    out.freeze()
}

fn continued(token: &str) -> Result<(u64, Option<Key>), Refusal> {
    let parse = || {
        let (at, key) = token.split_once(':')?;
        let (namespace, name) = key.split_once('/')?;
        Some((at.parse().ok()?, Some((namespace.to_owned(), name.to_owned()))))
    };
    parse().ok_or_else(|| Refusal::bad_request("continue key is not valid: illegal base64 data"))
}

fn too_large(asked: u64, current: u64) -> Refusal {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let details =
        json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    Refusal { details, ..Refusal::new(504, "Timeout", message) }
}
