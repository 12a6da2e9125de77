//! How lists and maps merge under server-side apply: from a CRD's schema, or from what is known of the built-in kinds.

use super::resource::Resource;
use serde_json::{Map, Value};

/// Where in an object we are, as far as merging needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    place: Place<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    /// A node of a CRD's schema, at its root or below.
    Schema(&'a Value, bool),
    /// Below a field of this name of a built-in type. Names are enough: no two of ours differ.
    BuiltIn(&'a str),
}

/// How a list merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listed<'a> {
    /// As one value.
    Atomic,
    /// Each item is a value.
    Set,
    /// Items are told apart by these fields.
    Keyed(Keys<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys<'a> {
    Known(&'a [&'a str]),
    Schema(&'a Value),
}

impl<'a> Shape<'a> {
    pub(crate) fn root(resource: &'a Resource) -> Self {
        Shape { place: resource.schema().map_or(Place::BuiltIn(""), |schema| Place::Schema(schema.root(), true)) }
    }

    pub(crate) fn field(self, name: &'a str) -> Self {
        let place = match self.place {
            Place::Schema(_, true) if name == "metadata" => Place::BuiltIn(name),
            Place::Schema(schema, _) => match schema["properties"].get(name) {
                Some(inner) => Place::Schema(inner, false),
                None => Place::Schema(&schema["additionalProperties"], false),
            },
            Place::BuiltIn(_) => Place::BuiltIn(name),
        };
        Shape { place }
    }

    pub(crate) fn item(self) -> Self {
        let place = match self.place {
            Place::Schema(schema, _) => Place::Schema(&schema["items"], false),
            // Its fields are looked at by their own names.
            Place::BuiltIn(name) => Place::BuiltIn(name),
        };
        Shape { place }
    }

    /// Whether a map is one value.
    pub(crate) fn atomic_map(self) -> bool {
        match self.place {
            Place::Schema(schema, _) => schema["x-kubernetes-map-type"] == "atomic",
            Place::BuiltIn(name) => matches!(
                name,
                "nodeSelector"
                    | "labelSelector"
                    | "selector"
                    | "fieldRef"
                    | "resourceFieldRef"
                    | "secretKeyRef"
                    | "configMapKeyRef"
                    | "regarding"
                    | "related"
                    | "requiredDuringSchedulingIgnoredDuringExecution"
                    | "fieldsV1"
            ),
        }
    }

    /// Whether this is a map, and no struct, in Go: there all of a custom resource is maps, but its metadata.
    pub(crate) fn is_map(self) -> bool {
        match self.place {
            Place::Schema(..) => true,
            Place::BuiltIn(name) => {
                matches!(name, "data" | "binaryData" | "labels" | "annotations" | "limits" | "requests" | "capacity" | "allocatable")
            }
        }
    }

    pub(crate) fn list(self) -> Listed<'a> {
        match self.place {
            Place::Schema(schema, _) => match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => Listed::Keyed(Keys::Schema(&schema["x-kubernetes-list-map-keys"])),
                Some("set") => Listed::Set,
                _ => Listed::Atomic,
            },
            Place::BuiltIn(name) => match name {
                "finalizers" | "podCIDRs" => Listed::Set,
                "ownerReferences" => Listed::Keyed(Keys::Known(&["uid"])),
                "conditions" | "addresses" => Listed::Keyed(Keys::Known(&["type"])),
                "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" | "resourceClaims" => {
                    Listed::Keyed(Keys::Known(&["name"]))
                }
                "ports" => Listed::Keyed(Keys::Known(&["containerPort", "protocol"])),
                "volumeMounts" => Listed::Keyed(Keys::Known(&["mountPath"])),
                "volumeDevices" => Listed::Keyed(Keys::Known(&["devicePath"])),
                "podIPs" | "hostIPs" | "hostAliases" => Listed::Keyed(Keys::Known(&["ip"])),
                "topologySpreadConstraints" => Listed::Keyed(Keys::Known(&["topologyKey", "whenUnsatisfiable"])),
                _ => Listed::Atomic,
            },
        }
    }
}

impl Keys<'_> {
    /// What tells an item apart, as it is written in managed fields: `{"type":"Ready"}`.
    pub(crate) fn of(&self, item: &Value) -> String {
        let mut names: Vec<&str> = match self {
            Keys::Known(names) => names.to_vec(),
            Keys::Schema(names) => names.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        };
        names.sort_unstable();
        let mut key = Map::new();
        for name in names {
            match item.get(name) {
                Some(value) => drop(key.insert(name.to_owned(), value.clone())),
                // The one key with a default.
                None if name == "protocol" => drop(key.insert(name.to_owned(), Value::from("TCP"))),
                None => {}
            }
        }
        Value::Object(key).to_string()
    }
}
