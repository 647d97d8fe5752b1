//! The changes whose outcome isn't known here yet. Pure: requests, answers, the mirror and the time in; what to do out.
//!
//! A change is open from when it is asked for until the master's word on its idempotency key has come:
//!
//! | it is | while | what ends it |
//! |---|---|---|
//! | under way | programs wait for it | the master's record, or a refusal at its door if nothing was in doubt |
//! | in doubt | it may be done, and nobody waits | the master, asked by the key; a program that asks for it again |
//!
//! While it is open it has room in the mirror set aside, so that what the master takes the mirror can take, too. Programs
//! that ask under one key for different things have room for each set aside: any of them may be the one that is made.
//!
//! The master has no record of a request that is still on its way. A signature is taken for a while only
//! ([`WINDOW_SECONDS`]), so that no record [`TOO_LATE_MS`] after the last sending means that there will never be one.

use std::collections::BTreeMap;

use moorline_shared::entry::{MAX_ENTRIES, MAX_INSTANCE_BYTES};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::Moment;
use moorline_shared::signature::WINDOW_SECONDS;
use moorline_shared::{EntryPath, InstanceId};
use serde::{Deserialize, Serialize};

use crate::mirror::Mirror;

/// The most changes that are open at once. Each that a program waits for has a connection; the rest are in doubt.
const MOST_OPEN: usize = 256;

/// How long after its last sending a request can still be done, in milliseconds: its signature may be of a clock that is
/// ahead by the whole window, and what was taken at the end of the window may take a minute to be done.
pub const TOO_LATE_MS: u64 = 2_000 * WINDOW_SECONDS.unsigned_abs() + 60_000;

/// Between two questions about a change in doubt, in milliseconds: at first and at most.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;

/// What a change in doubt is known by. It holds no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What it is asked for under.
    pub key: IdempotencyKey,
    /// The instance that asks.
    pub by: InstanceId,
    /// `PUT`, `POST` or `DELETE`.
    pub method: String,
    /// The path of the request.
    pub target: String,
}

/// The room that a change may take in the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// None: it removes an entry, or is of another instance's.
    Nothing,
    /// The entry has this many bytes then.
    Whole(EntryPath, usize),
    /// The entry has this many bytes more then.
    More(EntryPath, usize),
}

/// Why a change is not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The instance would have more entries than it may.
    #[error(
        "with this and the changes under way the instance could have {0} entries; the most is {MAX_ENTRIES}: delete some \
         first"
    )]
    Entries(usize),
    /// The instance's values would be longer than they may be.
    #[error(
        "with this and the changes under way the instance's values could have {0} bytes together; the most is \
         {MAX_INSTANCE_BYTES}: delete some first"
    )]
    Bytes(usize),
    /// Too many changes are in doubt already.
    #[error(
        "{MOST_OPEN} changes are under way or in doubt, the most there may be: try again when the host is in reach"
    )]
    Open,
}

/// Whether a change was open before a program asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It was not.
    First,
    /// It was: the program asks again, or at the same time as another.
    Again,
}

/// How a program's waiting for a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The master has a record of the key: done or refused, it stays so.
    Recorded,
    /// What this program sent last was not taken, and leaves nothing.
    TurnedAway,
    /// Nobody knows: the answer was lost, or the program went away.
    Lost,
}

/// What the master says about the key of a change in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// There is a record.
    Recorded,
    /// There is none.
    Nothing,
}

/// What is left of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It is open.
    Open,
    /// It isn't open any more.
    Closed,
}

#[derive(Clone, Debug)]
struct Open {
    mark: Mark,
    /// What the programs that asked for it need; one of these is made at most. `None` where an earlier process was asked.
    needs: Option<Vec<Need>>,
    /// How many programs wait for it.
    askers: usize,
    /// Whether something was sent of which nobody knows what became of it.
    doubt: bool,
    /// When it may have been sent last.
    sent: Moment,
    /// When the master is asked next, if nobody waits.
    next: Moment,
    pause_ms: u64,
}

impl Open {
    fn is_in_doubt(&self) -> bool {
        self.askers == 0
    }
}

/// The changes that are open.
#[derive(Clone, Debug, Default)]
pub struct Pending(BTreeMap<IdempotencyKey, Open>);

impl Pending {
    /// Takes up what an earlier process left at `now`, when it was sent at the latest.
    pub fn restore(&mut self, marks: impl IntoIterator<Item = Mark>, now: Moment) {
        for mark in marks.into_iter().take(MOST_OPEN) {
            let open = Open {
                needs: None,
                askers: 0,
                doubt: true,
                sent: now,
                next: now,
                pause_ms: FIRST_PAUSE_MS,
                mark,
            };
            self.0.insert(open.mark.key.clone(), open);
        }
    }

    /// A program asks for a change at `now`; refused if the mirror might have no room for what it makes.
    ///
    /// Say [`Self::ended`] once for each that is taken.
    pub fn begin(&mut self, mark: Mark, need: Need, mirror: &Mirror, now: Moment) -> Result<Begun, NoRoom> {
        if !self.0.contains_key(&mark.key) && self.0.len() >= MOST_OPEN {
            return Err(NoRoom::Open);
        }
        let needs = self.set_aside(&mark.key, need, mirror)?;
        if let Some(open) = self.0.get_mut(&mark.key) {
            open.needs = Some(needs);
            open.askers += 1;
            open.sent = now;
            return Ok(Begun::Again);
        }
        let open = Open {
            needs: Some(needs),
            askers: 1,
            doubt: false,
            sent: now,
            next: now,
            pause_ms: FIRST_PAUSE_MS,
            mark,
        };
        self.0.insert(open.mark.key.clone(), open);
        Ok(Begun::First)
    }

    /// What is set aside for the change with this key if a program asks for it that has this need. Who asks for the same
    /// again, or for less, needs no more room; what an earlier process was asked for may be in the mirror already, and who
    /// asks for that again is to hear what became of it.
    fn set_aside(&self, key: &IdempotencyKey, need: Need, mirror: &Mirror) -> Result<Vec<Need>, NoRoom> {
        let open = self.0.get(key);
        let before = open.map_or(Some(&[][..]), |open| open.needs.as_deref());
        let needs = with(before.unwrap_or_default(), need);
        if before.is_none_or(|before| needs == before) {
            return Ok(needs);
        }
        let others = self.0.iter().filter(|(other, _)| *other != key);
        let others = others.flat_map(|(_, open)| open.needs.iter().flatten());
        let (entries, bytes) = most(mirror, others.chain(&needs));
        if entries > MAX_ENTRIES {
            Err(NoRoom::Entries(entries))
        } else if bytes > MAX_INSTANCE_BYTES {
            Err(NoRoom::Bytes(bytes))
        } else {
            Ok(needs)
        }
    }

    /// An answer was lost at `now`, and the program goes on waiting.
    pub fn lost(&mut self, key: &IdempotencyKey, now: Moment) {
        if let Some(open) = self.0.get_mut(key) {
            open.doubt = true;
            open.sent = now;
        }
    }

    /// A program waits no longer.
    pub fn ended(&mut self, key: &IdempotencyKey, end: End, now: Moment) -> Left {
        if end == End::Lost {
            self.lost(key, now);
        }
        let Some(open) = self.0.get_mut(key) else {
            return Left::Closed;
        };
        open.askers = open.askers.saturating_sub(1);
        (open.next, open.pause_ms) = (now, FIRST_PAUSE_MS);
        if end == End::Recorded || (open.askers == 0 && !open.doubt) {
            self.0.remove(key);
            return Left::Closed;
        }
        Left::Open
    }

    /// When the master is to be asked about a change in doubt; `None` if there is none.
    pub fn next_question(&self) -> Option<Moment> {
        let doubtful = self.0.values().filter(|open| open.is_in_doubt());
        doubtful.map(|open| open.next).min()
    }

    /// The change that the master is to be asked about at `now`. The next question about it is later.
    pub fn question(&mut self, now: Moment) -> Option<Mark> {
        let mut doubtful = self.0.values_mut().filter(|open| open.is_in_doubt());
        let open = doubtful.find(|open| open.next <= now)?;
        open.next = Moment(now.0.saturating_add(open.pause_ms));
        open.pause_ms = (open.pause_ms * 2).min(LONGEST_PAUSE_MS);
        Some(open.mark.clone())
    }

    /// What the master said when it was asked at `asked`.
    pub fn answered(&mut self, key: &IdempotencyKey, word: Word, asked: Moment) -> Left {
        let closed = |open: &Open| match word {
            Word::Recorded => true,
            Word::Nothing => open.is_in_doubt() && asked.since(open.sent) >= TOO_LATE_MS,
        };
        if self.0.get(key).is_some_and(|open| !closed(open)) {
            return Left::Open;
        }
        self.0.remove(key);
        Left::Closed
    }

    /// Lets go of what other instances asked for: this machine's disk was theirs. Returns it.
    pub fn keep_own(&mut self, own: InstanceId) -> Vec<Mark> {
        let others = self.0.extract_if(.., |_, open| open.mark.by != own);
        others.map(|(_, open)| open.mark).collect()
    }

    /// The change with this key and whether programs wait for it, if it is open.
    pub fn get(&self, key: &IdempotencyKey) -> Option<(&Mark, Waited)> {
        self.0.get(key).map(shown)
    }

    /// All that are open, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Mark, Waited)> {
        self.0.values().map(shown)
    }
}

/// Whether programs wait for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Some do.
    For,
    /// None does: it is in doubt.
    ForNoMore,
}

fn shown(open: &Open) -> (&Mark, Waited) {
    let waited = if open.is_in_doubt() {
        Waited::ForNoMore
    } else {
        Waited::For
    };
    (&open.mark, waited)
}

/// The needs of a change with one more: of two of a kind the larger. Their number is bounded by that of the entries that
/// there is room for.
fn with(needs: &[Need], more: Need) -> Vec<Need> {
    let mut needs = needs.to_vec();
    let larger = |known: &mut Need| match (known, &more) {
        (Need::Whole(path, bytes), Need::Whole(other, more))
        | (Need::More(path, bytes), Need::More(other, more))
            if path == other =>
        {
            *bytes = (*bytes).max(*more);
            true
        }
        _ => false,
    };
    if more != Need::Nothing && !needs.iter_mut().any(larger) {
        needs.push(more);
    }
    needs
}

/// The most entries and bytes that the mirror can come to by these changes, whichever of them are made and in whatever
/// order.
fn most<'a>(mirror: &Mirror, needs: impl Iterator<Item = &'a Need>) -> (usize, usize) {
    let mut grown: BTreeMap<&EntryPath, (usize, usize)> = BTreeMap::new();
    let before = |path: &EntryPath| mirror.peek(path).map_or(0, |entry| entry.value().len());
    for need in needs {
        match need {
            Need::Nothing => {}
            Need::Whole(path, bytes) => {
                let (whole, _) = grown.entry(path).or_insert_with(|| (before(path), 0));
                *whole = (*whole).max(*bytes);
            }
            Need::More(path, bytes) => grown.entry(path).or_insert_with(|| (before(path), 0)).1 += bytes,
        }
    }
    let new = grown.keys().filter(|path| mirror.peek(path).is_none()).count();
    let old: usize = grown.keys().map(|path| before(path)).sum();
    let present: usize = grown.values().map(|(whole, more)| whole + more).sum();
    (mirror.len() + new, mirror.bytes() - old + present)
}
