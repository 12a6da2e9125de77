//! What a failed case leaves to read: by the time a person looks, the lab is gone.

use crate::session::Given;
use anyhow::Result;
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use gpujob_e2e::fault::OPERATOR_NAMESPACE;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

/// Keeps the operators' logs, the objects and EC2's instances of this moment below the cache; the folder.
pub(crate) async fn keep(given: &Given, case: &str) -> Result<PathBuf> {
    let folder = given.lab.paths.cache.join("last-failures").join(case);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let pods: Api<Pod> = Api::namespaced(given.client.clone(), OPERATOR_NAMESPACE);
    for pod in pods.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any) {
        for previous in [false, true] {
            // One that never restarted has no log of before, which is an error to the API server.
            if let Ok(log) = pods.logs(&pod, &LogParams { previous, ..LogParams::default() }).await {
                fs::write(folder.join(format!("{pod}{}.log", if previous { ".previous" } else { "" })), log)?;
            }
        }
    }
    objects::<GpuJob>(given, &folder, "gpujobs").await?;
    objects::<GpuNode>(given, &folder, "gpunodes").await?;
    objects::<GpuPool>(given, &folder, "gpupools").await?;
    objects::<Pod>(given, &folder, "pods").await?;
    objects::<Node>(given, &folder, "nodes").await?;
    objects::<Event>(given, &folder, "events").await?;
    fs::write(folder.join("ec2.json"), serde_json::to_vec_pretty(&given.lab.ec2().get("instances").await?)?)?;
    Ok(folder)
}

async fn objects<K>(given: &Given, folder: &Path, name: &str) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let all = Api::<K>::all(given.client.clone()).list(&ListParams::default()).await?;
    Ok(fs::write(folder.join(format!("{name}.json")), serde_json::to_vec_pretty(&all.items)?)?)
}
