//! RFC 3339 times, as Kubernetes writes them: `2026-01-02T03:04:05Z`, with fractions or an offset too. Leap seconds count as the next.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, now: the clock that `taken-at` is told in.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Seconds since 1970, or `None` when the text is no such time.
pub(super) fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (time, offset) = rest.split_at(rest.find(['Z', 'z', '+', '-'])?);
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':');
    let (hour, minute): (i64, i64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let second: f64 = time.next()?.parse().ok()?;
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day) && (0..24).contains(&hour) && (0..60).contains(&minute);
    if !fits || !(0.0..61.0).contains(&second) || time.next().is_some() || date.next().is_some() {
        return None;
    }
    let east = match offset {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let east = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if offset.starts_with('-') { -east } else { east }
        }
    };
    let minutes = days(year, month, day) * 24 * 60 + hour * 60 + minute - east;
    Some(minutes as f64 * 60.0 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-03-01T00:00:00Z", 951_868_800.0),
            ("2026-11-23T01:04:02Z\n", 1_795_395_842.0),
            ("2026-11-23T01:04:02.5Z", 1_795_395_842.5),
            ("2026-11-23T03:04:02+02:00", 1_795_395_842.0),
            ("2026-11-22T20:34:02-04:30", 1_795_395_842.0),
        ] {
            assert_eq!(parse(text), Some(want), "{text}");
        }
        for bad in ["", "soon", "2026-11-23", "2026-13-23T01:04:02Z", "2026-11-23T01:04:02", "2026-11-23T25:04:02Z", "ü026-11-23T01:04:02Z"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
