//! A view: entries by path, with the account of what they take.

use std::collections::BTreeMap;
use std::ops::Bound;

use moorline_shared::api::feed::{FeedEntry, View as WholeView, ViewId};
use moorline_shared::entry::{ContentType, Value};
use moorline_shared::link::Moment;
use moorline_shared::{Digest, EntryPath, PathPrefix, Revision};

use super::{Now, What};

/// An entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedEntry {
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: ContentType,
    /// The bytes.
    pub value: Value,
    /// Until when it is valid, on a clock that nobody sets; `None` for ever.
    pub deadline: Option<Moment>,
}

impl CachedEntry {
    /// Takes what is left of the entry's validity from the time of day, once.
    pub fn new(entry: FeedEntry, now: Now) -> Self {
        let left = entry.expires_at.map(|end| now.time.millis_until(end));
        Self {
            revision: entry.revision,
            content_type: entry.content_type,
            value: entry.value,
            deadline: left.map(|left| Moment(now.moment.0.saturating_add(left))),
        }
    }

    /// Whether it is valid at `now`.
    pub fn is_valid(&self, now: Moment) -> bool {
        self.deadline.is_none_or(|deadline| now < deadline)
    }

    /// How long it will be valid from `now` on, in milliseconds; `None` for ever.
    pub fn valid_for(&self, now: Moment) -> Option<u64> {
        self.deadline.map(|deadline| deadline.since(now))
    }

    fn cost(&self, path: &EntryPath) -> usize {
        path.len() + self.content_type.as_str().len() + self.value.len()
    }
}

/// What a reader may see of an instance.
#[derive(Debug)]
pub struct View {
    entries: BTreeMap<EntryPath, CachedEntry>,
    /// When its content last changed.
    revision: Revision,
    /// Up to where the content is known to be as it is; what is not later changes nothing.
    known: Revision,
    bytes: usize,
    over_quota: bool,
    /// No entry ends before this.
    next_deadline: Option<Moment>,
    /// The last batch that changed it.
    batch: u64,
}

impl View {
    pub(super) fn new(whole: WholeView, now: Now, batch: u64) -> Self {
        let mut view = Self {
            entries: BTreeMap::new(),
            revision: whole.revision,
            known: whole.revision,
            bytes: 0,
            over_quota: false,
            next_deadline: None,
            batch,
        };
        for entry in whole.entries {
            view.insert(entry.path, CachedEntry::new(entry.entry, now));
        }
        view
    }

    /// The revision whose state it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of all paths, content types and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it was too large to be kept: it is empty then, and says nothing.
    pub fn is_over_quota(&self) -> bool {
        self.over_quota
    }

    /// The entry at `path`, if it is valid at `now`.
    pub fn get(&self, path: &str, now: Moment) -> Option<&CachedEntry> {
        self.entries.get(path).filter(|entry| entry.is_valid(now))
    }

    /// The entries in the subtree that are valid at `now`, after `after`, in byte order of their paths.
    pub fn range<'a>(
        &'a self,
        prefix: &'a PathPrefix,
        after: Option<&'a EntryPath>,
        now: Moment,
    ) -> impl Iterator<Item = (&'a EntryPath, &'a CachedEntry)> {
        let top = prefix.as_str();
        let start = match after {
            Some(after) if after.as_str() >= top => Bound::Excluded(after.as_str()),
            _ => Bound::Included(top),
        };
        // All that a prefix covers begins with its text, but not all that begins with its text is covered.
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(top))
            .filter(move |(path, entry)| prefix.covers(path) && entry.is_valid(now))
    }

    /// The digest by which the control plane knows whether this is what it would show.
    pub fn digest(&self) -> Digest {
        WholeView::digest(self.entries.iter().map(|(path, entry)| (path, entry.revision)))
    }

    fn insert(&mut self, path: EntryPath, entry: CachedEntry) {
        self.next_deadline = earlier(self.next_deadline, entry.deadline);
        self.bytes += entry.cost(&path);
        let cost = |old: &CachedEntry| old.cost(&path);
        if let Some(cost) = self.entries.get(&path).map(cost) {
            self.bytes -= cost;
        }
        self.entries.insert(path, entry);
    }

    fn remove(&mut self, path: &EntryPath) -> Option<CachedEntry> {
        let old = self.entries.remove(path)?;
        self.bytes -= old.cost(path);
        Some(old)
    }

    /// Whether something of the state at `to` is news. Items of one batch are, whatever those before them did.
    fn accept(&mut self, to: Revision, batch: u64) -> bool {
        if to <= self.known && batch != self.batch {
            return false;
        }
        self.known = self.known.max(to);
        self.batch = batch;
        true
    }

    /// Sets or removes an entry as it is at `to`. Returns whether anything changed.
    pub(super) fn set(
        &mut self,
        path: &EntryPath,
        entry: Option<CachedEntry>,
        to: Revision,
        batch: u64,
    ) -> bool {
        if !self.accept(to, batch) {
            return false;
        }
        let changed = match entry {
            None => self.remove(path).is_some(),
            Some(entry) => self.set_newer(path, entry),
        };
        if changed {
            self.revision = self.known;
        }
        changed
    }

    fn set_newer(&mut self, path: &EntryPath, entry: CachedEntry) -> bool {
        let old = self.entries.get(path).map(|old| old.revision);
        if old.is_some_and(|old| old >= entry.revision) {
            return false;
        }
        self.insert(path.clone(), entry);
        true
    }

    /// Becomes `new` if that shows a later state, and says what is different.
    pub(super) fn replace(&mut self, new: Self, mut changed: impl FnMut(What)) {
        if !self.accept(new.known, new.batch) {
            return;
        }
        if self.over_quota {
            *self = new;
            return changed(What::Everything);
        }
        let different = self.different(&new);
        // The same entries later are the same state: who has it need not be told.
        let revision = if different.is_empty() {
            self.revision
        } else {
            new.revision
        };
        *self = Self { revision, ..new };
        for path in different {
            changed(What::Entry(path));
        }
    }

    fn different(&self, new: &Self) -> Vec<EntryPath> {
        let same = |path: &EntryPath, entry: &CachedEntry| {
            new.entries
                .get(path)
                .is_some_and(|new| new.revision == entry.revision)
        };
        let gone_or_changed = self.entries.iter().filter(|(path, entry)| !same(path, entry));
        let added = new
            .entries
            .keys()
            .filter(|path| !self.entries.contains_key(*path));
        gone_or_changed
            .map(|(path, _)| path)
            .chain(added)
            .cloned()
            .collect()
    }

    /// Empties the view if it is too large.
    pub(super) fn keep_quota(&mut self, id: &ViewId, entries: usize, bytes: usize) {
        if self.entries.len() <= entries && self.bytes <= bytes {
            return;
        }
        tracing::warn!(
            reader = %id.reader, instance = %id.instance, entries = self.entries.len(), bytes = self.bytes,
            "a view is over its quota and is not served"
        );
        self.entries = BTreeMap::new();
        (self.bytes, self.next_deadline, self.over_quota) = (0, None, true);
    }

    /// Removes the entries whose validity has ended.
    pub(super) fn expire(&mut self, now: Moment, mut removed: impl FnMut(EntryPath)) {
        if self.next_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let ended: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_valid(now))
            .map(|(path, _)| path.clone())
            .collect();
        for path in ended {
            self.remove(&path);
            removed(path);
        }
        let deadlines = self.entries.values().map(|entry| entry.deadline);
        self.next_deadline = deadlines.fold(None, earlier);
    }
}

fn earlier(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    a.into_iter().chain(b).min()
}
