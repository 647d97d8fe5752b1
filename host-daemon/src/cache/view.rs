//! A view: entries by path, with the account of what they take.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

use moorline_shared::api::feed::{FeedEntry, View as WholeView, ViewId};
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::entry::{ContentType, MAX_ENTRIES, MAX_INSTANCE_BYTES, Value};
use moorline_shared::link::Moment;
use moorline_shared::{Digest, EntryPath, PathPrefix, Revision};

use super::{Image, Now, What};

/// How long a view that was too large is left alone before it is asked for again, in milliseconds.
const RETRY_MS: u64 = 60_000;

/// An entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedEntry {
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: ContentType,
    /// The bytes; those of a secret are wiped when they are let go.
    pub value: Value,
    /// Whether it is secret.
    pub secret: bool,
    /// Until when it is valid, on a clock that nobody sets; `None` for ever.
    pub deadline: Option<Moment>,
}

impl CachedEntry {
    /// Takes what is left of the entry's validity from the time of day, once.
    pub fn new(entry: FeedEntry, now: Now) -> Self {
        let left = entry.expires_at.map(|end| now.time.millis_until(end));
        let value = if entry.secret {
            entry.value.wiped()
        } else {
            entry.value
        };
        Self {
            revision: entry.revision,
            content_type: entry.content_type,
            value,
            secret: entry.secret,
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

    /// Whether it is the same entry as another. A revision alone doesn't say so where something went wrong.
    fn is_same(&self, other: &Self) -> bool {
        let known = |entry: &Self| (entry.revision, entry.secret);
        known(self) == known(other) && self.content_type == other.content_type && self.value == other.value
    }

    /// It as it counts in the digest of a view.
    fn row<'a>(&'a self, path: &'a EntryPath) -> Row<'a> {
        Row {
            path: path.as_str(),
            revision: self.revision,
            content_type: self.content_type.as_str(),
            secret: self.secret,
            value: Digest::of(self.value.bytes()),
        }
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
    service: Service,
    /// Changes were lost, and the view has been asked for whole.
    gap: Option<Gap>,
    /// No entry ends before this.
    next_deadline: Option<Moment>,
    /// The last batch that changed it.
    batch: u64,
    /// What all entries come to, as long as none has changed since somebody asked.
    digest: Cell<Option<Digest>>,
}

/// Whether readers are answered from the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Served,
    /// It has never come.
    NotCome,
    /// It was too large to be kept when it was last whole, at this moment.
    TooLarge(Moment),
}

impl View {
    /// An empty view, as it is in the state at `known`.
    pub(super) fn empty(known: Revision, batch: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: known,
            known,
            bytes: 0,
            service: Service::Served,
            gap: None,
            next_deadline: None,
            batch,
            digest: Cell::default(),
        }
    }

    /// A view that has to be asked for.
    pub(super) fn awaited() -> Self {
        Self {
            service: Service::NotCome,
            gap: Some(Gap::default()),
            ..Self::empty(Revision::ZERO, 0)
        }
    }

    pub(super) fn new(whole: WholeView, now: Now, batch: u64) -> Self {
        let mut view = Self::empty(whole.revision, batch);
        for entry in whole.entries {
            view.insert(entry.path, CachedEntry::new(entry.entry, now));
        }
        view
    }

    /// A view that an earlier daemon had.
    pub(super) fn restored(image: Image) -> Self {
        let mut view = Self {
            revision: image.revision,
            gap: image.behind_since.map(Gap::since),
            ..Self::empty(image.known, 0)
        };
        for (path, entry) in image.entries {
            view.insert(path, entry);
        }
        view
    }

    /// The revision whose state it shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Up to where it is known to be as it is: that a change came to nothing is known too, and is no revision of the view.
    pub fn known(&self) -> Revision {
        self.known
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

    /// Whether readers are answered from it: it has come, and was not too large to be kept.
    pub fn is_served(&self) -> bool {
        self.service == Service::Served
    }

    /// Since when it has shown an earlier state because changes were lost; `None` while it is in step.
    pub fn behind_since(&self) -> Option<Moment> {
        self.gap.as_ref()?.since
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

    /// All entries, in byte order of their paths; some may not be valid any more.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&EntryPath, &CachedEntry)> {
        self.entries.iter()
    }

    /// What all entries come to, by which whoever should have the same is compared. It looks at every byte if something
    /// changed since the last time.
    pub fn digest(&self) -> Digest {
        let digest = self.digest.get().unwrap_or_else(|| self.digest_of(|_| true));
        self.digest.set(Some(digest));
        digest
    }

    /// The same if the view is served, and nothing of it is known to be missing.
    pub fn digest_in_step(&self) -> Option<Digest> {
        self.is_in_step().then(|| self.digest())
    }

    /// How many bytes [`Self::digest_in_step`] has to look at: none of a view that hasn't changed since the last time.
    pub fn unseen(&self) -> usize {
        if self.is_in_step() && self.digest.get().is_none() {
            self.bytes
        } else {
            0
        }
    }

    fn is_in_step(&self) -> bool {
        self.is_served() && self.gap.is_none()
    }

    /// The same of the entries that are `shown`.
    pub fn digest_of(&self, shown: impl Fn(&CachedEntry) -> bool) -> Digest {
        let entries = self.entries.iter().filter(|(_, entry)| shown(entry));
        ViewDigest::of(entries.map(|(path, entry)| entry.row(path)))
    }

    fn insert(&mut self, path: EntryPath, entry: CachedEntry) {
        self.digest.take();
        self.next_deadline = earlier(self.next_deadline, entry.deadline);
        self.bytes += entry.cost(&path);
        let cost = |old: &CachedEntry| old.cost(&path);
        if let Some(cost) = self.entries.get(&path).map(cost) {
            self.bytes -= cost;
        }
        self.entries.insert(path, entry);
    }

    fn remove(&mut self, path: &EntryPath) -> Option<CachedEntry> {
        self.digest.take();
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
        if let Some(gap) = &mut self.gap {
            gap.keep(path, entry, to);
            return false;
        }
        if !self.is_served() || !self.accept(to, batch) {
            return false;
        }
        let changed = self.put(path, entry, to);
        if changed {
            self.revision = self.known;
        }
        changed
    }

    /// An entry that changed later than `to` is not touched by what was so at `to`.
    fn put(&mut self, path: &EntryPath, entry: Option<CachedEntry>, to: Revision) -> bool {
        let old = self.entries.get(path).map(|old| old.revision);
        match entry {
            Some(entry) if old.is_none_or(|old| old < entry.revision) => {
                self.insert(path.clone(), entry);
                true
            }
            None if old.is_some_and(|old| old <= to) => self.remove(path).is_some(),
            _ => false,
        }
    }

    /// Changes up to `at` were lost. What comes from now on is kept aside until the view comes whole, so that readers
    /// see one state or the other.
    pub(super) fn lose(&mut self, at: Revision, now: Moment) {
        let gap = self.gap.get_or_insert_default();
        gap.lost = gap.lost.max(at);
        gap.since.get_or_insert(now);
    }

    /// A view that was too large is asked for again when it changes, but not all the time. Returns whether now.
    pub(super) fn retry_too_large(&mut self, now: Moment) -> bool {
        match &mut self.service {
            Service::TooLarge(at) if self.gap.is_none() && now.since(*at) >= RETRY_MS => {
                *at = now;
                self.gap = Some(Gap::default());
                true
            }
            _ => false,
        }
    }

    /// Applies what was kept aside, as far as it is later than the view.
    fn make_up(&mut self, gap: Gap) {
        let whole = self.known;
        let mut changed = false;
        for (path, (to, entry)) in gap.changes.into_iter().filter(|(_, (to, _))| *to > whole) {
            self.known = self.known.max(to);
            changed |= self.put(&path, entry, to);
        }
        if changed {
            self.revision = self.known;
        }
    }

    /// Becomes `new` if that shows a later state, and says what is different.
    pub(super) fn replace(&mut self, mut new: Self, mut changed: impl FnMut(What)) -> Asked {
        let older = new.known < self.known;
        match self.gap.take() {
            // Nothing is shown that is older than what was lost: what comes next may build on it.
            Some(gap) if older || gap.lost > new.known => {
                self.gap = Some(gap);
                return Asked::Again;
            }
            Some(gap) => new.make_up(gap),
            None if older || (new.known == self.known && new.batch != self.batch) => return Asked::Answered,
            None => {}
        }
        self.become_new(new, &mut changed);
        Asked::Answered
    }

    fn become_new(&mut self, new: Self, changed: &mut impl FnMut(What)) {
        if !self.is_served() {
            *self = new;
            return changed(What::Everything);
        }
        let different = self.different(&new);
        // The same entries may have been others between. Whoever was shown those, by an earlier daemon, stands later than
        // this view did, and takes nothing that leads back.
        if different.is_empty() && self.revision < new.revision {
            changed(What::Revision);
        }
        *self = new;
        for path in different {
            changed(What::Entry(path));
        }
    }

    fn different(&self, new: &Self) -> Vec<EntryPath> {
        let same = |path: &EntryPath, entry: &CachedEntry| {
            new.entries.get(path).is_some_and(|new| new.is_same(entry))
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
    pub(super) fn keep_quota(&mut self, id: &ViewId, entries: usize, bytes: usize, now: Moment) {
        if self.entries.len() <= entries && self.bytes <= bytes {
            return;
        }
        tracing::warn!(
            reader = %id.reader, instance = %id.instance, entries = self.entries.len(), bytes = self.bytes,
            "a view is over its quota and is not served"
        );
        self.entries = BTreeMap::new();
        self.digest.take();
        (self.bytes, self.next_deadline) = (0, None);
        self.service = Service::TooLarge(now);
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

/// Whether a view that was asked for has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Answered,
    /// It came from before changes that were lost: it has to be asked for once more.
    Again,
}

/// What came while a view was asked for: of each entry what it was last.
#[derive(Debug, Default)]
struct Gap {
    changes: BTreeMap<EntryPath, (Revision, Option<CachedEntry>)>,
    /// Up to where changes came that there was no room for.
    lost: Revision,
    /// Since when readers see an earlier state; `None` if they see nothing.
    since: Option<Moment>,
    bytes: usize,
}

impl Gap {
    /// What came meanwhile is not known any more: it is in the view when that comes whole.
    fn since(moment: Moment) -> Self {
        Self {
            since: Some(moment),
            ..Self::default()
        }
    }

    fn keep(&mut self, path: &EntryPath, entry: Option<CachedEntry>, to: Revision) {
        if self.changes.get(path).is_some_and(|(kept, _)| *kept > to) {
            return;
        }
        let cost = |entry: &Option<CachedEntry>| entry.as_ref().map_or(path.len(), |entry| entry.cost(path));
        self.bytes += cost(&entry);
        if let Some((_, old)) = self.changes.insert(path.clone(), (to, entry)) {
            self.bytes -= cost(&old);
        }
        if self.changes.len() > MAX_ENTRIES || self.bytes > MAX_INSTANCE_BYTES {
            (self.lost, self.bytes) = (self.lost.max(to), 0);
            self.changes.clear();
        }
    }
}

fn earlier(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    a.into_iter().chain(b).min()
}
