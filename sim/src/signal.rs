//! A value that many wait for, as `tokio::sync::watch` has it, but waking them in the order of waiting. Tokio spreads those who wait by
//! chance, and one seed would not read the same things in the same order twice.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no panic holds this lock")
    }
}

#[derive(Debug)]
struct Owner<T>(Arc<Shared<T>>);

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }
}

/// Sets the value. Clones share it; when the last is dropped, those who wait are told.
#[derive(Debug)]
pub struct Sender<T>(Arc<Owner<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T: Clone + Default> Default for Sender<T> {
    fn default() -> Self {
        Sender::new(T::default())
    }
}

/// All senders are gone: it changes no more.
#[derive(Debug)]
pub struct Closed;

/// The value as it was when it was looked at.
#[derive(Debug)]
pub struct Seen<T>(T);

impl<T> Deref for Seen<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A sender and a receiver that has seen the first value.
pub fn channel<T: Clone>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T: Clone> Sender<T> {
    /// With this value.
    pub fn new(value: T) -> Self {
        let state = Mutex::new(State { value, version: 0, closed: false });
        Sender(Arc::new(Owner(Arc::new(Shared { state, changed: Notify::new() }))))
    }

    /// Changes the value and tells those who wait if `change` says that it did.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let shared = &self.0.0;
        {
            let mut state = shared.lock();
            if !change(&mut state.value) {
                return false;
            }
            state.version += 1;
        }
        shared.changed.notify_waiters();
        true
    }

    /// Changes the value and tells those who wait.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Puts this value there. Returns the one before.
    pub fn send_replace(&self, value: T) -> T {
        let mut old = None;
        self.send_modify(|there| old = Some(std::mem::replace(there, value)));
        old.expect("it was replaced")
    }

    /// The value now.
    pub fn borrow(&self) -> Seen<T> {
        Seen(self.0.0.lock().value.clone())
    }

    /// One who waits from now on.
    pub fn subscribe(&self) -> Receiver<T> {
        let version = self.0.0.lock().version;
        Receiver { shared: self.0.0.clone(), version }
    }
}

/// Waits for changes.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    version: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { shared: self.shared.clone(), version: self.version }
    }
}

impl<T: Clone> Receiver<T> {
    /// The value now.
    pub fn borrow(&self) -> Seen<T> {
        Seen(self.shared.lock().value.clone())
    }

    /// The value now, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Seen<T> {
        let state = self.shared.lock();
        self.version = state.version;
        Seen(state.value.clone())
    }

    /// Waits for a value that was not seen yet, which counts as seen then.
    ///
    /// # Errors
    /// It changes no more.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Listens before it looks: what changes in between is not missed.
            let told = self.shared.changed.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.version != self.version {
                    self.version = state.version;
                    return Ok(());
                }
                if state.closed {
                    return Err(Closed);
                }
            }
            told.await;
        }
    }

    /// Waits until the value is as wanted, and returns it.
    ///
    /// # Errors
    /// It changes no more, and is not.
    pub async fn wait_for(&mut self, wanted: impl Fn(&T) -> bool) -> Result<Seen<T>, Closed> {
        loop {
            let seen = self.borrow_and_update();
            if wanted(&seen) {
                return Ok(seen);
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_woken_in_their_order() {
        let (sender, receiver) = channel(0);
        let woken = Arc::new(Mutex::new(vec![]));
        let waiting: Vec<_> = (0..20)
            .map(|n| {
                let (mut receiver, woken) = (receiver.clone(), woken.clone());
                tokio::spawn(async move {
                    receiver.changed().await.expect("a change");
                    woken.lock().expect("lock").push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_modify(|value| *value += 1);
        for one in waiting {
            one.await.expect("no panic");
        }
        assert_eq!(*woken.lock().expect("lock"), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_once_and_the_end_is_told() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(sender.send_replace(2), 1);
        assert!(receiver.changed().await.is_ok());
        assert_eq!(*receiver.borrow(), 2);
        assert!(!sender.send_if_modified(|_| false));
        drop(sender);
        assert!(receiver.changed().await.is_err());
        assert!(receiver.wait_for(|value| *value == 2).await.is_ok());
    }
}
