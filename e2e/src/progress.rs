//! What a person sees while the lab works: each step when it ends, and a sign of life while a long one runs.

use crate::process::Ended;
use anyhow::{Context, Result};
use std::future::Future;
use std::time::{Duration, Instant};

const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Runs one step and prints its name and seconds when it ends; every 10 s it says that it is still running.
///
/// # Errors
/// The step's own, with the step's name in front.
pub async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let mut work = std::pin::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            () = tokio::time::sleep(SIGN_OF_LIFE) => eprintln!("  …  {name}: {:.0} s so far", started.elapsed().as_secs_f64()),
        }
    };
    let mark = if outcome.is_ok() { "ok" } else { "!!" };
    eprintln!("  {mark} {name:<44} {:>6.1} s", started.elapsed().as_secs_f64());
    outcome.with_context(|| name.to_owned())
}

/// Calls `probe` until it answers yes, for at most `limit`, or until a process that it needs has [`Ended`].
///
/// # Errors
/// The time is over; the error ends with what the last probe said.
pub async fn until<F, P>(what: &str, limit: Duration, mut probe: P) -> Result<()>
where
    P: FnMut() -> F,
    F: Future<Output = Result<()>>,
{
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) if started.elapsed() > limit => {
                return Err(error.context(format!("{what} did not come within {} s", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_until_it_holds_and_no_longer() {
        let mut calls = 0;
        let held = until("three calls", Duration::from_secs(5), || {
            calls += 1;
            let calls = calls;
            async move { if calls == 3 { Ok(()) } else { anyhow::bail!("not yet") } }
        });
        assert!(held.await.is_ok());
        let never = until("nothing", Duration::from_millis(10), || async { anyhow::bail!("still not") });
        let error = never.await.expect_err("it never holds");
        assert!(format!("{error:#}").contains("still not"), "{error:#}");
    }
}
