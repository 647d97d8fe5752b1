//! What is kept of a mirror across a reboot, as the bytes of a file. Pure.
//!
//! The file is a mark of 16 bytes, a version of one byte, the SHA-256 of the rest, and the rest in postcard. The body of a
//! version never changes; another body is another version, and what this build doesn't know it doesn't read. Secret
//! entries are never in it.
//!
//! What was kept is as old as it was when it was written, and as long as that is ago. Two clocks tell that: within one
//! boot the one that nobody sets, and from one boot to the next the calendar. Where the calendar has gone back meanwhile,
//! nobody knows how long it was: then it is at least as long as this boot, and what ends at a set time is left out.

use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Mirrored};
use moorline_shared::{Digest, EntryPath, InstanceId, PathPrefix, Revision};
use serde::{Deserialize, Serialize};

use super::{Known, Mirror};

/// The longest file that is one of ours: all that an instance may have, with its names.
pub const MAX_FILE_BYTES: usize = 2 * 1024 * 1024;

const MARK: &[u8; 16] = b"moorline mirror\n";
const VERSION: u8 = 1;
/// What stands before the body: the mark, the version and the digest.
const HEAD_BYTES: usize = MARK.len() + 1 + 32;

/// Part of a mirror as it once was. `Debug` shows no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it was.
    pub of: Origin,
    /// What was kept: the entries below these, without the secret ones.
    pub below: Vec<PathPrefix>,
    /// Where the mirror stood.
    pub revision: Revision,
    /// How old it was when it was written, in milliseconds.
    pub age_ms: u64,
    /// When that was.
    pub written: Stamp,
    /// The entries. How long each is valid counts from when it was written.
    pub items: Vec<Item>,
}

/// Whose data a mirror holds, as the host said in `HELLO_ACK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The instance.
    pub instance: InstanceId,
    /// Which life of its VM it was.
    pub incarnation: u64,
    /// The deployment that the revisions belong to.
    pub authority: String,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The kernel's id of this boot.
    pub boot_id: [u8; 16],
    /// Since that boot, suspend included, in milliseconds.
    pub boottime_ms: u64,
    /// What the calendar says, in milliseconds since 1970.
    pub calendar_ms: u64,
}

impl Stamp {
    /// The same on the clock that nobody sets.
    pub fn moment(&self) -> Moment {
        Moment(self.boottime_ms)
    }

    /// How long it is from then to `now`, in milliseconds; `None` if nobody knows, because the calendar has gone back.
    fn until(&self, now: &Self) -> Option<u64> {
        if self.boot_id == now.boot_id {
            now.boottime_ms.checked_sub(self.boottime_ms)
        } else {
            // Whatever the calendar says, it was before this boot.
            let passed = now.calendar_ms.checked_sub(self.calendar_ms)?;
            Some(passed.max(now.boottime_ms))
        }
    }
}

/// Why what is in a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It doesn't begin as such a file does.
    #[error("it is no kept mirror")]
    NotOurs,
    /// It is of a build that came later.
    #[error("it has the version {0}, and this build reads up to {VERSION}")]
    Newer(u8),
    /// It was cut short, or changed by somebody else.
    #[error("its content doesn't have the digest that it was written with")]
    Damaged,
    /// What it says is none of what can be kept.
    #[error("its content doesn't say what is kept")]
    Malformed,
}

impl Kept {
    /// What is to be kept of a mirror; `None` while the host hasn't given it.
    pub fn of_mirror(mirror: &Mirror, of: Origin, below: &[PathPrefix], now: Stamp) -> Option<Self> {
        let moment = now.moment();
        let (revision, age) = (mirror.applied()?, mirror.age(moment)?);
        let is_kept = |path: &EntryPath| below.iter().any(|prefix| prefix.covers(path));
        let entries = mirror.list(&PathPrefix::ALL, moment);
        let entries = entries.filter(|entry| !entry.is_secret() && is_kept(entry.path()));
        let items = entries.map(|entry| Item {
            path: entry.path().clone(),
            entry: Some(entry.mirrored(moment)),
        });
        Some(Self {
            of,
            below: below.to_vec(),
            revision,
            age_ms: age.ms,
            written: now,
            items: items.collect(),
        })
    }

    /// The part of it that is below `below` as well: who asks for less to be kept is shown no more than that.
    #[must_use]
    pub fn within(self, below: &[PathPrefix]) -> Self {
        let narrower = |kept: &PathPrefix, wanted: &PathPrefix| match (kept, wanted) {
            (kept, wanted) if wanted.includes(kept) => Some(kept.clone()),
            (kept, wanted) if kept.includes(wanted) => Some(wanted.clone()),
            _ => None,
        };
        let of_each = |kept| below.iter().filter_map(move |wanted| narrower(kept, wanted));
        let both: Vec<_> = self.below.iter().flat_map(of_each).collect();
        let items = self.items.into_iter();
        let is_in = |item: &Item| both.iter().any(|prefix| prefix.covers(&item.path));
        Self {
            items: items.filter(is_in).collect(),
            below: both,
            ..self
        }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Postcard fails only for types that it can't express, and this is none.
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(MARK);
        bytes.push(VERSION);
        bytes.extend_from_slice(Digest::of(&body).bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// What a file's bytes say.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let rest = bytes.strip_prefix(MARK).ok_or(Unreadable::NotOurs)?;
        let (version, rest) = rest.split_first().ok_or(Unreadable::Damaged)?;
        if *version > VERSION {
            return Err(Unreadable::Newer(*version));
        }
        let (digest, body) = rest.split_first_chunk::<32>().ok_or(Unreadable::Damaged)?;
        if *version != VERSION || Digest::of(body).bytes() != digest {
            return Err(Unreadable::Damaged);
        }
        match postcard::take_from_bytes(body) {
            Ok((kept, [])) => Ok(kept),
            _ => Err(Unreadable::Malformed),
        }
    }

    /// When it was last known to be the present state.
    pub(super) fn known(&self, now: &Stamp) -> Known {
        let since = self.written.until(now).unwrap_or(now.boottime_ms);
        Known {
            at: now.moment(),
            age_ms: self.age_ms.saturating_add(since),
        }
    }

    /// The entries that are still valid at `now`, each with what is left of that.
    pub(super) fn items_at(&self, now: &Stamp) -> impl Iterator<Item = (EntryPath, Mirrored)> {
        let since = self.written.until(now);
        let items = self.items.iter().cloned();
        items.filter_map(move |Item { path, entry }| {
            let entry = entry?;
            let valid_for_ms = match entry.valid_for_ms {
                None => None,
                Some(left) => Some(left.checked_sub(since?).filter(|left| *left > 0)?),
            };
            Some((
                path,
                Mirrored {
                    valid_for_ms,
                    ..entry
                },
            ))
        })
    }
}

#[cfg(test)]
mod tests;
