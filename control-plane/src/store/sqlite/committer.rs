//! The one thread that writes.
//!
//! It takes every transaction that is waiting, up to a bound, puts them into one `SQLite` transaction, and so
//! makes all of them durable with one fsync; while that runs, the next ones gather. Only then it publishes
//! them to readers and watches, and answers the callers. Between groups it compacts and checkpoints.
//!
//! It doesn't wait for a group to become larger: tried with pauses of 10 to 100 us, which brought 7 % more
//! throughput where callers came back at once, and cost up to 12 % where they came back later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::group::{Group, Verdict};
use super::reader::Shared;
use super::rows;
use super::scan;
use super::stats::Outcome;
use super::sweep::Sweep;
use super::tail::Life;
use crate::store::error::{Cause, Closed, CommitError, CompactError};
use crate::store::transaction::Transaction;
use crate::store::watch::Batch;

/// A group ends with the transaction that reaches one of these: its dirty pages have to fit in the writer's
/// cache, and its callers shouldn't wait long for its fsync.
const GROUP_TRANSACTIONS: usize = 512;
const GROUP_BYTES: usize = 8 << 20;
/// How many versions a compaction step passes besides a group, at least, and in a transaction of its own.
const STEP_BESIDE: usize = 64;
const STEP_ALONE: usize = 1024;
/// The write-ahead log is moved into the database once it has this many pages, of 4 KiB each.
///
/// Nobody commits meanwhile, so the log shouldn't be long; but a page that changed in several commits is
/// moved once, so it shouldn't be short. Measured with 32 callers that each put 5 values of 300 bytes, all
/// the time: 54,000 puts/s and a p99 of 10 ms at 1,000 pages, 61,000 and 16 ms at 4,000, and 65,000 with
/// rarer and longer pauses at 16,000. A thread of its own for this couldn't end a log that is being
/// written, and so the log would grow for as long as the load lasts.
const CHECKPOINT_PAGES: usize = 4096;

/// What callers send.
pub(super) enum Job {
    Commit(Waiting),
    Compact(Compaction),
    /// Make something durable that changes nothing, to see whether that can be done.
    Probe(Probe),
    /// End after what was sent before; the sender is dropped when that is done.
    Close(oneshot::Sender<()>),
}

/// Who wants to know whether the store can commit.
pub(super) type Probe = oneshot::Sender<Result<(), CommitError>>;

/// A transaction and who waits for it.
pub(super) struct Waiting {
    pub(super) transaction: Transaction,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<u64, CommitError>>,
    /// Its place in the bounded queue, free again once it is answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// A compaction and who waits for it.
pub(super) struct Compaction {
    pub(super) to: u64,
    pub(super) answer: oneshot::Sender<Result<(), CompactError>>,
}

pub(super) struct Committer {
    db: Connection,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    sweep: Sweep,
    compactions: Vec<Compaction>,
    probes: Vec<Probe>,
    /// Pages in the write-ahead log, as `SQLite` counts them at each commit.
    log_pages: Arc<AtomicUsize>,
    health: Health,
    /// Who waits for the end; nobody does while the store is open.
    closing: Vec<oneshot::Sender<()>>,
}

/// How the last group went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// It failed and left nothing behind. Compaction doesn't try on its own meanwhile.
    Failing,
    /// It may be in the file: the head must be read from there before anything else is written.
    Doubtful,
}

/// A group that is durable.
struct Written {
    verdicts: Vec<Verdict>,
    batches: Vec<Batch>,
    sweep: Sweep,
}

/// A group that isn't durable, or may not be.
enum Failure {
    Refused(rusqlite::Error),
    Unknown(rusqlite::Error),
}

/// What to do next.
enum Turn {
    Job(Job),
    Compact,
    End,
}

impl Committer {
    pub(super) fn new(
        mut db: Connection,
        jobs: Receiver<Job>,
        shared: Arc<Shared>,
        sweep: Sweep,
    ) -> rusqlite::Result<Self> {
        let log_pages = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&log_pages);
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            counter.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let (compactions, probes, closing) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            db,
            jobs,
            shared,
            sweep,
            compactions,
            probes,
            log_pages,
            health: Health::Good,
            closing,
        })
    }

    /// Works until the store is closed, and then tells the watches.
    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.shared));
        loop {
            let commits = match self.turn() {
                Turn::Job(job) => self.gather(job),
                Turn::Compact => Vec::new(),
                Turn::End => return,
            };
            self.commit(commits);
            self.answer_compactions();
            self.checkpoint();
        }
    }

    fn turn(&self) -> Turn {
        let busy = self.sweep.is_pending() && self.health == Health::Good;
        if !busy && self.closing.is_empty() {
            return self.jobs.recv().map_or(Turn::End, Turn::Job);
        }
        match self.jobs.try_recv() {
            Ok(job) => Turn::Job(job),
            Err(TryRecvError::Empty) if self.closing.is_empty() => Turn::Compact,
            Err(_) => Turn::End,
        }
    }

    /// Takes what is waiting, up to a group's bounds.
    fn gather(&mut self, first: Job) -> Vec<Waiting> {
        let mut commits = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Commit(waiting) => {
                    bytes += waiting.bytes;
                    commits.push(waiting);
                }
                Job::Compact(compaction) => {
                    self.shared.floor.fetch_max(compaction.to, Ordering::AcqRel);
                    self.compactions.push(compaction);
                }
                Job::Probe(probe) => self.probes.push(probe),
                Job::Close(done) => self.closing.push(done),
            }
            let full = commits.len() >= GROUP_TRANSACTIONS || bytes >= GROUP_BYTES;
            next = if full { None } else { self.jobs.try_recv().ok() };
        }
        commits
    }

    fn commit(&mut self, commits: Vec<Waiting>) {
        let begun = Instant::now();
        match self.write(&commits) {
            Ok(written) => {
                let stats = &self.shared.stats;
                if !commits.is_empty() {
                    stats.group(commits.len(), begun.elapsed());
                }
                stats.good();
                for probe in self.probes.drain(..) {
                    // Who went away doesn't need its answer.
                    let _ = probe.send(Ok(()));
                }
                if self.health != Health::Good {
                    tracing::info!("the store commits again");
                    self.health = Health::Good;
                }
                self.sweep = written.sweep;
                publish(&self.shared, written.batches);
                answer(&self.shared, commits, written.verdicts);
            }
            Err(failure) => self.fail(commits, failure),
        }
    }

    /// Makes the group durable, together with a step of compaction.
    fn write(&mut self, commits: &[Waiting]) -> Result<Written, Failure> {
        if self.health == Health::Doubtful {
            self.find_head().map_err(Failure::Refused)?;
        }
        let mut sweep = self.sweep;
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Failure::Refused)?;
        let mut group = Group::new(&transaction, &self.shared.current, self.shared.head());
        let verdicts: Result<_, _> = commits
            .iter()
            .map(|waiting| group.apply(&waiting.transaction))
            .collect();
        let batches = group.into_batches();
        let verdicts = verdicts.map_err(Failure::Refused)?;
        compact(&transaction, &self.shared, &mut sweep, &batches).map_err(Failure::Refused)?;
        if !self.probes.is_empty() {
            rows::touch(&transaction).map_err(Failure::Refused)?;
        }
        transaction.commit().map_err(Failure::of_commit)?;
        Ok(Written {
            verdicts,
            batches,
            sweep,
        })
    }

    fn fail(&mut self, commits: Vec<Waiting>, failure: Failure) {
        self.note(&failure);
        let (outcome, error, source) = failure.told();
        self.shared.stats.failing();
        self.shared.stats.count(outcome, commits.len());
        let waiting = commits.into_iter().map(|waiting| waiting.answer);
        for answer in waiting {
            // A caller that went away doesn't need its answer.
            let _ = answer.send(Err(error.clone()));
        }
        for probe in self.probes.drain(..) {
            let _ = probe.send(Err(error.clone()));
        }
        for compaction in self.compactions.drain(..) {
            let _ = compaction.answer.send(Err(CompactError::Unavailable {
                source: source.clone(),
            }));
        }
    }

    fn note(&mut self, failure: &Failure) {
        let (Failure::Refused(error) | Failure::Unknown(error)) = failure;
        let unknown = matches!(failure, Failure::Unknown(_));
        if self.health == Health::Good {
            tracing::error!(%error, unknown, "the store can't commit");
        }
        if unknown {
            self.health = Health::Doubtful;
        } else if self.health == Health::Good {
            self.health = Health::Failing;
        }
    }

    /// After a commit of unknown fate: ends it, and publishes what of it is in the file after all.
    fn find_head(&mut self) -> rusqlite::Result<()> {
        if !self.db.is_autocommit() {
            self.db.execute_batch("ROLLBACK")?;
        }
        let known = self.shared.head();
        let newest = rows::head(&self.db)?.max(known);
        while self.shared.head() < newest {
            let found = scan::batches(&self.db, self.shared.head(), newest)?;
            publish(&self.shared, found.into());
        }
        self.health = Health::Failing;
        Ok(())
    }

    fn answer_compactions(&mut self) {
        for done in self
            .compactions
            .extract_if(.., |compaction| self.sweep.has_passed(compaction.to))
        {
            let _ = done.answer.send(Ok(()));
        }
    }

    /// Moves the write-ahead log into the database once it is long, after the callers have their answers.
    fn checkpoint(&mut self) {
        if self.log_pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return;
        }
        // If this fails or can't finish, the log grows and the next commit sets the count again.
        self.log_pages.store(0, Ordering::Relaxed);
        if let Err(error) = self
            .db
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        {
            tracing::warn!(%error, "the store's write-ahead log can't be moved into the database now");
        }
    }
}

impl Drop for Committer {
    /// Answers those who came too late.
    fn drop(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            let source = Cause::new(Closed);
            match job {
                Job::Commit(late) => drop(late.answer.send(Err(CommitError::Unavailable { source }))),
                Job::Compact(late) => drop(late.answer.send(Err(CompactError::Unavailable { source }))),
                Job::Probe(late) => drop(late.send(Err(CommitError::Unavailable { source }))),
                Job::Close(_) => {}
            }
        }
    }
}

impl Failure {
    /// How it counts, what who waits for the group is told, and why.
    fn told(self) -> (Outcome, CommitError, Cause) {
        match self {
            Self::Unknown(error) => {
                let source = Cause::new(error);
                let told = source.clone();
                (Outcome::Unknown, CommitError::Unknown { source: told }, source)
            }
            Self::Refused(error) => {
                let source = Cause::new(error);
                let told = source.clone();
                (
                    Outcome::Unavailable,
                    CommitError::Unavailable { source: told },
                    source,
                )
            }
        }
    }

    /// A commit that found the disk full wrote no end to the log, so it can't come back. After any other
    /// failure the end may be on disk although `SQLite` took the transaction back, and a crash before the next
    /// commit could bring it to light.
    fn of_commit(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => Self::Refused(error),
            _ => Self::Unknown(error),
        }
    }
}

/// Tells the watches when the committer ends, also if it panics.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0
            .progress
            .send_modify(|progress| progress.life = Life::Closed);
    }
}

/// Raises the floor if that is asked for or due, and does a step of the work below it.
fn compact(db: &Connection, shared: &Shared, sweep: &mut Sweep, batches: &[Batch]) -> rusqlite::Result<()> {
    let head = batches.last().map_or(shared.head(), |batch| batch.n);
    // Readers have to know the floor before anything below it goes.
    let due = sweep.due(head);
    let floor = shared.floor.fetch_max(due, Ordering::AcqRel).max(due);
    sweep.raise(db, floor)?;
    let events: usize = batches.iter().map(|batch| batch.events.len()).sum();
    // Twice what the group adds, so that compaction keeps up with any load.
    sweep.step(
        db,
        if batches.is_empty() {
            STEP_ALONE
        } else {
            STEP_BESIDE.max(2 * events)
        },
    )
}

/// Shows durable transactions to readers, then to watches.
fn publish(shared: &Shared, batches: Vec<Batch>) {
    let Some(head) = batches.last().map(|batch| batch.n) else {
        return;
    };
    for batch in &batches {
        shared.current.apply(batch);
    }
    shared.recent.push(batches);
    shared.head.store(head, Ordering::Release);
    shared.progress.send_modify(|progress| progress.head = head);
}

fn answer(shared: &Shared, commits: Vec<Waiting>, verdicts: Vec<Verdict>) {
    for (waiting, verdict) in commits.into_iter().zip(verdicts) {
        let (outcome, result) = match verdict {
            Verdict::Written { n } => (Outcome::Written, Ok(n)),
            Verdict::Conflict { guard, key } => {
                (Outcome::Conflict, Err(CommitError::Conflict { guard, key }))
            }
        };
        shared.stats.count(outcome, 1);
        // A caller that went away doesn't need its answer.
        let _ = waiting.answer.send(result);
        drop(waiting.room);
    }
}
