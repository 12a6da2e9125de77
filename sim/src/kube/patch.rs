//! Patches that are no apply: merge (RFC 7386), JSON (RFC 6902) and strategic merge.

use super::refusal::Refusal;
use super::shape::{Keys, Listed, Shape};
use json_patch::{Patch, PatchOperation};
use serde_json::{Value, json};

/// RFC 7386.
pub(crate) fn merge(object: &mut Value, patch: &Value) -> Result<(), Refusal> {
    if !patch.is_object() {
        return Err(Refusal::bad_request("json: cannot unmarshal into Go value of type map[string]interface {}"));
    }
    json_patch::merge(object, patch);
    Ok(())
}

/// RFC 6902, with the one thing that the server's library reads otherwise: a test for `null` holds where nothing is.
pub(crate) fn operations(object: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let patch: Patch = serde_json::from_value(patch.clone()).map_err(|e| Refusal::bad_request(format!("error decoding patch: {e}")))?;
    for operation in patch.0 {
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none_or(Value::is_null)
        {
            continue;
        }
        // A field that is not there is replaced as if it were.
        let operation = match operation {
            PatchOperation::Replace(new) if object.pointer(new.path.as_str()).is_none() => {
                let path = new.path.as_str();
                let held = path.rsplit_once('/').and_then(|(holder, _)| object.pointer(holder)).is_some_and(Value::is_object);
                if !held {
                    return Err(unprocessable());
                }
                PatchOperation::Add(json_patch::AddOperation { path: new.path, value: new.value })
            }
            other => other,
        };
        json_patch::patch(object, &[operation]).map_err(|_| unprocessable())?;
    }
    Ok(())
}

/// The words are the same whatever did not fit: clients tell it by its code.
fn unprocessable() -> Refusal {
    let message = "the server rejected our request due to an error in our request";
    Refusal { details: json!({}), ..Refusal::new(422, "Invalid", message) }
}

/// A merge patch that knows lists whose items have keys. Directives: `$patch: delete` of an item; no others are known here.
pub(crate) fn strategic(object: &mut Value, patch: &Value, shape: Shape<'_>) -> Result<(), Refusal> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(Refusal::bad_request("a strategic merge patch is an object"));
    };
    for (name, value) in patch {
        if let Some(directive) = name.strip_prefix('$') {
            return Err(Refusal::bad_request(format!("this API server does not know the directive ${directive} here")));
        }
        let inner = shape.field(name);
        match (object.get_mut(name), value) {
            (_, Value::Null) => drop(object.shift_remove(name)),
            (Some(there @ Value::Object(_)), Value::Object(_)) => strategic(there, value, inner)?,
            (Some(Value::Array(there)), Value::Array(items)) => match inner.list() {
                Listed::Keyed(keys) => keyed(there, items, keys, inner)?,
                Listed::Set => items.iter().for_each(|item| {
                    if !there.contains(item) {
                        there.push(item.clone());
                    }
                }),
                Listed::Atomic => *there = items.clone(),
            },
            _ => {
                let mut new = json!({});
                json_patch::merge(&mut new, &json!({ name: value }));
                object.insert(name.clone(), new[name].take());
            }
        }
    }
    Ok(())
}

fn keyed(there: &mut Vec<Value>, items: &[Value], keys: Keys<'_>, shape: Shape<'_>) -> Result<(), Refusal> {
    for item in items {
        let at = there.iter().position(|t| keys.of(t) == keys.of(item));
        match at {
            Some(at) if item["$patch"] == "delete" => drop(there.remove(at)),
            None if item["$patch"] == "delete" => {}
            Some(at) => strategic(&mut there[at], item, shape.item())?,
            None => there.push(item.clone()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::resource::named;
    use super::*;

    #[test]
    fn tests_hold_or_refuse_the_whole_patch() {
        let object = json!({"metadata": {"name": "a"}});
        let add = json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["x"]},
        ]);
        let mut once = object.clone();
        operations(&mut once, &add).expect("nothing is there");
        assert_eq!(once["metadata"]["finalizers"], json!(["x"]));
        assert_eq!(operations(&mut once.clone(), &add).expect_err("it is there now").code, 422);
        let take =
            json!([{"op": "test", "path": "/metadata/finalizers/0", "value": "x"}, {"op": "remove", "path": "/metadata/finalizers/0"}]);
        operations(&mut once, &take).expect("it is the first");
        assert_eq!(operations(&mut once, &take).expect_err("it is gone").code, 422);
        assert_eq!(operations(&mut once, &json!([{"op": "fly", "path": "/a"}])).expect_err("no operation").code, 400);
    }

    #[test]
    fn strategic_patches_find_items_by_their_keys() {
        let nodes = named("nodes").expect("nodes are served");
        let mut node =
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Disk", "status": "False"}]}});
        let patch =
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"$patch": "delete", "type": "Disk"}], "phase": null}});
        strategic(&mut node, &patch, Shape::root(nodes)).expect("a good patch");
        assert_eq!(node["status"], json!({"conditions": [{"type": "Ready", "status": "True", "reason": "r"}]}));
    }
}
