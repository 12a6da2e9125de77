//! Launch templates: a pool's base, and one for each image that instances pull while they boot.

use super::account::Account;
use super::catalog::{REGION, ZONES};
use gpujob_crds::{GpuPool, names};
use gpujob_provider_core::{ErrorClass, Prepared, ProviderError};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::json;

/// How many variants a pool may have.
const VARIANTS: usize = 50;

/// A launch template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: String,
    /// Its name: by its content, so that one that is gone can be made again.
    pub name: String,
    /// The cluster that it is for.
    pub cluster: String,
    /// The pool that it is for.
    pub pool_uid: String,
    /// The image that it has instances pull.
    pub prefetch: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When launches may name it.
    pub(super) shown_from: Timestamp,
    /// How long its instances may live.
    pub(super) max_lifetime: SignedDuration,
}

fn invalid(message: impl Into<String>) -> ProviderError {
    ProviderError::new(ErrorClass::Invalid, message)
}

/// What launches of this pool name.
fn prepared(template: &str) -> Prepared {
    let subnets: serde_json::Map<_, _> = ZONES.iter().map(|zone| ((*zone).to_owned(), json!(format!("subnet-{zone}")))).collect();
    Prepared(json!({"v": 1, "region": REGION, "template": {"name": template, "version": "1"}, "image": "ami-fake", "subnets": subnets}))
}

impl Account {
    /// Makes the pool's base template, or finds it. Also says whether it was made.
    pub(super) fn prepare(&mut self, pool: &GpuPool, cluster: &str) -> Result<(Prepared, bool), ProviderError> {
        if pool.spec.region() != REGION {
            return Err(invalid(format!("spec.aws.region: is {}, and this provider serves {REGION}", pool.spec.region())));
        }
        let uid = pool.uid().ok_or_else(|| invalid("the pool has no UID: it was not read from a cluster"))?;
        let content = serde_json::to_string(&(&pool.spec.aws, pool.spec.max_lifetime())).expect("a spec is always JSON");
        let renewed = if self.manners.renewed == 0 { String::new() } else { self.manners.renewed.to_string() };
        let name = format!("gpujob-{}-{}-{}", short(cluster), pool.name_any(), names::digest(&[cluster, &uid, &content, &renewed], 12));
        let lifetime = SignedDuration::from_secs(pool.spec.max_lifetime());
        // A pool's base can be named as soon as the answer is there: prepare waits for it.
        let made = self.make(&name, cluster, &uid, None, lifetime, self.now);
        Ok((prepared(&name), made))
    }

    /// Removes the templates of a pool. How many there were.
    pub(super) fn release(&mut self, pool_uid: &str, cluster: &str) -> usize {
        let before = self.templates.len();
        self.templates.retain(|_, t| t.pool_uid != pool_uid || t.cluster != cluster);
        before - self.templates.len()
    }

    /// The variant of the base `of` that pulls `image`, once launches may name it. Also says whether it was made now.
    pub(super) fn prefetch(&mut self, of: &Prepared, image: &str, cluster: &str) -> (Option<Prepared>, bool) {
        let base = of.0["template"]["name"].as_str().unwrap_or_default();
        let Some(base) = self.templates.get(base).filter(|_| self.manners.prefetches).cloned() else { return (None, false) };
        let name = format!("{}-{}", base.name, names::digest(&[image], 8));
        let variants = self.templates.values().filter(|t| t.pool_uid == base.pool_uid && t.prefetch.is_some()).count();
        if image.contains(char::is_whitespace) || image.is_empty() || (variants >= VARIANTS && !self.templates.contains_key(&name)) {
            return (None, false);
        }
        let shown_from = self.now + self.manners.template_lag;
        let made = self.make(&name, cluster, &base.pool_uid, Some(image), base.max_lifetime, shown_from);
        let shown = self.templates.get(&name).is_some_and(|t| t.shown_from <= self.now);
        (shown.then(|| prepared(&name)), made)
    }

    fn make(
        &mut self,
        name: &str,
        cluster: &str,
        pool_uid: &str,
        prefetch: Option<&str>,
        max_lifetime: SignedDuration,
        shown_from: Timestamp,
    ) -> bool {
        if self.templates.contains_key(name) {
            return false;
        }
        let template = Template {
            id: format!("lt-{:06}", self.number()),
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            pool_uid: pool_uid.to_owned(),
            prefetch: prefetch.map(str::to_owned),
            created: self.now,
            shown_from,
            max_lifetime,
        };
        self.templates.insert(name.to_owned(), template);
        true
    }
}

fn short(cluster: &str) -> String {
    cluster.chars().take(8).collect()
}
