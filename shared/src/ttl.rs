//! How long something is valid.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A validity period in whole seconds, from 1 second to 10 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "u32")]
pub struct Ttl(u32);

impl Ttl {
    /// The longest period, in seconds: ten years of 365 days.
    pub const MAX_SECONDS: u32 = 10 * 365 * 24 * 3600;

    /// The period as a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }

    /// The period in seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

/// The number of seconds is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a validity period is 1 to {max} seconds, not {0}", max = Ttl::MAX_SECONDS)]
pub struct TtlError(u32);

impl TryFrom<u32> for Ttl {
    type Error = TtlError;

    fn try_from(seconds: u32) -> Result<Self, Self::Error> {
        if (1..=Self::MAX_SECONDS).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(TtlError(seconds))
        }
    }
}

impl From<Ttl> for u32 {
    fn from(ttl: Ttl) -> Self {
        ttl.0
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            d.deserialize_u64(Seconds)
        } else {
            u32::deserialize(d)?.try_into().map_err(D::Error::custom)
        }
    }
}

/// Takes any number that a person may write, so that one out of bounds is answered with the bounds.
struct Seconds;

impl Visitor<'_> for Seconds {
    type Value = Ttl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a validity period of 1 to {} seconds", Ttl::MAX_SECONDS)
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Ttl, E> {
        match u64::try_from(seconds) {
            Ok(seconds) => self.visit_u64(seconds),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(seconds), &self)),
        }
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Ttl, E> {
        let ttl = u32::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.try_into().ok());
        ttl.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(seconds), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::Ttl;

    #[test]
    fn what_is_out_of_bounds_is_answered_with_the_bounds() {
        for wrong in ["0", "-1", "315360001", "18446744073709551615", "1.5", "\"1\""] {
            let error = serde_json::from_str::<Ttl>(wrong).unwrap_err().to_string();
            assert!(error.contains("1 to 315360000 seconds"), "{wrong}: {error}");
        }
        assert_eq!(
            serde_json::from_str::<Ttl>("315360000").unwrap().seconds(),
            Ttl::MAX_SECONDS
        );
    }
}
