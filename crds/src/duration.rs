//! Durations as people write them: `30s`, `5m`, `2h`, `1h30m`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr};

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(pub i64);

/// Why a string is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a duration: write it as 30s, 5m, 2h or 1h30m")]
pub struct NotADuration(String);

impl FromStr for Seconds {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let fail = || NotADuration(text.to_owned());
        let (mut total, mut number) = (0i64, String::new());
        for c in text.chars() {
            let unit = match c {
                '0'..='9' => {
                    number.push(c);
                    continue;
                }
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return Err(fail()),
            };
            let n: i64 = std::mem::take(&mut number).parse().map_err(|_| fail())?;
            total = n.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(fail)?;
        }
        if text.is_empty() || !number.is_empty() {
            return Err(fail());
        }
        Ok(Seconds(total))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (h, m, s) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        if self.0 == 0 {
            return f.write_str("0s");
        }
        for (n, unit) in [(h, 'h'), (m, 'm'), (s, 's')] {
            if n > 0 {
                write!(f, "{n}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A rule rather than a pattern, because a rule can say what to write.
        json_schema!({ "type": "string", "maxLength": 24, "x-kubernetes-validations": [{
            "rule": "self.matches('^([0-9]{1,7}h)?([0-9]{1,7}m)?([0-9]{1,7}s)?$') && size(self) > 1",
            "message": "write a duration as 30s, 5m, 2h or 1h30m",
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("0s", 0)] {
            let read: Seconds = text.parse().expect(text);
            assert_eq!((read.0, read.to_string().as_str()), (seconds, text));
        }
        for bad in ["", "5", "m", "5d", "-5m", "1.5h"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad}");
        }
    }
}
