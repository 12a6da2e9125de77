//! When to try again: full jitter, ten tries, and no patience with a store that has never answered. Pure.

use std::time::Duration;

use crate::store::Class;

/// Most tries of one request.
pub const TRIES: u32 = 10;
/// A store that has not answered once is given up after this long, so that a wrong endpoint shows within 30 s.
pub const FIRST_CONTACT: Duration = Duration::from_secs(15);

/// The same for a name that no name server knows: new names are known within seconds, mistyped ones never.
pub const UNKNOWN_NAME: Duration = Duration::from_secs(4);

const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(10);

/// How long to wait before the next try, or `None` to give up.
///
/// `tried` counts from 1; `contacted`: the store has answered this process before; `elapsed`: since this process first
/// asked; `random` is in 0..1.
pub fn pause(class: Class, tried: u32, contacted: bool, elapsed: Duration, random: f64) -> Option<Duration> {
    if !class.repeat() || tried >= TRIES {
        return None;
    }
    let most = CAP.min(BASE * 2u32.saturating_pow(tried - 1));
    // Half fixed, half random: a first try that fails at once must not use up all tries in milliseconds.
    let wait = most / 2 + (most / 2).mul_f64(random.clamp(0.0, 1.0));
    let patience = if class == Class::NoSuchHost { UNKNOWN_NAME } else { FIRST_CONTACT };
    if !contacted && elapsed + wait > patience {
        return None;
    }
    Some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_cannot_pass_is_not_repeated() {
        for class in [Class::AccessDenied, Class::InvalidCredentials, Class::BucketNotFound, Class::PreconditionFailed] {
            assert_eq!(pause(class, 1, true, Duration::ZERO, 0.5), None, "{class:?}");
        }
    }

    #[test]
    fn waits_grow_to_the_cap_and_end() {
        let waits: Vec<_> = (1..TRIES).map_while(|n| pause(Class::SlowDown, n, true, LONG, 1.0)).collect();
        assert_eq!(waits.len(), 9);
        assert!(waits.windows(2).all(|w| w[0] <= w[1]));
        assert_eq!(waits[0], Duration::from_millis(100));
        assert_eq!(waits[8], Duration::from_secs(10));
        assert_eq!(pause(Class::SlowDown, TRIES, true, LONG, 1.0), None);
    }

    #[test]
    fn a_store_that_never_answered_is_given_up_within_its_limit() {
        for (class, limit) in [(Class::Unreachable, FIRST_CONTACT), (Class::NoSuchHost, UNKNOWN_NAME)] {
            let mut elapsed = Duration::ZERO;
            let mut tried = 1;
            while let Some(wait) = pause(class, tried, false, elapsed, 0.9) {
                elapsed += wait;
                tried += 1;
            }
            assert!(tried > 5 && elapsed <= limit, "{class:?}: {tried} tries, {elapsed:?}");
        }
    }
}
