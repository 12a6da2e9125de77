//! Launches that pull the job's image while the instance still boots. Which variant of a pool's settings does that is asked for in
//! the background, once for each pool and image; a launch takes it if it is there and never waits for it.

use crate::context::Ctx;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{Prepared, Scope};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The most images of one pool: the least recently used go, and the sweep removes what was made for them.
const MOST: usize = 50;
/// Pools that are remembered at all.
const MOST_POOLS: usize = 1000;
/// From a "not yet" or a failure to the next question, doubled up to the longest.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// What is known of one image in one pool.
#[derive(Clone, Debug)]
struct Variant {
    /// The pool's own settings that it was asked for: other settings, another variant.
    base: Prepared,
    ready: Option<Prepared>,
    used: Timestamp,
    asking: bool,
    /// Not asked again before, and how often it was asked in vain.
    again: Timestamp,
    vain: u32,
}

/// The variants of all pools, by the pool's UID and the image.
#[derive(Debug, Default)]
pub struct Prefetch(Mutex<BTreeMap<String, BTreeMap<String, Variant>>>);

impl Prefetch {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, Variant>>> {
        self.0.lock().expect("no panic holds this lock")
    }

    /// Notes a wish for `image`. Returns the variant, if it is there, and whether somebody should ask for it now.
    fn wish(&self, pool_uid: &str, base: &Prepared, image: &str, now: Timestamp) -> (Option<Prepared>, bool) {
        let mut pools = self.lock();
        if pools.len() >= MOST_POOLS && !pools.contains_key(pool_uid) {
            return (None, false);
        }
        let images = pools.entry(pool_uid.to_owned()).or_default();
        let fresh = Variant { base: base.clone(), ready: None, used: now, asking: false, again: now, vain: 0 };
        let known = images.entry(image.to_owned()).or_insert_with(|| fresh.clone());
        if known.base != *base && !known.asking {
            *known = fresh;
        }
        known.used = now;
        let ready = known.ready.clone().filter(|_| known.base == *base);
        let ask = ready.is_none() && !known.asking && known.again <= now;
        known.asking |= ask;
        while images.len() > MOST {
            let oldest = images.iter().filter(|(_, v)| !v.asking).min_by_key(|(_, v)| v.used).map(|(image, _)| image.clone());
            let Some(oldest) = oldest else { break };
            images.remove(&oldest);
        }
        (ready, ask)
    }

    /// The answer to a question. `None`: not there, not yet, or none came.
    fn answered(&self, pool_uid: &str, image: &str, ready: Option<Prepared>, now: Timestamp) {
        let mut pools = self.lock();
        let Some(known) = pools.get_mut(pool_uid).and_then(|images| images.get_mut(image)) else { return };
        known.asking = false;
        if ready.is_none() {
            known.again = now.saturating_add(FIRST.saturating_mul(1 << known.vain.min(6)).min(LONGEST)).unwrap_or(now);
            known.vain += 1;
        }
        known.ready = ready;
    }

    /// The variants that launches of this process may name, with their last use.
    #[must_use]
    pub fn used(&self) -> Vec<(serde_json::Value, Timestamp)> {
        self.lock().values().flat_map(BTreeMap::values).filter_map(|v| v.ready.clone().map(|p| (p.0, v.used))).collect()
    }

    /// Forgets a pool that is gone.
    pub fn forget(&self, pool_uid: &str) {
        self.lock().remove(pool_uid);
    }
}

/// What to launch with so that `image` is pulled during the boot: the variant for it, or else the pool's own settings. Never
/// waits; what is missing is asked for beside it.
pub fn prepared(ctx: &Arc<Ctx>, pool: &Arc<GpuPool>, base: &Prepared, image: Option<&str>) -> Prepared {
    let (Some(image), Some(uid)) = (image.filter(|i| !i.is_empty()), pool.uid()) else { return base.clone() };
    let (ready, ask) = ctx.prefetch.wish(&uid, base, image, ctx.clock.now());
    if ask {
        let (ctx, pool, base, image) = (ctx.clone(), pool.clone(), base.clone(), image.to_owned());
        tokio::spawn(async move {
            let scope = Scope { provider: pool.spec.provider().into(), region: pool.spec.region().into() };
            let ask = || async { ctx.clouds.machines(&scope).await?.prefetch(&pool, &base, &image, &ctx.settings.cluster).await };
            let mut answer = ask().await;
            if matches!(answer, Ok(None)) {
                // It was made just now: looked at once more, so that already the second launch has it.
                tokio::time::sleep(FIRST.unsigned_abs()).await;
                answer = ask().await;
            }
            if let Err(error) = &answer {
                tracing::info!(pool = pool.name_any(), image, %error, "prefetch: launches do without");
            }
            ctx.prefetch.answered(&uid, &image, answer.unwrap_or_default(), ctx.clock.now());
        });
    }
    ready.unwrap_or_else(|| base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("time")
    }

    fn own(name: &str) -> Prepared {
        Prepared(json!({"template": name}))
    }

    #[test]
    fn asked_once_used_when_there_and_again_for_other_settings() {
        let store = Prefetch::default();
        let wish = |base: &str, second| store.wish("p", &own(base), "cuda:1", at(second));
        assert_eq!(wish("base", 0), (None, true));
        assert_eq!(wish("base", 1), (None, false), "one question at a time");
        store.answered("p", "cuda:1", None, at(2));
        assert_eq!((wish("base", 11), wish("base", 12)), ((None, false), (None, true)), "not yet: asked again after a while");
        store.answered("p", "cuda:1", None, at(13));
        assert_eq!((wish("base", 32), wish("base", 33)), ((None, false), (None, true)), "and then less often");
        store.answered("p", "cuda:1", Some(own("variant")), at(34));
        assert_eq!(wish("base", 35), (Some(own("variant")), false));
        assert_eq!(store.used(), vec![(json!({"template": "variant"}), at(35))]);
        assert_eq!(wish("changed", 36), (None, true), "made for other settings");
    }

    #[test]
    fn the_least_recently_used_go() {
        let store = Prefetch::default();
        for n in 0..60 {
            store.wish("p", &own("base"), &format!("image:{n:02}"), at(n));
            store.answered("p", &format!("image:{n:02}"), Some(own(&format!("v{n:02}"))), at(n));
        }
        let used = store.used();
        assert_eq!((used.len(), used[0].0.clone()), (MOST, json!({"template": "v10"})));
        store.forget("p");
        assert!(store.used().is_empty());
    }
}
