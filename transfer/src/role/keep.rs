//! `keepOnFailure`: results that cannot be delivered stay on their node while somebody may mend what is in the way.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::progress::say;
use crate::receipt::{Receipt, reason};

use super::Fault;

/// First and longest time between two tries.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);

/// Does `deliver` until it succeeds, fails for good, or `limit` has passed since its first failure. It must read credentials anew each
/// time. `end` hears of another SIGTERM: then it is tried once more and no longer.
pub(super) fn until_mended(
    limit: Duration,
    end: &Receiver<()>,
    mut deliver: impl FnMut() -> Result<Receipt, Fault>,
) -> Result<Receipt, Fault> {
    let mut since: Option<Instant> = None;
    let mut pause = FIRST;
    let mut last = false;
    loop {
        let fault = match deliver() {
            Err(fault) if reason::mendable(fault.reason) => fault,
            other => return other,
        };
        let left = limit.saturating_sub(since.get_or_insert_with(Instant::now).elapsed());
        if last || left.is_zero() {
            say(&format!("not mended in {} s: the results are lost with this pod", limit.as_secs()));
            return Err(fault);
        }
        say(&format!("nothing is lost yet: {fault}; tried again for another {} s, then the results go with this pod", left.as_secs()));
        last = match end.recv_timeout(pause.min(left)) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) => true,
            // Nobody listens to signals any more: waiting goes on.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(pause.min(left));
                false
            }
        };
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::receipt::{Outcome, Role};
    use std::sync::mpsc::channel;

    fn denied() -> Fault {
        Fault::permanent(reason::ACCESS_DENIED, "no".into())
    }

    fn run(limit: u64, told: bool, answers: Vec<Result<Receipt, Fault>>) -> (Result<Receipt, Fault>, usize) {
        let (sender, end) = channel();
        if told {
            sender.send(()).unwrap();
        }
        let mut answers = answers.into_iter();
        let mut tries = 0;
        let outcome = until_mended(Duration::from_secs(limit), &end, || {
            tries += 1;
            answers.next().unwrap()
        });
        (outcome, tries)
    }

    #[test]
    fn it_ends_with_the_first_answer_that_nobody_can_mend() {
        let sealed = || Receipt::new(Role::Stage, Outcome::Sealed, "");
        assert_eq!(run(9, false, vec![Ok(sealed())]).0.unwrap(), sealed());
        assert_eq!(run(9, true, vec![Err(denied()), Ok(sealed())]).0.unwrap(), sealed());
        for fault in [
            Fault::revoked("".into()),
            Fault::permanent(reason::RESERVED_NAME, "".into()),
            Fault::passing(reason::STORE_UNAVAILABLE, "".into()),
        ] {
            let (outcome, tries) = run(9, true, vec![Err(fault.clone())]);
            assert_eq!((outcome.unwrap_err().reason, tries), (fault.reason, 1));
        }
    }

    #[test]
    fn neither_beyond_its_time_nor_beyond_a_second_signal() {
        assert_eq!(run(0, false, vec![Err(denied())]).1, 1);
        let (outcome, tries) = run(600, true, vec![Err(denied()), Err(denied())]);
        assert_eq!((outcome.unwrap_err().reason, tries), (reason::ACCESS_DENIED, 2));
    }
}
