//! The service account controller, and the namespace controller: what lies in a namespace that is being deleted goes too, and then the namespace itself.
//! Source: `pkg/controller/namespace/deletion/namespaced_resources_deleter.go`.

use super::Inner;
use gpujob_crds::GpuJob;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, PostParams};
use kube::discovery::ApiResource;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How often it looks again, while finalizers or graces hold something.
const AGAIN: Duration = Duration::from_secs(5);

impl Inner {
    /// A namespace is there, or is going. The service account controller gives each its `default`, without which no pod is taken.
    pub(super) fn namespace(self: &Arc<Self>, namespace: &Namespace) {
        let name = namespace.name_any();
        if namespace.metadata.deletion_timestamp.is_some() {
            if self.script.namespaces {
                self.terminating(&name);
            }
            return;
        }
        let world = self.clone();
        self.spawn_on(&self.stop, async move {
            let api: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &name);
            let account = ServiceAccount {
                metadata: ObjectMeta { name: Some("default".into()), ..ObjectMeta::default() },
                ..ServiceAccount::default()
            };
            match api.create(&PostParams::default(), &account).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => {}
                Err(error) => tracing::debug!(name, %error, "service account controller"),
            }
        });
    }

    /// A namespace is terminating: empties it, for as long as that takes.
    fn terminating(self: &Arc<Self>, namespace: &str) {
        let name = namespace.to_owned();
        {
            let mut known = self.terminating.lock().expect("no panic holds this lock");
            if !known.insert(name.clone()) {
                return;
            }
        }
        let world = self.clone();
        self.spawn_on(&self.stop, async move {
            while !empty(&world, &name).await {
                sleep(AGAIN).await;
            }
            finalize(&world, &name).await;
            world.terminating.lock().expect("no panic holds this lock").remove(&name);
        });
    }
}

/// Deletes what is there; true when nothing is.
async fn empty(world: &Inner, namespace: &str) -> bool {
    let mut left = 0;
    for kind in [
        ApiResource::erase::<GpuJob>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Secret>(&()),
    ] {
        let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), namespace, &kind);
        // A kind that this server does not have is none that holds the namespace.
        let Ok(there) = api.list(&ListParams::default()).await else { continue };
        for object in there {
            left += 1;
            if object.metadata.deletion_timestamp.is_none()
                && let Err(error) = api.delete(&object.name_any(), &DeleteParams::default()).await
            {
                tracing::debug!(namespace, kind = kind.kind, %error, "namespace controller");
            }
        }
    }
    left == 0
}

/// Takes the namespace's own finalizer off, and with it the namespace away.
async fn finalize(world: &Inner, namespace: &str) {
    let api: Api<Namespace> = Api::all(world.client.clone());
    let Ok(Some(there)) = api.get_opt(namespace).await else { return };
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": []},
        "metadata": {"name": namespace, "uid": there.uid(), "resourceVersion": there.resource_version()},
    });
    let answer = api.replace_subresource("finalize", namespace, &PostParams::default(), &body).await;
    if let Err(error) = answer {
        tracing::debug!(namespace, %error, "namespace controller");
    }
}
