//! How long something is valid.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A validity period in whole seconds, from 1 second to 10 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
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
