//! Turns changes of a view into batches for whoever follows it: the guest's mirror, or a watch.

use std::collections::BTreeSet;

use bytes::Bytes;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Mirrored, Secrets};
use moorline_shared::link::session::Batch;
use moorline_shared::{EntryPath, PathPrefix, Revision};

use crate::cache::{CachedEntry, View, What};

/// Over so many changed entries the whole view is sent instead: a follower that doesn't keep up costs no more.
const MAX_DIRTY: usize = 1_024;

/// One follower of a view: what it has, and what changed since.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) view: ViewId,
    prefix: PathPrefix,
    /// Where the follower stands, as it said.
    at: Option<Revision>,
    dirty: Dirty,
    /// The length of the batch that it has not said to have applied.
    in_flight: usize,
}

/// What a guest is shown of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Everything.
    All,
    /// What isn't secret: its build can't tell a secret entry from another.
    Open,
}

impl Shown {
    /// Whether this entry is.
    pub(super) fn shows(self, entry: &CachedEntry) -> bool {
        self == Self::All || !entry.secret
    }
}

/// What is sent next.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) batch: Batch,
    /// Which of its items are secret.
    pub(super) secrets: Secrets,
}

#[derive(Debug, PartialEq, Eq)]
enum Dirty {
    Nothing,
    Entries(BTreeSet<EntryPath>),
    Everything,
}

impl Feeder {
    /// A follower that has nothing yet.
    pub(super) fn from_nothing(view: ViewId, prefix: PathPrefix) -> Self {
        Self {
            view,
            prefix,
            at: None,
            dirty: Dirty::Everything,
            in_flight: 0,
        }
    }

    /// A follower that stands where the view does.
    pub(super) fn in_step(view: ViewId, at: Revision) -> Self {
        Self {
            at: Some(at),
            dirty: Dirty::Nothing,
            ..Self::from_nothing(view, PathPrefix::ALL)
        }
    }

    /// Where the follower stands.
    pub(super) fn at(&self) -> Option<Revision> {
        self.at
    }

    /// The length of what it has not taken yet.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The view changed.
    pub(super) fn mark(&mut self, what: &What) {
        let path = match what {
            What::Everything => {
                self.dirty = Dirty::Everything;
                return;
            }
            What::Revision => {
                if self.dirty == Dirty::Nothing {
                    self.dirty = Dirty::Entries(BTreeSet::new());
                }
                return;
            }
            What::Entry(path) => path,
        };
        if !self.prefix.covers(path) {
            return;
        }
        match &mut self.dirty {
            Dirty::Everything => {}
            Dirty::Nothing => self.dirty = Dirty::Entries([path.clone()].into()),
            Dirty::Entries(paths) => {
                paths.insert(path.clone());
                if paths.len() > MAX_DIRTY {
                    self.dirty = Dirty::Everything;
                }
            }
        }
    }

    /// Whether there is something to send.
    pub(super) fn is_behind(&self) -> bool {
        self.dirty != Dirty::Nothing
    }

    /// Whether what is sent next is all there is, and not only what changed.
    pub(super) fn begins_anew(&self) -> bool {
        self.dirty == Dirty::Everything || self.at.is_none()
    }

    /// Everything that changed, as it is now, in one batch.
    pub(super) fn next(&mut self, view: &View, shown: Shown, now: Moment) -> Option<Push> {
        let (from, (content, secrets)) = match std::mem::replace(&mut self.dirty, Dirty::Nothing) {
            Dirty::Nothing => return None,
            Dirty::Everything => (None, self.snapshot(view, shown, now)),
            Dirty::Entries(paths) => match self.at {
                None => (None, self.snapshot(view, shown, now)),
                Some(at) => (Some(at), changes(view, paths, shown, now)),
            },
        };
        self.in_flight = content.len();
        let batch = Batch {
            from,
            to: view.revision(),
            content,
        };
        Some(Push { batch, secrets })
    }

    /// The follower has applied the batch.
    pub(super) fn applied(&mut self, revision: Revision) {
        self.at = Some(revision);
        self.in_flight = 0;
    }

    fn snapshot(&self, view: &View, shown: Shown, now: Moment) -> (Bytes, Secrets) {
        let entries = view.range(&self.prefix, None, now);
        let entries = entries.filter(|(_, entry)| shown.shows(entry));
        let items = entries.map(|(path, entry)| (path.clone(), Some(entry)));
        encode(items, now)
    }
}

fn changes(view: &View, paths: BTreeSet<EntryPath>, shown: Shown, now: Moment) -> (Bytes, Secrets) {
    let entry = |path: &EntryPath| view.get(path, now).filter(|entry| shown.shows(entry));
    encode(paths.into_iter().map(|path| (path.clone(), entry(&path))), now)
}

fn mirrored(entry: &CachedEntry, now: Moment) -> Mirrored {
    Mirrored {
        revision: entry.revision,
        content_type: entry.content_type.as_str().to_owned(),
        valid_for_ms: entry.valid_for(now),
        value: entry.value.clone(),
    }
}

/// The items as they go out, and which of them are secret.
fn encode<'e>(
    items: impl Iterator<Item = (EntryPath, Option<&'e CachedEntry>)>,
    now: Moment,
) -> (Bytes, Secrets) {
    let (mut content, mut secrets) = (Vec::new(), Secrets::default());
    for (place, (path, entry)) in items.enumerate() {
        if entry.is_some_and(|entry| entry.secret) {
            secrets.mark(place);
        }
        let entry = entry.map(|entry| mirrored(entry, now));
        // Postcard fails only for types that it can't express, and an item is none.
        content = postcard::to_extend(&Item { path, entry }, content).unwrap_or_default();
    }
    (content.into(), secrets)
}

#[cfg(test)]
mod tests {
    use super::{Dirty, Feeder, MAX_DIRTY};
    use crate::cache::What;
    use moorline_shared::api::feed::ViewId;
    use moorline_shared::{InstanceId, PathPrefix};

    fn entry(path: &str) -> What {
        What::Entry(path.parse().unwrap())
    }

    #[test]
    fn what_is_not_followed_is_no_change() {
        let view = ViewId::own(InstanceId::from_bytes([1; 16]));
        let mut feeder = Feeder::from_nothing(view, "net".parse().unwrap());
        feeder.dirty = Dirty::Nothing;
        feeder.mark(&entry("network"));
        assert!(!feeder.is_behind());
        feeder.mark(&entry("net/mac"));
        assert!(feeder.is_behind());
    }

    #[test]
    fn a_follower_that_never_takes_its_batch_costs_a_bounded_set() {
        let view = ViewId::own(InstanceId::from_bytes([1; 16]));
        let mut feeder = Feeder::from_nothing(view, PathPrefix::ALL);
        feeder.dirty = Dirty::Nothing;
        for i in 0..=MAX_DIRTY {
            feeder.mark(&entry(&format!("p/{i}")));
        }
        assert_eq!(feeder.dirty, Dirty::Everything);
    }
}
