//! The YAML of the three CRDs, as it is committed and installed.

use crate::{GpuJob, GpuNode, GpuPool};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The size that a CRD must stay under: client-side apply stores the whole of it in an annotation of at most 262,144 bytes.
pub const LARGEST: usize = 200_000;

/// Where the YAML is committed, relative to this crate: for people, and for the chart's template. Not the chart's `crds/`,
/// which Helm installs once and never upgrades.
pub const FOLDERS: [&str; 2] = ["yaml", "../charts/gpujob/files/crds"];

/// File name and YAML of each CRD.
///
/// # Panics
/// When a derive gives something that is no CRD; tests run this.
#[must_use]
pub fn all() -> Vec<(String, String)> {
    [GpuJob::crd(), GpuPool::crd(), GpuNode::crd()]
        .iter()
        .map(|crd: &CustomResourceDefinition| {
            let name = format!("{}.yaml", crd.metadata.name.as_deref().expect("a CRD has a name"));
            (name, serde_saphyr::to_string(crd).expect("a CRD can be written as YAML"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::Path};

    #[test]
    fn conditions_are_merged_by_type() {
        for crd in [GpuJob::crd(), GpuPool::crd(), GpuNode::crd()] {
            let crd = serde_json::to_value(crd).expect("JSON");
            let conditions = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions");
            let conditions = conditions.expect("every kind has conditions");
            assert_eq!(conditions["x-kubernetes-list-type"], "map");
            assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
        }
    }

    #[test]
    fn committed_yaml_is_generated_from_the_types() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, yaml) in all() {
            assert!(yaml.len() < LARGEST, "{name} has {} bytes", yaml.len());
            for folder in FOLDERS {
                let path = root.join(folder).join(&name);
                let committed = fs::read_to_string(&path).unwrap_or_default();
                assert!(committed == yaml, "{} is not what the types say: run `cargo run --bin crdgen`", path.display());
            }
        }
    }
}
