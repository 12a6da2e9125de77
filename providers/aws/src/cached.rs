//! One value that is fetched now and then. A launch must not wait for a price list: what is old but usable is given at
//! once, and fetched anew behind the caller's back.

use gpujob_provider_core::ProviderError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

struct Held<T> {
    at: Instant,
    fresh: Duration,
    value: Arc<T>,
}

/// A value with an age.
pub(crate) struct Cached<T> {
    /// How long a value that is not fresh any more may still be given.
    usable: Duration,
    held: Arc<Mutex<Option<Held<T>>>>,
    fetching: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Send + Sync + 'static> Cached<T> {
    pub(crate) fn new(usable: Duration) -> Self {
        Cached { usable, held: Arc::default(), fetching: Arc::default() }
    }

    /// The value, fetched if there is none that is usable. `fetch` says how long its value is fresh. Callers that come
    /// while one fetches wait for that one.
    ///
    /// # Errors
    /// What `fetch` answers, when there is nothing to give instead.
    pub(crate) async fn get<F>(&self, fetch: F) -> Result<Arc<T>, ProviderError>
    where
        F: Future<Output = Result<(T, Duration), ProviderError>> + Send + 'static,
    {
        if let Some((value, fresh)) = self.look() {
            if !fresh && let Ok(turn) = self.fetching.clone().try_lock_owned() {
                let held = self.held.clone();
                tokio::spawn(async move {
                    match fetch.await {
                        Ok((value, fresh)) => drop(put(&held, value, fresh)),
                        Err(error) => tracing::warn!(%error, "could not refresh; what is known is used"),
                    }
                    drop(turn);
                });
            }
            return Ok(value);
        }
        let _turn = self.fetching.lock().await;
        if let Some((value, _)) = self.look() {
            return Ok(value);
        }
        let (value, fresh) = fetch.await?;
        Ok(put(&self.held, value, fresh))
    }

    /// The value and whether it is fresh; nothing when it is too old.
    fn look(&self) -> Option<(Arc<T>, bool)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.as_ref()?;
        let age = held.at.elapsed();
        (age < held.fresh.max(self.usable)).then(|| (held.value.clone(), age < held.fresh))
    }
}

fn put<T>(held: &Mutex<Option<Held<T>>>, value: T, fresh: Duration) -> Arc<T> {
    let value = Arc::new(value);
    *held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Held { at: Instant::now(), fresh, value: value.clone() });
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_provider_core::ErrorClass;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn gives(value: u32, fresh: Duration) -> Result<(u32, Duration), ProviderError> {
        Ok((value, fresh))
    }

    async fn fails() -> Result<(u32, Duration), ProviderError> {
        Err(ProviderError::new(ErrorClass::Unknown, "down"))
    }

    /// Lets what was spawned run to its end: the runtime of these tests has one thread.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn old_values_are_given_while_a_new_one_is_fetched() -> Result<(), ProviderError> {
        let cached = Cached::new(10 * MINUTE);
        assert!(cached.get(fails()).await.is_err(), "nothing to give");
        assert_eq!(*cached.get(gives(1, Duration::ZERO)).await?, 1);
        assert_eq!(*cached.get(fails()).await?, 1);
        settle().await;
        assert_eq!(*cached.get(gives(2, MINUTE)).await?, 1, "a failed refresh keeps what is known");
        settle().await;
        assert_eq!(*cached.get(gives(3, MINUTE)).await?, 2, "fetched meanwhile");
        settle().await;
        assert_eq!(*cached.get(fails()).await?, 2, "fresh: nothing is fetched");
        Ok(())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_too_old_is_not_given() -> Result<(), ProviderError> {
        let cached = Cached::new(Duration::ZERO);
        assert_eq!(*cached.get(gives(1, Duration::ZERO)).await?, 1);
        assert!(cached.get(fails()).await.is_err());
        assert_eq!(*cached.get(gives(2, MINUTE)).await?, 2);
        Ok(())
    }
}
