//! The kinds that are served: the core ones that the operator and kubelets touch, and the three of gpujob.dev.

use super::schema::Schema;
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ResourceQuota, Secret, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::sync::LazyLock;

/// Brings an object of a built-in kind into the form in which the server keeps it: unknown fields dropped, times in whole seconds.
type Typed = fn(Value) -> Result<Value, serde_json::Error>;

/// One kind, and how it is served.
#[derive(Debug)]
pub struct Resource {
    /// Its place in [`all`].
    pub(crate) id: usize,
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// As in paths: `gpujobs`.
    pub plural: String,
    /// Such as `GpuJob`.
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is an endpoint of its own.
    pub status: bool,
    /// What makes its objects well formed.
    pub(crate) rules: Rules,
}

#[derive(Debug)]
pub(crate) enum Rules {
    BuiltIn(Typed),
    Custom(Box<Schema>),
}

impl Resource {
    /// `gpujobs.gpujob.dev`, or `pods`: as messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Such as `gpujob.dev/v1alpha1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn schema(&self) -> Option<&Schema> {
        match &self.rules {
            Rules::Custom(schema) => Some(schema),
            Rules::BuiltIn(_) => None,
        }
    }

    pub(crate) fn is(&self, plural: &str) -> bool {
        self.plural == plural
    }
}

fn typed<K: Serialize + DeserializeOwned>(value: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<K>(value)?)
}

static ALL: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let rows: [(&str, &str, &str, &str, bool, bool, Typed); 9] = [
        ("", "v1", "namespaces", "Namespace", false, true, typed::<Namespace>),
        ("", "v1", "nodes", "Node", false, true, typed::<Node>),
        ("", "v1", "pods", "Pod", true, true, typed::<Pod>),
        ("", "v1", "secrets", "Secret", true, false, typed::<Secret>),
        ("", "v1", "configmaps", "ConfigMap", true, false, typed::<ConfigMap>),
        ("", "v1", "serviceaccounts", "ServiceAccount", true, false, typed::<ServiceAccount>),
        ("", "v1", "resourcequotas", "ResourceQuota", true, true, typed::<ResourceQuota>),
        ("coordination.k8s.io", "v1", "leases", "Lease", true, false, typed::<Lease>),
        ("events.k8s.io", "v1", "events", "Event", true, false, typed::<Event>),
    ];
    let built_in = rows.map(|(group, version, plural, kind, namespaced, status, typed)| Resource {
        id: 0,
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        kind: kind.to_owned(),
        namespaced,
        status,
        rules: Rules::BuiltIn(typed),
    });
    let custom = [GpuJob::crd(), GpuPool::crd(), GpuNode::crd()].iter().map(custom).collect::<Vec<_>>();
    let mut all: Vec<Resource> = built_in.into_iter().chain(custom).collect();
    for (id, resource) in all.iter_mut().enumerate() {
        resource.id = id;
    }
    all
});

fn custom(crd: &CustomResourceDefinition) -> Resource {
    let version = &crd.spec.versions[0];
    let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).expect("our CRDs have schemas");
    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    Resource {
        id: 0,
        group: crd.spec.group.clone(),
        version: version.name.clone(),
        plural: crd.spec.names.plural.clone(),
        kind: crd.spec.names.kind.clone(),
        namespaced: crd.spec.scope == "Namespaced",
        status: version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
        rules: Rules::Custom(Box::new(Schema::new(schema))),
    }
}

/// Every kind that is served. Schemas and rules are compiled once for the process.
#[must_use]
pub fn all() -> &'static [Resource] {
    &ALL
}

/// The kind of this plural name (they are unique here), such as `gpujobs`.
#[must_use]
pub fn named(plural: &str) -> Option<&'static Resource> {
    ALL.iter().find(|r| r.plural == plural)
}
