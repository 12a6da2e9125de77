//! Money per hour, exact: a decimal string in the API, micro-dollars in memory.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr};

/// US dollars, usually per hour, in millionths. Written as a decimal string such as `"1.20"`, because a float loses cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i64);

impl Price {
    /// No money.
    pub const ZERO: Price = Price(0);

    /// From millionths of a dollar.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Price(micros)
    }

    /// In millionths of a dollar.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// In dollars, for metrics and for showing only.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// What `seconds` cost at this price per hour, rounded up: the bill is never understated.
    #[must_use]
    pub fn for_seconds(self, seconds: i64) -> Price {
        let total = i128::from(self.0) * i128::from(seconds.max(0));
        Price(i64::try_from((total + 3599) / 3600).unwrap_or(i64::MAX))
    }

    /// This price raised by `percent`.
    #[must_use]
    pub fn plus_percent(self, percent: i64) -> Price {
        Price(self.0.saturating_add(self.0.saturating_mul(percent) / 100))
    }
}

impl std::ops::Add for Price {
    type Output = Price;
    fn add(self, other: Price) -> Price {
        Price(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Price {
    fn sum<I: Iterator<Item = Price>>(iter: I) -> Price {
        iter.fold(Price::ZERO, |a, b| a + b)
    }
}

/// Why a string is no price.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a price: write dollars as a decimal string, such as \"1.20\"")]
pub struct NotAPrice(String);

impl FromStr for Price {
    type Err = NotAPrice;

    fn from_str(text: &str) -> Result<Self, NotAPrice> {
        let fail = || NotAPrice(text.to_owned());
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 9 || !digits(whole) || !digits(part) || (text.contains('.') && part.is_empty()) {
            return Err(fail());
        }
        // Price lists carry up to ten decimals; what is below a millionth is rounded up, so a cap is never passed unseen.
        let (kept, rest) = part.split_at(part.len().min(6));
        let mut micros: i64 = whole.parse::<i64>().map_err(|_| fail())? * 1_000_000;
        micros += format!("{kept:0<6}").parse::<i64>().map_err(|_| fail())?;
        micros += i64::from(rest.bytes().any(|b| b != b'0'));
        Ok(Price(micros))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let cut = text.trim_end_matches('0');
        // At least two decimals: money is read as dollars and cents.
        let shortest = text.len() - 4;
        f.write_str(&text[..cut.len().max(shortest)])
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Price {
    fn schema_name() -> Cow<'static, str> {
        "Price".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A rule rather than a pattern, because a rule can say what to write.
        json_schema!({ "type": "string", "maxLength": 20, "x-kubernetes-validations": [{
            "rule": "self.matches('^[0-9]{1,9}([.][0-9]{1,10})?$')",
            "message": "write US dollars as a decimal string such as \"1.20\"",
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_decimal_strings() {
        for (text, micros, shown) in
            [("1.20", 1_200_000, "1.20"), ("0.3651", 365_100, "0.3651"), ("30", 30_000_000, "30.00"), ("0.00000049", 1, "0.000001")]
        {
            let price: Price = text.parse().expect(text);
            assert_eq!((price.micros(), price.to_string().as_str()), (micros, shown));
        }
        for bad in ["", ".", "1.", "-1", "1,2", "1e3", "$1", "9999999999"] {
            assert!(bad.parse::<Price>().is_err(), "{bad}");
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        let price: Price = "3.60".parse().expect("a price");
        assert_eq!(price.for_seconds(10).micros(), 10_000);
        assert_eq!(Price::from_micros(1).for_seconds(1).micros(), 1);
        assert_eq!(price.for_seconds(-5), Price::ZERO);
    }
}
