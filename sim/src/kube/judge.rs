//! What a schema says of one value, in the words of the server's validator.

use super::refusal::Cause;
use serde_json::{Map, Value};

/// Adds what is wrong with the value at `path`.
pub(crate) fn judge(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(cause) = mistyped(schema, value, path) {
        causes.push(cause);
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().filter(|v| !v.is_null()).map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
        causes.push(Cause { reason: "FieldValueNotSupported", message, field: path.to_owned() });
    }
    match value {
        Value::Object(map) => judge_map(schema, map, path, causes),
        Value::Array(items) => judge_list(schema, items, path, causes),
        Value::String(text) => judge_text(schema, text, path, causes),
        Value::Number(_) => judge_number(schema, value, path, causes),
        _ => {}
    }
}

fn mistyped(schema: &Value, value: &Value, path: &str) -> Option<Cause> {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if schema["x-kubernetes-int-or-string"] == true && matches!(is, "integer" | "string") {
        return None;
    }
    let wanted = if schema["x-kubernetes-int-or-string"] == true { "integer,string" } else { schema["type"].as_str()? };
    if wanted == is || (wanted == "number" && is == "integer") {
        return None;
    }
    // The value's type is told, not the value.
    let message = format!("Invalid value: {is:?}: {path} in body must be of type {wanted}: {is:?}");
    Some(Cause { reason: "FieldValueTypeInvalid", message, field: path.to_owned() })
}

fn judge_map(schema: &Value, map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            causes.push(Cause::required(&format!("{path}.{name}"), ""));
        }
    }
    let (fields, any) = (&schema["properties"], &schema["additionalProperties"]);
    for (name, inner) in map {
        if let Some(field) = fields.get(name).or_else(|| any.is_object().then_some(any)) {
            judge(field, inner, &format!("{path}.{name}"), causes);
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| map.len() as u64 > *most) {
        too_many(map.len(), most, path, causes);
    }
    if let Some(least) = schema["minProperties"].as_u64().filter(|least| (map.len() as u64) < *least) {
        causes.push(Cause::invalid(path, &map.len().to_string(), &format!("{path} in body should have at least {least} properties")));
    }
}

fn judge_list(schema: &Value, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if let Some(most) = schema["maxItems"].as_u64().filter(|most| items.len() as u64 > *most) {
        too_many(items.len(), most, path, causes);
    }
    if let Some(least) = schema["minItems"].as_u64().filter(|least| (items.len() as u64) < *least) {
        causes.push(Cause::invalid(path, &items.len().to_string(), &format!("{path} in body should have at least {least} items")));
    }
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    for (at, item) in items.iter().enumerate() {
        judge(&schema["items"], item, &format!("{path}[{at}]"), causes);
        if let Some(keys) = keys {
            let key = |item: &Value| keys.iter().filter_map(Value::as_str).map(|k| (k.to_owned(), item[k].clone())).collect::<Map<_, _>>();
            if items[..at].iter().any(|other| key(other) == key(item)) {
                let message = format!("Duplicate value: {}", Value::Object(key(item)));
                causes.push(Cause { reason: "FieldValueDuplicate", message, field: format!("{path}[{at}]") });
            }
        }
    }
}

fn too_many(count: usize, most: u64, path: &str, causes: &mut Vec<Cause>) {
    let message = format!("Too many: {count}: must have at most {most} items");
    causes.push(Cause { reason: "FieldValueTooMany", message, field: path.to_owned() });
}

fn judge_text(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        let message = format!("Too long: may not be more than {most} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", message, field: path.to_owned() });
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        causes.push(Cause::invalid(path, &format!("{text:?}"), &format!("{path} in body should be at least {least} chars long")));
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        // Told by its last name alone, unlike everything else.
        let last = path.rsplit('.').next().unwrap_or(path);
        let message = format!("Invalid value: {text:?}: {last} in body must be of type date-time: {text:?}");
        causes.push(Cause { reason: "FieldValueTypeInvalid", message, field: path.to_owned() });
    }
}

fn judge_number(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = value.as_f64().unwrap_or_default();
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        causes.push(Cause::invalid(path, &value.to_string(), &format!("{path} in body should be less than or equal to {most}")));
    }
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        causes.push(Cause::invalid(path, &value.to_string(), &format!("{path} in body should be greater than or equal to {least}")));
    }
}
