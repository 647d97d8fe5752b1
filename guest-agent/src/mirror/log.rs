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

/// Changes that became visible together.
#[derive(Debug)]
pub struct Change {
    from: Revision,
    revision: Revision,
    items: Vec<(EntryPath, Option<Arc<Entry>>)>,
    weight: usize,
}

impl Change {
    fn new(from: Revision, revision: Revision, items: Vec<(EntryPath, Option<Arc<Entry>>)>) -> Self {
        let value = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.value().len());
        let weight = items
            .iter()
            .map(|(path, entry)| ITEM_BYTES + path.len() + value(entry))
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

    /// What became of the paths below `prefix`: the entry, or `None` where it is gone.
    pub fn below<'a>(
        &'a self,
        prefix: &'a PathPrefix,
    ) -> impl Iterator<Item = (&'a EntryPath, Option<&'a Arc<Entry>>)> {
        let covered = self.items.iter().filter(|(path, _)| prefix.covers(path));
        covered.map(|(path, entry)| (path, entry.as_ref()))
    }

    /// Whether it touches something below `prefix`.
    pub fn touches(&self, prefix: &PathPrefix) -> bool {
        self.below(prefix).next().is_some()
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

#[derive(Debug, Default)]
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
    pub(super) fn push(&mut self, from: Revision, to: Revision, items: Vec<(EntryPath, Option<Arc<Entry>>)>) {
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

    pub(super) fn removed_at(&self, path: &str) -> Option<Revision> {
        let last = |change: &Arc<Change>| {
            let (_, entry) = change.items.iter().rfind(|(other, _)| other.as_str() == path)?;
            let committed = change.from < change.revision;
            Some((entry.is_none() && committed).then_some(change.revision))
        };
        self.changes.iter().rev().find_map(last).flatten()
    }
}
