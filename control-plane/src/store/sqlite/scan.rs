//! Reading many rows: a page of a range, and a stretch of the log.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Row};

use super::rows::{self, RowId, Stored};
use crate::store::Page;
use crate::store::key::{End, Key, Range};
use crate::store::watch::{Batch, Event};

/// After this many versions of one key it is cheaper to look up the right one and jump to the next key.
const MANY_VERSIONS: usize = 16;
/// A page ends after this many versions, however few of them it shows, so that its time is bounded.
const PAGE_VERSIONS: usize = 16 << 10;
/// A stretch of the log ends after the transaction that brings it over this many bytes.
const STRETCH_BYTES: usize = 256 << 10;
/// The first key, and bytes after the last: the empty key of the table's marks is no key.
const FIRST: &[u8] = &[0];
const LAST: &[u8] = &[u8::MAX; Key::MAX + 1];

/// One page of `range` at revision `at`.
pub(super) fn page(db: &Connection, at: u64, range: &Range) -> rusqlite::Result<Page> {
    // All statements below see the same rows.
    let snapshot = db.unchecked_transaction()?;
    let mut scan = Scan::new(&snapshot, at, range);
    let mut from = Bytes::copy_from_slice(FIRST.max(&range.start));
    loop {
        match scan.walk(&from)? {
            Walked::Jump(next) => from = next,
            Walked::Done(next) => return Ok(Page { next, ..scan.page }),
        }
    }
}

/// How far a walk along the index came.
enum Walked {
    /// It goes on at this key.
    Jump(Bytes),
    /// The page is finished, and the range goes on there or ends.
    Done(Option<Bytes>),
}

struct Scan<'a> {
    db: &'a Connection,
    before: RowId,
    end: &'a [u8],
    limit: usize,
    page: Page,
    bytes: usize,
    versions: usize,
}

/// A key that the walk is at, and its newest version in sight.
struct Candidate {
    key: Key,
    newest: Option<RowId>,
    versions: usize,
}

impl<'a> Scan<'a> {
    fn new(db: &'a Connection, at: u64, range: &'a Range) -> Self {
        let end = match &range.end {
            End::Before(end) => end,
            End::Open => LAST,
        };
        let page = Page {
            entries: Vec::new(),
            next: None,
        };
        Self {
            db,
            before: RowId::after(at),
            end,
            limit: range.page_limit(),
            page,
            bytes: 0,
            versions: 0,
        }
    }

    fn walk(&mut self, from: &[u8]) -> rusqlite::Result<Walked> {
        let db = self.db;
        let mut walk =
            db.prepare_cached("SELECT key, id FROM versions WHERE key >= ?1 AND key < ?2 ORDER BY key, id")?;
        let mut index = walk.query((from, self.end))?;
        let mut candidate = None;
        while let Some(row) = index.next()? {
            if let ControlFlow::Break(walked) = self.visit(&mut candidate, row)? {
                return Ok(walked);
            }
        }
        candidate.map_or(Ok(()), |last| self.settle(last))?;
        Ok(Walked::Done(None))
    }

    /// Takes one row of the index.
    fn visit(
        &mut self,
        candidate: &mut Option<Candidate>,
        row: &Row<'_>,
    ) -> rusqlite::Result<ControlFlow<Walked>> {
        self.versions += 1;
        let id = Some(RowId::from_stored(row.get(1)?)).filter(|id| *id < self.before);
        let bytes = row.get_ref(0)?.as_blob()?;
        if let Some(same) = candidate
            .as_mut()
            .filter(|candidate| candidate.key.as_bytes() == bytes)
        {
            same.newest = id.or(same.newest);
            same.versions += 1;
            return self.jump(candidate);
        }
        let Some(key) = rows::key(row, 0)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if let Some(passed) = candidate.replace(Candidate {
            key,
            newest: id,
            versions: 1,
        }) {
            self.settle(passed)?;
        }
        if self.is_full() {
            return Ok(ControlFlow::Break(Walked::Done(Some(Bytes::copy_from_slice(
                bytes,
            )))));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Leaves a key with many versions behind by looking up the right one.
    fn jump(&mut self, candidate: &mut Option<Candidate>) -> rusqlite::Result<ControlFlow<Walked>> {
        let Some(long) = candidate.take_if(|candidate| candidate.versions >= MANY_VERSIONS) else {
            return Ok(ControlFlow::Continue(()));
        };
        let next = long.key.successor();
        let newest = rows::newest(self.db, long.key.as_bytes(), self.before)?;
        self.show(long.key, newest);
        Ok(ControlFlow::Break(if self.is_full() {
            Walked::Done(Some(next))
        } else {
            Walked::Jump(next)
        }))
    }

    /// Shows the candidate with the version that was found for it.
    fn settle(&mut self, candidate: Candidate) -> rusqlite::Result<()> {
        let Some(id) = candidate.newest else { return Ok(()) };
        let stored = self
            .db
            .prepare_cached("SELECT id, created, version, value FROM versions WHERE id = ?1")?
            .query_row([id.stored()], rows::stored)?;
        self.show(candidate.key, Some(stored));
        Ok(())
    }

    fn show(&mut self, key: Key, stored: Option<Stored>) {
        if let Some(value) = stored.and_then(|stored| stored.value) {
            self.bytes += key.as_bytes().len() + value.value.len();
            self.page.entries.push((key, value));
        }
    }

    fn is_full(&self) -> bool {
        self.page.entries.len() >= self.limit
            || self.bytes >= Range::MAX_BYTES
            || self.versions >= PAGE_VERSIONS
    }
}

/// Whole transactions in `after+1..=head`, oldest first, as many as a stretch holds.
pub(super) fn batches(db: &Connection, after: u64, head: u64) -> rusqlite::Result<VecDeque<Batch>> {
    let mut statement = db.prepare_cached(
        "SELECT id, created, version, value, key FROM versions WHERE id >= ?1 AND id < ?2 ORDER BY id",
    )?;
    let mut log = statement.query((RowId::after(after).stored(), RowId::after(head).stored()))?;
    let mut stretch = Stretch::default();
    while let Some(row) = log.next()? {
        let stored = rows::stored(row)?;
        if stretch.is_full() && stored.id.n() != stretch.n {
            break;
        }
        stretch.add(rows::key(row, 4)?, stored);
    }
    stretch.finish();
    Ok(stretch.batches)
}

#[derive(Default)]
struct Stretch {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The transaction whose events are being gathered; 0 before the first.
    n: u64,
    events: Vec<Event>,
}

impl Stretch {
    fn is_full(&self) -> bool {
        self.bytes >= STRETCH_BYTES
    }

    fn add(&mut self, key: Option<Key>, stored: Stored) {
        if stored.id.n() != self.n {
            self.finish();
            self.n = stored.id.n();
        }
        if let Some(key) = key {
            let event = Event {
                key,
                value: stored.value,
            };
            self.bytes += event.weight();
            self.events.push(event);
        }
    }

    fn finish(&mut self) {
        if self.n > 0 {
            let events: Arc<[Event]> = std::mem::take(&mut self.events).into();
            self.batches.push_back(Batch { n: self.n, events });
        }
    }
}
