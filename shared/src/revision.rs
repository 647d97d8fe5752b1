//! When something changed: a place in the order of all commits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place in the order of commits of one deployment: `epoch`, then `n`, compared in that order.
///
/// `n` grows by one with each committed transaction; a restore or an import begins a new, higher epoch. On JSON a
/// revision is the text `EPOCH.N`, on the guest link two variable-length integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Which life of the store the count belongs to.
    pub epoch: u64,
    /// The transaction's number within the epoch, from 1; 0 is the empty store.
    pub n: u64,
}

impl Revision {
    /// The revision before every other.
    pub const ZERO: Self = Self { epoch: 0, n: 0 };

    /// The `n`-th transaction of `epoch`.
    #[must_use]
    pub const fn new(epoch: u64, n: u64) -> Self {
        Self { epoch, n }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// The text is not a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a revision: write EPOCH.N, two decimal numbers with a dot between them")]
pub struct RevisionError(String);

impl FromStr for Revision {
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || RevisionError(text.to_owned());
        let (epoch, n) = text.split_once('.').ok_or_else(refuse)?;
        Ok(Self {
            epoch: decimal(epoch).ok_or_else(refuse)?,
            n: decimal(n).ok_or_else(refuse)?,
        })
    }
}

/// Digits only: `u64::from_str` would also take a sign, and one number has one spelling here.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            (self.epoch, self.n).serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            let (epoch, n) = Deserialize::deserialize(d)?;
            Ok(Self { epoch, n })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Revision;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips_and_keeps_the_order(a: (u64, u64), b: (u64, u64)) {
            let (a, b) = (Revision::new(a.0, a.1), Revision::new(b.0, b.1));
            prop_assert_eq!(a.to_string().parse::<Revision>().unwrap(), a);
            prop_assert_eq!(a < b, (a.epoch, a.n) < (b.epoch, b.n));
        }
    }

    #[test]
    fn one_number_has_one_spelling() {
        for bad in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "01.1",
            "1.+1",
            "1.1.1",
            "1. 1",
            "-1.1",
            "1.99999999999999999999",
        ] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?} was taken");
        }
    }
}
