//! The file of the host's position: up to where every view on disk shows what the control plane said.

use moorline_shared::Revision;
use serde::{Deserialize, Serialize};

use super::frame::{self, Damage, Kind};
use super::mark::Mark;

const VERSION: u32 = 1;

/// Where the host stood. This is version 1 of the file's body as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The control plane that the revision belongs to.
    pub(super) deployment: String,
    /// Up to where everything was applied.
    pub(super) cursor: Revision,
    /// When that was written down.
    pub(super) taken: Mark,
    /// How long before that it was known to be the present state, in milliseconds.
    pub(super) age_ms: u64,
}

impl Position {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Postcard fails only for types that it can't express, and none of these is one.
        let body = postcard::to_stdvec(self).unwrap_or_default();
        frame::wrap(Kind::Position, VERSION, &body)
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, Damage> {
        let body = frame::unwrap(Kind::Position, VERSION, file)?;
        postcard::from_bytes(body).map_err(Damage::Content)
    }

    /// How old what the host has is at `now`, in milliseconds.
    pub(super) fn age_at(&self, now: &Mark) -> u64 {
        self.taken.until(now).saturating_add(self.age_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::Position;
    use crate::link::tests::revision;
    use crate::persistence::mark::tests::mark;

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let position = Position {
            deployment: "lab".to_owned(),
            cursor: revision(9),
            taken: mark("a", 5_000, 1_000_000),
            age_ms: 3,
        };
        let file = position.encode();
        assert_eq!(Position::decode(&file).unwrap(), position);
        for at in 0..file.len() {
            assert!(Position::decode(&file[..at]).is_err(), "cut at {at}");
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(Position::decode(&changed).is_err(), "changed at {at}");
        }
        assert_eq!(position.age_at(&position.taken), 3);
    }
}
