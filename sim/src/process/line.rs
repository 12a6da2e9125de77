//! The line between one process and everything else: up, cut, or dead for ever.

use crate::signal;

/// How the line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Up,
    /// They wait.
    Cut,
    /// They wait for ever: the process is gone.
    Dead,
}

/// One process's line. Clones share it.
#[derive(Clone, Debug)]
pub struct Line(signal::Sender<State>);

impl Default for Line {
    fn default() -> Self {
        Line(signal::Sender::new(State::Up))
    }
}

impl Line {
    /// How it is now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Cuts it, or mends it. A dead one stays dead.
    pub fn cut(&self, cut: bool) {
        self.set(if cut { State::Cut } else { State::Up });
    }

    /// The process is gone.
    pub fn kill(&self) {
        self.set(State::Dead);
    }

    fn set(&self, to: State) {
        self.0.send_if_modified(|state| {
            let change = *state != State::Dead && *state != to;
            if change {
                *state = to;
            }
            change
        });
    }

    /// Waits until something may pass: for ever on a dead line.
    pub async fn passable(&self) {
        let mut state = self.0.subscribe();
        // The sender is `self`, so this fails never.
        if state.wait_for(|s| *s == State::Up).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the process is gone.
    pub async fn dead(&self) {
        let mut state = self.0.subscribe();
        let _ = state.wait_for(|s| *s == State::Dead).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn passes(line: &Line) -> bool {
        tokio::time::timeout(Duration::from_secs(1), line.passable()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_line_stays_dead() {
        let line = Line::default();
        assert!(passes(&line).await);
        line.cut(true);
        assert!(!passes(&line).await);
        line.cut(false);
        assert!(passes(&line).await);
        line.kill();
        line.cut(false);
        assert!(!passes(&line).await);
        line.dead().await;
    }
}
