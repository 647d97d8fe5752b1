//! Times of day: what people and records write, never what a deadline is measured by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time in UTC, to the millisecond: RFC 3339 in JSON, milliseconds since 1970 on the guest link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// So many milliseconds after 1970; `None` outside the years -9999 to 9999.
    pub fn from_millis(millis: i64) -> Option<Self> {
        jiff::Timestamp::from_millisecond(millis).ok().map(Self)
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// This time and `seconds` more; the last time there is if that is beyond it.
    #[must_use]
    pub fn plus_seconds(self, seconds: u32) -> Self {
        let later = self.millis().saturating_add(i64::from(seconds) * 1_000);
        Self::from_millis(later).unwrap_or(Self(jiff::Timestamp::MAX))
    }

    /// The time in RFC 3339 without a fraction of a second, cut off: `YYYY-MM-DDTHH:MM:SSZ`.
    pub fn to_the_second(self) -> String {
        format!("{:.0}", self.0)
    }

    /// Milliseconds from this time to `later`; 0 if that has passed.
    pub fn millis_until(self, later: Self) -> u64 {
        u64::try_from(later.millis() - self.millis()).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time: write it as in 2026-01-31T12:00:00Z")]
pub struct TimestampError(String);

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = text
            .parse::<jiff::Timestamp>()
            .ok()
            .and_then(|time| Self::from_millis(time.as_millisecond()));
        time.ok_or_else(|| TimestampError(text.chars().take(64).collect()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.millis().serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            let millis = i64::deserialize(d)?;
            Self::from_millis(millis).ok_or_else(|| serde::de::Error::custom("a time out of range"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips_to_the_millisecond(millis in -62_135_596_800_000_i64..253_402_300_799_000) {
            let time = Timestamp::from_millis(millis).unwrap();
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }

    #[test]
    fn to_the_second_nothing_is_added() {
        let time = Timestamp::from_millis(1_800_000_000_999).unwrap();
        assert_eq!(time.to_the_second(), "2027-01-15T08:00:00Z");
    }
}
