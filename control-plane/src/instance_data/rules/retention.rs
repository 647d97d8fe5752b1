//! What goes: old history, the data of terminated instances, and at last all that was kept of these.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use moorline_shared::access::{Right, Rights};
use moorline_shared::{Digest, EntryPath};

use super::{Data, Step};
use crate::instance_data::access;
use crate::instance_data::operations::Op;
use crate::instance_data::records::{ChangeRecord, Changes, EntryRecord, Usage};
use crate::model::content::LongValue;
use crate::model::{Content, Intent, Kept, Load, Page, Record, View};

/// How far something came that is done some at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left.
    Done,
    /// More is left.
    Partly,
}

/// How many entries' histories one operation looks at.
const TRIM_PATHS_AT_ONCE: usize = 16;
/// How many changes one operation trims. With two values each they are below what a transaction holds.
const TRIM_AT_ONCE: usize = 500;
/// How many entries and changes one operation removes.
const FORGET_AT_ONCE: usize = 500;
/// How many long values one operation removes: it has to load them, and each may have 256 KiB.
const FORGET_VALUES_AT_ONCE: usize = 64;

impl Data<'_, '_> {
    /// Notes that the entry's history is to be looked after once this operation is done.
    pub(super) fn trim_later(&mut self, path: &EntryPath) {
        self.untrimmed.push(path.clone());
    }

    /// Has the histories looked after that this operation made longer, or left to be: one intent for all of them, so
    /// that a batch takes one more row, not one for each of its changes.
    pub fn finish(self) {
        if !self.untrimmed.is_empty() {
            let (instance, paths) = (self.instance.id, self.untrimmed);
            self.v.later(Intent {
                due: self.env.now,
                submit: Op::TrimEntryHistory { instance, paths }.into(),
            });
        }
    }

    /// Every change of an entry that is kept, the newest first.
    ///
    /// Their keys are in the order of time, in which two changes within a millisecond are equal; revisions never are.
    pub fn changes(&mut self, path: &EntryPath) -> Result<Vec<Kept<ChangeRecord>>, Load> {
        let of = Changes::OfEntry(self.id(), path.clone());
        let mut rows = self.v.scan::<ChangeRecord>(&of, &Page::ALL)?;
        rows.sort_by_key(|row| Reverse(row.revision));
        Ok(rows)
    }

    /// Whether the caller may look back at the entry: whoever may read it, or could when it was removed. The past of
    /// an entry that never was is the same as that of one the caller may not know.
    pub fn look_back(&mut self, path: &EntryPath, rows: &[Kept<ChangeRecord>]) -> Step<()> {
        let rights = if let Some(entry) = self.find(path)? {
            if entry.is_valid(self.env.now) {
                return self.permitted(path, Right::Read).map(drop);
            }
            self.rights(&entry)
        } else if let Some(last) = rows.first().and_then(|row| row.last.as_ref()) {
            access::last_rights(&self.asker, self.owner(), last, self.env.settings.access)
        } else {
            Rights::NONE
        };
        if rights.has(Right::Read) {
            Ok(())
        } else {
            Err(self.unknown(path))
        }
    }

    /// How many changes of an entry are shown at most, and kept at least.
    pub fn most_changes(&self) -> usize {
        self.env.settings.keep_changes as usize
    }

    /// Removes changes of these entries that are older than those that are kept, and the long values that nothing
    /// names any more. What is left is for later.
    pub fn trim(&mut self, paths: &[EntryPath]) -> Step<Progress> {
        let (now, later) = paths.split_at(paths.len().min(TRIM_PATHS_AT_ONCE));
        self.foresee_changes(now.iter().map(|path| (path, None)))?;
        // All are asked for before any ends the step.
        let histories: Vec<_> = now.iter().map(|path| self.changes(path)).collect();
        let mut room = TRIM_AT_ONCE;
        for (path, rows) in now.iter().zip(histories) {
            let trimmed = self.trim_one(path, &rows?, room)?;
            room = room.saturating_sub(trimmed);
        }
        self.untrimmed.extend_from_slice(later);
        Ok(if self.untrimmed.is_empty() {
            Progress::Done
        } else {
            Progress::Partly
        })
    }

    /// Removes the oldest rows but those that are kept, `room` at most, and says how many.
    fn trim_one(&mut self, path: &EntryPath, rows: &[Kept<ChangeRecord>], room: usize) -> Step<usize> {
        // The row after those that are shown stays: it tells what the oldest shown change began with.
        let keep = self.most_changes() + 1;
        let stay = keep.max(rows.len().saturating_sub(room));
        let Some((stay, gone)) = rows.split_at_checked(stay).filter(|(_, gone)| !gone.is_empty()) else {
            if rows.len() > keep {
                self.trim_later(path);
            }
            return Ok(0);
        };
        let named = self.named(path, stay)?;
        let gone_too: BTreeSet<_> = gone.iter().flat_map(|row| row.digests()).collect();
        self.remove_values(path, gone_too.difference(&named))?;
        delete_all(self.v, gone);
        if stay.len() > keep {
            self.trim_later(path);
        }
        Ok(gone.len())
    }

    /// The long values that the entry or one of these changes names.
    ///
    /// Nothing guards the rows that were scanned. But whoever adds one writes the entry, which is read here, or makes
    /// it and removes it again, which changes the usage.
    fn named(&mut self, path: &EntryPath, rows: &[Kept<ChangeRecord>]) -> Step<BTreeSet<Digest>> {
        let mut named: BTreeSet<_> = rows.iter().flat_map(|row| row.digests()).collect();
        let id = self.id();
        // Both are asked for before either ends the step.
        let usage = self.v.get::<Usage>(&id).map(drop);
        let entry = self.find(path)?;
        usage?;
        named.extend(entry.and_then(|entry| entry.content.digest()));
        Ok(named)
    }

    fn remove_values<'d>(
        &mut self,
        path: &EntryPath,
        digests: impl Iterator<Item = &'d Digest>,
    ) -> Result<(), Load> {
        let instance = self.id();
        let ids: Vec<_> = digests.map(|digest| (instance, path.clone(), *digest)).collect();
        self.v.foresee::<LongValue>(ids.iter().cloned())?;
        for id in &ids {
            if self.v.get::<LongValue>(id)?.is_some() {
                self.v.delete::<LongValue>(id);
            }
        }
        Ok(())
    }

    /// Removes up to `most` entries, whose histories stay.
    pub fn purge(&mut self, most: usize) -> Step<Progress> {
        let entries = self.v.scan::<EntryRecord>(&self.id(), &first(most + 1))?;
        for entry in entries.iter().take(most) {
            self.remove(entry)?;
        }
        Ok(if entries.len() > most {
            Progress::Partly
        } else {
            Progress::Done
        })
    }

    /// Removes some of all that is kept: entries, changes, long values, and at last what was kept about all of them.
    ///
    /// The entries' fence guards all of it, since nothing is added without an entry being written.
    pub fn forget(&mut self) -> Step<Progress> {
        let (id, at_once) = (self.id(), first(FORGET_AT_ONCE));
        // All are asked for before any ends the step.
        let entries = self.v.scan::<EntryRecord>(&id, &at_once);
        let changes = self.v.scan::<ChangeRecord>(&Changes::OfInstance(id), &at_once);
        let values = self.v.scan::<LongValue>(&id, &first(FORGET_VALUES_AT_ONCE));
        let usage = self.v.get::<Usage>(&id)?;
        let (entries, changes, values) = (entries?, changes?, values?);
        if entries.is_empty() && changes.is_empty() && values.is_empty() {
            if usage.is_some() {
                self.v.delete::<Usage>(&id);
            }
            self.v.delete_fence::<EntryRecord>(&id);
            return Ok(Progress::Done);
        }
        delete_all(self.v, &entries);
        delete_all(self.v, &changes);
        delete_all(self.v, &values);
        Ok(Progress::Partly)
    }
}

fn first(limit: usize) -> Page {
    Page { after: None, limit }
}

fn delete_all<T: Record>(v: &mut View<'_>, kept: &[Kept<T>]) {
    for record in kept {
        v.delete_kept(record);
    }
}

impl ChangeRecord {
    /// The long values that it names.
    fn digests(&self) -> impl Iterator<Item = Digest> {
        let contents = self.to.iter().chain(&self.given);
        contents.filter_map(Content::digest)
    }
}
