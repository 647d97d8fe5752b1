//! The mirror as one peer may see it: what the rules deny is not there.

use std::sync::Arc;

use moorline_shared::{EntryPath, PathPrefix, Revision};

use crate::access::{Content, Peer, Rules};
use crate::mirror::{Before, Change, Entry, Lookup, Mirror};
use moorline_shared::link::Moment;

/// One state of the mirror, seen by a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) rules: &'a Rules,
    pub(super) peer: &'a Peer,
}

impl<'a> View<'a> {
    /// What there is under `path` at `now`.
    pub(super) fn get(self, path: &str, now: Moment) -> Lookup<'a> {
        match self.mirror.get(path, now) {
            Lookup::Found(entry) | Lookup::Expired(entry) if !self.shows(entry) => self.mirror.nothing(),
            lookup => lookup,
        }
    }

    /// The entries below `prefix` that are valid at `now`, in byte order of their paths.
    pub(super) fn list(self, prefix: &'a PathPrefix, now: Moment) -> impl Iterator<Item = &'a Arc<Entry>> {
        let entries = self.mirror.list(prefix, now);
        entries.filter(move |entry| self.shows(entry))
    }

    /// The revision at which a commit removed `path`; zero where nobody knows or the peer may not.
    pub(super) fn removed_at(self, path: &str) -> Revision {
        // What is denied now may have been removed and made anew; its past is denied, too.
        let denied = self.mirror.peek(path).is_some_and(|entry| !self.shows(entry));
        let removed = self.mirror.removed_at(path).filter(|_| !denied);
        let shown = removed.filter(|(_, before)| self.shows_what_was(path, *before));
        shown.map_or(Revision::ZERO, |(revision, _)| revision)
    }

    /// What became of the paths below `prefix`: the entry, or `None` where it is gone. What the peer was shown and may not
    /// read any more is gone for it; of what it never was shown nothing is said.
    pub(super) fn below(
        self,
        change: &'a Change,
        prefix: &'a PathPrefix,
    ) -> impl Iterator<Item = (&'a EntryPath, Option<&'a Arc<Entry>>)> {
        change.below(prefix).filter_map(move |item| {
            let entry = item.entry.as_ref().filter(|entry| self.shows(entry));
            let told = entry.is_some() || self.shows_what_was(&item.path, item.before);
            told.then_some((&item.path, entry))
        })
    }

    /// Whether a change touches something below `prefix`.
    pub(super) fn touches(self, change: &'a Change, prefix: &'a PathPrefix) -> bool {
        self.below(change, prefix).next().is_some()
    }

    /// Whether the host may be asked for `path` on the peer's behalf. Of what the mirror doesn't hold nobody here knows
    /// whether it is secret.
    pub(super) fn may_ask(self, path: &str) -> bool {
        match self.mirror.peek(path) {
            Some(entry) => self.shows(entry),
            None => self.rules.may_read(self.peer, path, Content::Secret),
        }
    }

    fn shows(self, entry: &Entry) -> bool {
        self.rules.may_read(self.peer, entry.path(), content(entry))
    }

    fn shows_what_was(self, path: &str, before: Before) -> bool {
        let content = match before {
            Before::Absent => return false,
            Before::Open => Content::Ordinary,
            Before::Secret => Content::Secret,
        };
        self.rules.may_read(self.peer, path, content)
    }
}

fn content(entry: &Entry) -> Content {
    if entry.is_secret() {
        Content::Secret
    } else {
        Content::Ordinary
    }
}
