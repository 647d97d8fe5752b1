//! The last changes, bounded, from which watches are fed and resume.

use std::collections::VecDeque;
use std::sync::Arc;

use moorline_shared::{EntryPath, PathPrefix, Revision};

use super::Entry;

/// The most batches kept.
const MOST_CHANGES: usize = 256;
/// The most bytes of values and names kept. The newest batch stays whatever it has: the mirror holds its values anyway.
const MOST_BYTES: usize = 256 * 1024;
/// What an item costs besides its value and its name.
const ITEM_BYTES: usize = 64;

/// What was under a path before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Absent,
    /// An entry that is not secret.
    Open,
    /// A secret entry.
    Secret,
}

impl Before {
    pub(super) fn of(entry: Option<&Arc<Entry>>) -> Self {
        match entry {
            None => Self::Absent,
            Some(entry) if entry.is_secret() => Self::Secret,
            Some(_) => Self::Open,
        }
    }
}

/// What became of a path.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Which path.
    pub path: EntryPath,
    /// What was there.
    pub before: Before,
    /// What is there now; `None` if nothing is.
    pub entry: Option<Arc<Entry>>,
}

/// Changes that became visible together.
#[derive(Debug)]
pub struct Change {
    from: Revision,
    revision: Revision,
    items: Vec<Changed>,
    weight: usize,
}

impl Change {
    fn new(from: Revision, revision: Revision, items: Vec<Changed>) -> Self {
        let value = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.value().len());
        let weight = items
            .iter()
            .map(|item| ITEM_BYTES + item.path.len() + value(&item.entry))
            .sum::<usize>();
        Self {
            from,
            revision,
            items,
            weight: ITEM_BYTES + weight,
        }
    }

    /// Where the mirror stands with them.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What became of the paths below `prefix`.
    pub fn below<'a>(&'a self, prefix: &'a PathPrefix) -> impl Iterator<Item = &'a Changed> {
        self.items.iter().filter(|item| prefix.covers(&item.path))
    }
}

/// A place between two changes. It is of this process and this mirror; across processes watches resume by revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

/// What was asked for is no longer in the log: list again, then watch from the listing's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes asked for are no longer kept; the oldest revision to watch from is {oldest}")]
pub struct Compacted {
    /// The oldest revision from which a watch can begin.
    pub oldest: Revision,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ChangeLog {
    /// What the oldest change builds on.
    start: Revision,
    /// The cursor of the oldest change.
    first: u64,
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
}

impl ChangeLog {
    /// Forgets all changes; every watch has lost its place, and new ones begin at `revision`.
    pub(super) fn begin(&mut self, revision: Revision) {
        // One number is left out, so that even a cursor at the end is behind.
        self.first += self.changes.len() as u64 + 1;
        self.changes.clear();
        self.bytes = 0;
        self.start = revision;
    }

    /// Keeps a change; one that changes nothing and leads nowhere is none.
    pub(super) fn push(&mut self, from: Revision, to: Revision, items: Vec<Changed>) {
        if from == to && items.is_empty() {
            return;
        }
        let change = Change::new(from, to, items);
        self.bytes += change.weight;
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > 1 && (self.changes.len() > MOST_CHANGES || self.bytes > MOST_BYTES) {
            if let Some(oldest) = self.changes.pop_front() {
                self.bytes -= oldest.weight;
                self.start = oldest.revision;
                self.first += 1;
            }
        }
    }

    pub(super) fn end(&self) -> Cursor {
        Cursor(self.first + self.changes.len() as u64)
    }

    pub(super) fn after(&self, revision: Revision, present: Revision) -> Result<Cursor, Compacted> {
        if revision < self.start || revision > present {
            return Err(Compacted { oldest: self.start });
        }
        // What happened without a commit has the revision that was there before, and whoever stands there may have
        // seen it or not: it comes again, which changes nothing.
        let seen = self
            .changes
            .partition_point(|change| change.from < revision && change.revision <= revision);
        Ok(Cursor(self.first + seen as u64))
    }

    pub(super) fn next(&self, cursor: Cursor) -> Result<Option<(&Arc<Change>, Cursor)>, Compacted> {
        let Some(at) = cursor.0.checked_sub(self.first) else {
            return Err(Compacted { oldest: self.start });
        };
        let change = usize::try_from(at).ok().and_then(|at| self.changes.get(at));
        Ok(change.map(|change| (change, Cursor(cursor.0 + 1))))
    }

    pub(super) fn removed_at(&self, path: &str) -> Option<(Revision, Before)> {
        let last = |change: &Arc<Change>| {
            let item = change.items.iter().rfind(|item| item.path.as_str() == path)?;
            let removed = item.entry.is_none() && change.from < change.revision;
            Some(removed.then_some((change.revision, item.before)))
        };
        self.changes.iter().rev().find_map(last).flatten()
    }
}
