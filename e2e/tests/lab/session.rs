//! The lab that all cases share, and how a case becomes a trial.

use crate::evidence;
use anyhow::{Context, Result, anyhow};
use gpujob_e2e::lab::Lab;
use libtest_mimic::{Failed, Trial};
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// Brought up and installed by the first case that needs it.
#[derive(Default)]
pub(crate) struct Session {
    lab: OnceCell<Result<Lab, String>>,
    ended: Mutex<bool>,
}

/// What a case gets.
#[derive(Clone)]
pub(crate) struct Given {
    /// The lab, with GpuJob installed.
    pub(crate) lab: Lab,
    /// The administrator's client.
    pub(crate) client: kube::Client,
    session: Arc<Session>,
}

impl Session {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    async fn given(self: &Arc<Self>) -> Result<Given> {
        let started = self.lab.get_or_init(|| async { start().await.map_err(|error| format!("{error:#}")) }).await;
        let lab = started.clone().map_err(|error| anyhow!("the lab did not come up: {error}"))?;
        let client = lab.client().await?;
        Ok(Given { lab, client, session: self.clone() })
    }

    /// Takes the lab down, if it was brought up and is not down yet.
    pub(crate) fn end(&self) -> Result<()> {
        let mut ended = self.ended.lock().map_err(|_| anyhow!("poisoned"))?;
        if self.lab.get().is_none() || std::mem::replace(&mut *ended, true) {
            return Ok(());
        }
        let down = RUNTIME.block_on(Lab::default().down());
        if let Err(error) = &down {
            eprintln!("error: {error:#}");
        }
        down
    }
}

impl Given {
    /// Takes the lab down; the session knows of it.
    pub(crate) async fn down(&self) -> Result<()> {
        *self.session.ended.lock().map_err(|_| anyhow!("poisoned"))? = true;
        self.lab.down().await
    }
}

async fn start() -> Result<Lab> {
    eprintln!("lab up");
    let lab = Lab::up().await?;
    eprintln!("install");
    lab.install().await.context("install")?;
    Ok(lab)
}

/// A trial that runs with the lab.
pub(crate) fn case<F>(session: &Arc<Session>, name: &str, run: fn(Given) -> F) -> Trial
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (session, case) = (session.clone(), name.to_owned());
    let trial = move || async move {
        let given = session.given().await?;
        let result = run(given.clone()).await;
        if result.is_err() {
            // Beside the failure itself, which must be told whatever becomes of this.
            match evidence::keep(&given, &case).await {
                Ok(folder) => eprintln!("{case} failed: what the cluster looked like is in {}", folder.display()),
                Err(error) => eprintln!("{case} failed, and the cluster could not be asked how it looks: {error:#}"),
            }
        }
        result
    };
    Trial::test(name, move || block_on(trial()))
}

/// Runs a case to its end.
pub(crate) fn block_on(case: impl Future<Output = Result<()>>) -> Result<(), Failed> {
    RUNTIME.block_on(case).map_err(|error| Failed::from(format!("{error:#}")))
}
