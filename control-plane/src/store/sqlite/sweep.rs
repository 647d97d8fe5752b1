//! Compaction in bounded steps.
//!
//! Raising the floor is one small write; from then on what lies below can't be read. The versions that only
//! lower revisions needed are then removed along the log, some at each step, as part of the committer's own
//! transactions: a step adds rows to an fsync that happens anyway, and no writer waits for a long deletion.
//! A step that reaches a version removes the one it replaced, and the version itself if it is a deletion.
//! So the work is proportional to what was written, and what was created and never changed costs nothing.

use rusqlite::Connection;

use super::rows::RowId;

/// How much of the past is kept for reads at old revisions and for watches that resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Until somebody compacts.
    All,
    /// At least this many revisions below the head, and not many more.
    Last(u64),
}

/// How far compaction is to go, and is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sweep {
    /// The oldest revision that can be read.
    pub(super) floor: u64,
    /// Every row before this one is done.
    swept: RowId,
    retention: Retention,
}

/// A version that a step passes.
struct Passed {
    id: RowId,
    key: Vec<u8>,
    fate: Fate,
}

enum Fate {
    /// The key's first version stays, and nothing is before it.
    First,
    /// It replaced another one.
    Replaces,
    /// A deletion, or the mark of a transaction without changes.
    Nothing,
}

impl Sweep {
    pub(super) fn new(floor: u64, swept: RowId, retention: Retention) -> Self {
        Self {
            floor,
            swept,
            retention,
        }
    }

    /// Whether there is something left to remove.
    pub(super) fn is_pending(&self) -> bool {
        self.swept < RowId::after(self.floor)
    }

    /// Whether what only revisions below `to` needed is gone.
    pub(super) fn has_passed(&self, to: u64) -> bool {
        self.floor >= to && RowId::after(to) <= self.swept
    }

    /// The floor that the retention asks for. It moves in strides, so that it isn't written every time.
    pub(super) fn due(&self, head: u64) -> u64 {
        let Retention::Last(keep) = self.retention else {
            return self.floor;
        };
        let stride = (keep / 16).clamp(1, 4096);
        if head.saturating_sub(self.floor) >= keep.saturating_add(stride) {
            head - keep
        } else {
            self.floor
        }
    }

    /// Raises the floor on disk.
    pub(super) fn raise(&mut self, db: &Connection, to: u64) -> rusqlite::Result<()> {
        if to > self.floor {
            self.floor = to;
            set(db, "floor", to.cast_signed())?;
        }
        Ok(())
    }

    /// Passes at most `bound` versions.
    pub(super) fn step(&mut self, db: &Connection, bound: usize) -> rusqlite::Result<()> {
        if !self.is_pending() {
            return Ok(());
        }
        let end = RowId::after(self.floor);
        let passed = passed(db, self.swept, end, bound)?;
        for version in &passed {
            version.clean(db)?;
        }
        self.swept = passed
            .last()
            .filter(|_| passed.len() == bound)
            .map_or(end, |last| last.id.next());
        set(db, "swept", self.swept.stored())
    }
}

impl Passed {
    fn clean(&self, db: &Connection) -> rusqlite::Result<()> {
        let before = match self.fate {
            Fate::First => return Ok(()),
            Fate::Replaces => self.id,
            Fate::Nothing => self.id.next(),
        };
        db.prepare_cached("DELETE FROM versions WHERE key = ?1 AND id < ?2")?
            .execute((&self.key, before.stored()))?;
        Ok(())
    }
}

fn passed(db: &Connection, from: RowId, end: RowId, bound: usize) -> rusqlite::Result<Vec<Passed>> {
    let bound = i64::try_from(bound).unwrap_or(i64::MAX);
    db.prepare_cached(
        "SELECT id, key, version, value IS NULL FROM versions WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3",
    )?
    .query_map((from.stored(), end.stored(), bound), |row| {
        let fate = match (row.get(3)?, row.get(2)?) {
            (true, _) => Fate::Nothing,
            (false, 1) => Fate::First,
            (false, _) => Fate::Replaces,
        };
        Ok(Passed { id: RowId::from_stored(row.get(0)?), key: row.get(1)?, fate })
    })?
    .collect()
}

fn set(db: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?
        .execute((name, value))?;
    Ok(())
}
