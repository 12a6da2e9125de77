//! Where keys and tokens come from, and how they are kept fresh: static ones, a mounted Secret, and the identities that
//! clusters lend to pods. Never the instance's own metadata at AWS: its keys are the node's, not the job's.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub mod aws;
mod exchange;
mod folder;
pub mod google;
#[cfg(test)]
mod lender;
mod pod_identity;
mod web_identity;

/// How long before its end a loan is renewed, if it lasts that long.
const AHEAD: Duration = Duration::from_secs(300);
/// How long a failed renewal is left alone while the old value still serves.
const AGAIN: Duration = Duration::from_secs(20);
/// A value younger than this was not what a store has refused: another thread has renewed it meanwhile.
const YOUNG: Duration = Duration::from_secs(1);

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// None are configured, or they are refused: somebody must mend it.
    #[error("{0}")]
    Wrong(String),
    /// Whoever lends them does not answer, or asks to come again.
    #[error("{0}")]
    Passing(String),
}

/// Keys or a token, and when to ask for new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan<T> {
    /// What was lent.
    pub value: T,
    /// When to ask again; never when absent.
    pub renew: Option<SystemTime>,
}

impl<T> Loan<T> {
    /// A loan that ends then: renewed five minutes before, or after half of a shorter one.
    fn until(value: T, end: SystemTime) -> Loan<T> {
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        Loan { value, renew: Some(end - AHEAD.min(left / 2)) }
    }
}

/// Lends keys or tokens.
pub trait Source<T>: Send + Sync {
    /// Asks for a value.
    ///
    /// # Errors
    /// See [`CredentialError`].
    fn borrow(&self) -> Result<Loan<T>, CredentialError>;

    /// Asking again can answer with something else.
    fn renewable(&self) -> bool {
        true
    }
}

struct Held<T> {
    loan: Loan<T>,
    since: SystemTime,
}

/// A value that is renewed before it ends, and when a store refuses it. Shared by threads; one of them asks, the others wait.
pub struct Renewing<T> {
    source: Box<dyn Source<T>>,
    held: Mutex<Option<Held<T>>>,
}

impl<T: Clone> Renewing<T> {
    /// Asks nothing yet.
    pub fn new(source: Box<dyn Source<T>>) -> Renewing<T> {
        Renewing { source, held: Mutex::new(None) }
    }

    /// The value to use now.
    ///
    /// # Errors
    /// The source's, when there is no value yet. One that is there serves until a store refuses it.
    pub fn get(&self) -> Result<T, CredentialError> {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = SystemTime::now();
        if let Some(Held { loan, .. }) = &mut *held {
            if loan.renew.is_none_or(|at| now < at) {
                return Ok(loan.value.clone());
            }
            // Only the rest may fail now: the old value has minutes left.
            loan.renew = Some(now + AGAIN);
        }
        match (self.source.borrow(), &*held) {
            (Ok(loan), _) => Ok(held.insert(Held { loan, since: now }).loan.value.clone()),
            (Err(e), Some(old)) => {
                crate::progress::say(&format!("credentials could not be renewed, the old ones are used: {e}"));
                Ok(old.loan.value.clone())
            }
            (Err(e), None) => Err(e),
        }
    }

    /// After a store has refused the value: whether there is another one now.
    pub fn renew(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = SystemTime::now();
        if !self.source.renewable() {
            return false;
        }
        if held.as_ref().is_some_and(|held| now.duration_since(held.since).is_ok_and(|age| age < YOUNG)) {
            return true;
        }
        match self.source.borrow() {
            Ok(loan) => {
                *held = Some(Held { loan, since: now });
                true
            }
            Err(e) => {
                crate::progress::say(&format!("credentials were refused and cannot be renewed: {e}"));
                false
            }
        }
    }
}

/// Seconds since 1970 of `2026-11-23T01:02:03Z`, fractions left out; `None` when it is not of that form.
fn unix(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    let possible = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !possible || !(1970..=9999).contains(&year) || text.as_bytes().get(10) != Some(&b'T') {
        return None;
    }
    // Howard Hinnant's `days_from_civil`.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let days = (era * 146_097 + doe).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn moment(text: &str) -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_secs(unix(text)?))
}

#[cfg(test)]
#[path = "renewing_tests.rs"]
mod tests;
