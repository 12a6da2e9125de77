//! Asks providers what they make of a pool, beside the looks: one question at a time for each pool. A region that hangs costs the looks
//! at its pools two seconds each, and no other pool its turn.

use super::act::REFRESH;
use crate::capacity::{FailedCheck, PoolOffers};
use crate::context::Ctx;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{ErrorClass, Offer, Prepared, ProviderError, Scope};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a look waits for the answer. Usually it is there by then.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one question may take: the connection, the launch template and the offers, each with its own limit.
const LIMIT: Duration = Duration::from_secs(120);

/// The questions that are asked now, by the pool's name. Those that it still holds end with it.
#[derive(Debug, Default)]
pub struct Checks(Mutex<BTreeMap<String, Running>>);

#[derive(Debug)]
struct Running {
    /// UID and generation of the pool, and whether this replica may prepare it.
    of: (String, i64, bool),
    since: Instant,
    answered: watch::Receiver<()>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    /// Has the provider asked, unless it is being asked the same already. The answer is in [`Ctx::capacity`]; `Some`: since when it
    /// is owed.
    pub(super) async fn ask(&self, ctx: &Arc<Ctx>, pool: &Arc<GpuPool>, scope: &Scope, leads: bool) -> Option<Duration> {
        let (mut answered, since) = self.begin(ctx, pool, scope, leads);
        // The other end is dropped with the task, however that ends.
        tokio::time::timeout(PATIENCE, answered.changed()).await.is_err().then(|| since.elapsed())
    }

    /// Nobody wants to know any more.
    pub(super) fn forget(&self, pool: &str) {
        self.0.lock().expect("no panic holds this lock").remove(pool);
    }

    fn begin(&self, ctx: &Arc<Ctx>, pool: &Arc<GpuPool>, scope: &Scope, leads: bool) -> (watch::Receiver<()>, Instant) {
        let of = (pool.uid().unwrap_or_default(), pool.metadata.generation.unwrap_or(1), leads);
        let mut running = self.0.lock().expect("no panic holds this lock");
        if let Some(known) = running.get(&pool.name_any()).filter(|r| r.of == of && !r.task.is_finished()) {
            return (known.answered.clone(), known.since);
        }
        let (done, answered) = watch::channel(());
        let (ctx, asked, scope) = (ctx.clone(), pool.clone(), scope.clone());
        let task = tokio::spawn(async move {
            let _done = done;
            ask(&ctx, &asked, &scope, leads).await;
        });
        let since = Instant::now();
        running.insert(pool.name_any(), Running { of, since, answered: answered.clone(), task });
        (answered, since)
    }
}

async fn ask(ctx: &Ctx, pool: &GpuPool, scope: &Scope, leads: bool) {
    let (name, uid, generation) = (pool.name_any(), pool.uid().unwrap_or_default(), pool.metadata.generation.unwrap_or(1));
    let listed = ctx.clock.now();
    let answer = tokio::time::timeout(LIMIT, check(ctx, pool, scope, leads)).await.unwrap_or_else(|_| Err(no_answer(LIMIT)));
    match answer {
        Ok(None) => ctx.capacity.checked(&name, None),
        Ok(Some((prepared, offers))) => {
            let before = ctx.capacity.offers(&name);
            let first = before.is_none();
            if before.is_some_and(|b| b.generation != generation || b.prepared != prepared) {
                ctx.capacity.unblock_pool(&name); // what was refused was another setting
            }
            ctx.capacity.checked(&name, None);
            ctx.capacity.set_offers(&name, PoolOffers { uid, generation, prepared, offers, listed });
            if first {
                let _ = ctx.queues.scheduler.send(());
            }
        }
        Err(error) => {
            tracing::debug!(pool = name, class = error.class.reason(), %error, "checking the pool");
            let now = ctx.clock.now();
            let until = now.saturating_add(error.class.first_wait().min(REFRESH)).unwrap_or(now);
            ctx.capacity.checked(&name, Some(FailedCheck { uid, generation, error, until }));
        }
    }
}

/// What a question says of itself that has no answer after so long.
pub(super) fn no_answer(after: Duration) -> ProviderError {
    let message =
        format!("the provider has not answered for {} s: see its region's health and the network; it is asked again", after.as_secs());
    ProviderError::new(ErrorClass::Unknown, message)
}

/// What the provider makes of the settings now, and what it sells. Followers do not prepare: that writes in the cloud.
async fn check(ctx: &Ctx, pool: &GpuPool, scope: &Scope, leads: bool) -> Result<Option<(Prepared, Arc<Vec<Offer>>)>, ProviderError> {
    let provider = ctx.clouds.machines(scope).await?;
    let prepared = if leads {
        provider.prepare(pool, &ctx.settings.cluster).await?
    } else {
        match pool.status.as_ref().and_then(|s| s.prepared.clone()) {
            Some(value) => Prepared(value),
            None => return Ok(None),
        }
    };
    let offers = provider.offers(pool, &prepared).await?;
    if offers.iter().any(|o| o.gpus <= 0) {
        return Err(ProviderError::new(ErrorClass::Invalid, "the provider offers an instance without a GPU"));
    }
    Ok(Some((prepared, Arc::new(offers))))
}

#[cfg(test)]
mod tests {
    use crate::ctx_test::{HUNG, Surroundings, WELL};
    use crate::run::controllers;
    use gpujob_crds::pool::AwsPool;
    use gpujob_crds::{GpuPool, names};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn path(name: &str) -> String {
        format!("/apis/gpujob.dev/v1alpha1/gpupools/{name}")
    }

    fn pool(s: &mut Surroundings, name: &str, region: &str) {
        let mut pool = GpuPool::new(name, Default::default());
        (pool.metadata.uid, pool.metadata.resource_version) = (Some(name.into()), Some("7".into()));
        (pool.metadata.generation, pool.metadata.finalizers) = (Some(1), Some(vec![names::POOL_FINALIZER.into()]));
        pool.spec.aws = Some(AwsPool { region: region.into(), ..Default::default() });
        s.api.put(&path(name), &pool);
        s.caches.pool(pool);
        s.ctx.queues.pools.send(name.into()).expect("open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_hangs_says_so_and_delays_no_pool_of_another() {
        let mut s = Surroundings::new();
        s.hung.hang();
        for n in 0..20 {
            pool(&mut s, &format!("hung-{n:02}"), HUNG);
        }
        pool(&mut s, "well", WELL);
        let shutdown = CancellationToken::new();
        tokio::spawn(controllers(s.ctx.clone(), s.ends.take().expect("once"), shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let said = |s: &Surroundings, name: &str| s.api.get(&path(name))["status"]["conditions"].to_string();
        assert!(said(&s, "well").contains("NoOffers"), "{}", said(&s, "well"));
        tokio::time::sleep(Duration::from_secs(55)).await;
        for n in 0..20 {
            let words = said(&s, &format!("hung-{n:02}"));
            assert!(words.contains("no connection to aws hung in time") || words.contains("has not answered"), "{n}: {words}");
        }
        shutdown.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_is_asked_once_and_said_to_be_owed() {
        let mut s = Surroundings::new();
        s.hung.hang_at("prepare");
        pool(&mut s, "p", HUNG);
        let shutdown = CancellationToken::new();
        tokio::spawn(controllers(s.ctx.clone(), s.ends.take().expect("once"), shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let words = s.api.get(&path("p"))["status"]["conditions"].to_string();
        assert!(words.contains("has not answered for 20 s"), "{words}");
        assert_eq!(s.hung.count("prepare"), 1, "{:?}", s.hung.calls());
        shutdown.cancel();
    }
}
