//! Schemas that the derives cannot give: the pod template as a CRD can carry it, and free-form objects.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// What a template's metadata may say. The rest of ObjectMeta is the API server's to write, and would only be pruned later.
const METADATA: [&str; 6] = ["annotations", "creationTimestamp", "generateName", "labels", "name", "namespace"];

/// The schema of a PodTemplateSpec. It differs from what `k8s-openapi` gives in five ways:
///
/// - Every description is stripped: with them the CRD has 580 KB, and client-side apply can annotate 262,144 bytes.
/// - Quantities are int-or-string, as a Pod takes them: `cpu: 1` is what people write.
/// - Metadata has the fields that a template can use, and `creationTimestamp: null`, which older kubectls write.
/// - No `ephemeralContainers`: they belong to running pods, and no template may have them.
/// - `restartPolicy` and `nodeName` are checked here, and containers have a bound, so that CEL may walk them.
///
/// # Panics
/// When the schema of a pod template is no object; every test that makes a CRD runs this.
pub fn pod_template(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = PodTemplateSpec::json_schema(generator).to_value();
    for (pointer, bound) in [("containers", 32), ("initContainers", 32)] {
        if let Some(Value::Object(list)) = schema.pointer_mut(&format!("/properties/spec/properties/{pointer}")) {
            list.insert("maxItems".into(), bound.into());
            if let Some(Value::Object(name)) = list.get_mut("items").and_then(|items| items.pointer_mut("/properties/name")) {
                name.insert("maxLength".into(), 63.into());
            }
        }
    }
    if let Some(Value::Object(fields)) = schema.pointer_mut("/properties/spec/properties") {
        fields.shift_remove("ephemeralContainers");
    }
    trim(&mut schema);
    if let Some(Value::Object(fields)) = schema.pointer_mut("/properties/metadata/properties") {
        fields.retain(|name, _| METADATA.contains(&name.as_str()));
        fields["creationTimestamp"] = json!({"type": "string", "format": "date-time", "nullable": true});
    }
    let object = schema.as_object_mut().expect("an object schema");
    object.insert(
        "description".into(),
        "A pod template, as in batch/v1 Job. Fields are explained by `kubectl explain job.spec.template`.".into(),
    );
    let rules = json!([
        {"rule": "has(self.spec) && size(self.spec.containers) > 0", "message": "template.spec.containers must name at least one container"},
        {"rule": "!has(self.spec) || !has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Never'",
         "message": "template.spec.restartPolicy must be Never or absent: a failed program is run again as a new attempt (backoffLimit)"},
        {"rule": "!has(self.spec) || !has(self.spec.nodeName)", "message": "template.spec.nodeName must be absent: the operator chooses the node"},
    ]);
    object.insert("x-kubernetes-validations".into(), rules);
    Schema::try_from(schema).expect("a schema made of a schema")
}

/// Any JSON object, kept as it is.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

/// Strips descriptions and widens quantities, all the way down. `properties` is a map of names, not a schema: a field that
/// is called `description` stays.
fn trim(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    object.remove("description");
    if let Some(Value::Object(fields)) = object.get_mut("properties") {
        for (name, field) in fields.iter_mut() {
            trim(field);
            widen_quantity(name, field);
        }
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = object.get_mut(below) {
            trim(schema);
        }
    }
}

/// Kubernetes' own types say `string` for a quantity and read numbers too; a CRD's schema is taken at its word.
fn widen_quantity(name: &str, field: &mut Value) {
    let quantity = || Value::Object(Map::from_iter([("x-kubernetes-int-or-string".to_owned(), Value::Bool(true))]));
    match name {
        "sizeLimit" | "divisor" => *field = quantity(),
        "limits" | "requests" | "overhead" => {
            if let Some(values) = field.get_mut("additionalProperties") {
                *values = quantity();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_quantities_too() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": 1, "memory": "2Gi"}}}]}}),
        )
        .expect("a template");
        let limits =
            template.spec.and_then(|s| s.containers.into_iter().next()).and_then(|c| c.resources).and_then(|r| r.limits).expect("limits");
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1", "2Gi"));
    }
}
