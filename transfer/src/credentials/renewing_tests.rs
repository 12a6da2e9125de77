#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use super::*;

/// Lends numbers: the first answers are given, after them it refuses.
struct Numbers {
    answers: Arc<Mutex<Vec<Loan<u32>>>>,
    renewable: bool,
}

impl Source<u32> for Numbers {
    fn borrow(&self) -> Result<Loan<u32>, CredentialError> {
        let mut answers = self.answers.lock().unwrap();
        if answers.is_empty() { Err(CredentialError::Passing("no more".into())) } else { Ok(answers.remove(0)) }
    }

    fn renewable(&self) -> bool {
        self.renewable
    }
}

fn renewing(loans: &[(u32, Option<i64>)], renewable: bool) -> Renewing<u32> {
    let at = |seconds: i64| {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    };
    let answers = loans.iter().map(|(value, renew)| Loan { value: *value, renew: renew.map(at) }).collect();
    Renewing::new(Box::new(Numbers { answers: Arc::new(Mutex::new(answers)), renewable }))
}

#[test]
fn a_value_serves_until_its_time_and_longer_when_there_is_no_other() {
    let numbers = renewing(&[(1, Some(100))], true);
    assert_eq!((numbers.get(), numbers.get()), (Ok(1), Ok(1)));
    let numbers = renewing(&[(1, Some(-1)), (2, Some(-1))], true);
    assert_eq!((numbers.get(), numbers.get()), (Ok(1), Ok(2)));
    // The lender does not answer any more: what was lent last is used, and it is not asked at every request.
    assert_eq!((numbers.get(), numbers.get()), (Ok(2), Ok(2)));
    assert_eq!(renewing(&[], true).get(), Err(CredentialError::Passing("no more".into())));
}

#[test]
fn a_refused_value_is_renewed_once_for_all_threads() {
    let numbers = renewing(&[(1, None), (2, None), (3, None)], true);
    numbers.get().unwrap();
    numbers.held.lock().unwrap().as_mut().unwrap().since -= Duration::from_secs(60);
    assert!(numbers.renew() && numbers.renew());
    assert_eq!(numbers.get(), Ok(2));
    let fixed = renewing(&[(1, None), (2, None)], false);
    fixed.get().unwrap();
    assert!(!fixed.renew());
}

#[test]
fn loans_are_renewed_ahead_of_their_end() {
    let end = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(Loan::until((), end).renew, Some(end - AHEAD));
    let soon = SystemTime::now() + Duration::from_secs(60);
    let renew = Loan::until((), soon).renew.unwrap();
    assert!(renew < soon && renew > SystemTime::now() + Duration::from_secs(20));
}

#[test]
fn no_time_is_too_odd() {
    crate::fuzz::fuzz!("time", |input| {
        let text = String::from_utf8_lossy(input);
        assert!(unix(&text).is_none_or(|seconds| seconds < 253_402_300_800), "{text}");
        let _ = exchange::split(&text);
    });
}

#[test]
fn times() {
    assert_eq!(unix("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(unix("2000-02-29T00:00:00Z"), Some(951_782_400));
    assert_eq!(unix("2025-12-31T23:59:59.123Z"), Some(1_767_225_599));
    for bad in ["", "soon", "2025-13-01T00:00:00Z", "2025-01-01 00:00:00", "ü025-01-01T00:00:00Z", "2000-03-00T00:00:00Z"] {
        assert_eq!(unix(bad), None, "{bad}");
    }
}
