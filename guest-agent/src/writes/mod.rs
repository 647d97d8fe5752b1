//! The instance's own changes: both the master's copy and the mirror have them in the end, or neither.
//!
//! A change takes two steps. First this side makes sure that it can take the change: the [`pending`] changes have room in
//! the mirror set aside, and each leaves a mark ([`marks`]) before anything is sent. Then the master decides, through the
//! host: its commit is *the* commit, and the mirror follows by the host's push, for which the answer waits. Nothing here
//! has to be taken back ever: before the commit the mirror hasn't changed, and after it the mirror can't refuse, since it
//! is a part of what the master holds, and the master keeps to the same bounds. A batch that doesn't fit for another
//! reason ends the session, and the next one begins with a snapshot.
//!
//! An answer can be lost: with the link, with the host, or with the host's way to the control plane. The same request is
//! then sent again, signed anew, under the same idempotency key, for as long as the program may be expected to wait: what
//! was done is not done twice. If that doesn't help, the program is told that the outcome is unknown and by which key to
//! ask, and [`Writes::keep`] goes on asking the master for its record of the key. So it does for what an agent that was
//! killed left behind.

mod marks;
mod outcome;
pub mod pending;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::api::data::Changed;
use moorline_shared::api::{KEY_REUSED, OPERATION, ProblemDetails};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::body::{Relay, Relayed};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::link::{AskFailure, Line};
use crate::mirror::Live;
use crate::platform::now;
use crate::proof::{ProveError, Prover};

pub use marks::Marks;
pub use outcome::RecordError;
use pending::{Begun, End, Left, Pending};
pub use pending::{Mark, Need, NoRoom};

/// How long an answer to a change of the instance's own data waits for the mirror to have it, so that a program reads
/// what it wrote. What the instance may write but not read never comes.
const MIRROR_WAIT: Duration = Duration::from_millis(500);

/// Between two sendings of a request whose answer was lost, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long an answer that was lost is asked for again while a program waits.
pub const SETTLING: Duration = Duration::from_secs(20);

const SERVER_ERRORS: u16 = 500;

/// A change to be made.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it is known by.
    pub mark: Mark,
    /// What it takes of the mirror.
    pub need: Need,
    /// The request. It has the mark's key.
    pub relay: Relay,
}

/// The master's answer to a change.
#[derive(Clone, Debug)]
pub struct Made {
    /// The answer.
    pub answer: Relayed,
    /// Whether the mirror has what was changed.
    pub mirrored: Mirrored,
}

/// Whether the mirror has a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// It has.
    Already,
    /// Not within [`MIRROR_WAIT`]: it comes with the host's next push, unless the instance may not read it.
    NotYet,
    /// It is not the mirror's: nothing was changed, or another instance's data were.
    NotOurs,
}

/// Why a change has no answer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It was not sent.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It was not made.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The answer was lost, and could not be had again in time.
    #[error(
        "{doubt}, and whether the change was made could not be found out yet; ask again with the same idempotency key, \
         {key} (the header Idempotency-Key, or --idempotency-key of moorline-agent), which makes it once at most, or see \
         moorline-agent write-status {key}"
    )]
    Unsettled {
        /// What the change is known by.
        key: IdempotencyKey,
        /// What came in place of the answer.
        doubt: Doubt,
    },
}

/// What came in place of an answer to a change that may be made.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// Nothing.
    #[error(transparent)]
    Lost(AskFailure),
    /// The failure of a server on the way, which names no record.
    #[error("the answer was status {0} without a record")]
    Failed(u16),
}

/// Makes changes, and finds out about those whose answer was lost. It belongs to one thread.
#[derive(Debug)]
pub struct Writes {
    pending: RefCell<Pending>,
    marks: Marks,
    /// A change came into doubt.
    doubt: Notify,
    line: Rc<Line>,
    prover: Rc<Prover>,
    mirror: Rc<Live>,
    patience: Duration,
}

impl Writes {
    /// Takes up the marks that an earlier process left. A program waits for `patience` for an answer that was lost.
    pub fn new(
        marks: Marks,
        line: Rc<Line>,
        prover: Rc<Prover>,
        mirror: Rc<Live>,
        patience: Duration,
    ) -> Self {
        let mut pending = Pending::default();
        pending.restore(marks.read(), now());
        Self {
            pending: pending.into(),
            marks,
            doubt: Notify::new(),
            line,
            prover,
            mirror,
            patience,
        }
    }

    /// Makes a change: at the master and in the mirror, or nowhere.
    ///
    /// Dropping the future takes the question back. Whether the change is made is then not known; [`Self::keep`] finds
    /// out.
    pub async fn make(&self, change: &Change) -> Result<Made, WriteError> {
        let mut asked = self.begin(change)?;
        let answer = self.ask(change, &mut asked).await?;
        // The room stays set aside until the mirror has filled it.
        let mirrored = self.until_mirrored(&change.mark, &answer).await;
        Ok(Made { answer, mirrored })
    }

    fn begin<'a>(&'a self, change: &'a Change) -> Result<Asked<'a>, NoRoom> {
        let (mark, need) = (change.mark.clone(), change.need.clone());
        let mut pending = self.pending.borrow_mut();
        if pending.begin(mark, need, &self.mirror.read(), now())? == Begun::First {
            self.marks.put(&change.mark);
        }
        Ok(Asked {
            writes: self,
            key: &change.mark.key,
            end: End::Lost,
        })
    }

    async fn ask(&self, change: &Change, asked: &mut Asked<'_>) -> Result<Relayed, WriteError> {
        let answer = self.prover.relay(&change.relay).await;
        asked.end = end_of(&answer);
        let doubt = match (asked.end, answer) {
            (End::Lost, Err(ProveError::Ask(lost))) => Doubt::Lost(lost),
            (End::Lost, Ok(failed)) => Doubt::Failed(failed.status),
            (_, answer) => return Ok(answer?),
        };
        self.pending.borrow_mut().lost(asked.key, now());
        match timeout(self.patience, self.ask_again(&change.relay)).await {
            Ok(answer) => {
                asked.end = End::Recorded;
                Ok(answer)
            }
            Err(_) => Err(WriteError::Unsettled {
                key: asked.key.clone(),
                doubt,
            }),
        }
    }

    /// Sends a request again, until it is the master's record that answers: a refusal at the door says nothing about what
    /// was sent before.
    async fn ask_again(&self, relay: &Relay) -> Relayed {
        let mut pause = FIRST_PAUSE;
        loop {
            self.line.opened().await;
            let answer = self.prover.relay(relay).await;
            if let (End::Recorded, Ok(answer)) = (end_of(&answer), answer) {
                return answer;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn until_mirrored(&self, mark: &Mark, answer: &Relayed) -> Mirrored {
        let own = format!("/v1/instances/{}/", mark.by);
        if !mark.target.starts_with(&own) || !(200..300).contains(&answer.status) {
            return Mirrored::NotOurs;
        }
        let Ok(changed) = serde_json::from_slice::<Changed>(answer.body.bytes()) else {
            return Mirrored::NotYet;
        };
        let mirrored = self
            .mirror
            .until(|mirror| (mirror.applied()? >= changed.revision).then_some(()));
        match timeout(MIRROR_WAIT, mirrored).await {
            Ok(()) => Mirrored::Already,
            Err(_) => Mirrored::NotYet,
        }
    }

    /// Asks the master about changes in doubt until `stop` is cancelled.
    ///
    /// Dropping the future is harmless: the marks stay, and the next question is asked by the next one who keeps them.
    pub async fn keep(&self, stop: &CancellationToken) {
        let _ = stop.run_until_cancelled(self.keep_asking()).await;
    }

    async fn keep_asking(&self) {
        loop {
            self.until_due().await;
            self.line.opened().await;
            self.let_go_of_others();
            let due = self.pending.borrow_mut().question(now());
            if let Some(mark) = due {
                self.find_out(&mark).await;
            }
        }
    }

    /// Waits until the master is to be asked about something.
    async fn until_due(&self) {
        loop {
            let mut doubt = std::pin::pin!(self.doubt.notified());
            // Registered before the look, so that a doubt that comes in between is not missed.
            doubt.as_mut().enable();
            let next = self.pending.borrow().next_question();
            let Some(next) = next else {
                doubt.await;
                continue;
            };
            let wait = Duration::from_millis(next.since(now()));
            if wait.is_zero() || timeout(wait, doubt).await.is_err() {
                return;
            }
        }
    }

    /// A disk may have been copied from another machine.
    fn let_go_of_others(&self) {
        let Some(own) = self.line.identity() else {
            return;
        };
        for mark in self.pending.borrow_mut().keep_own(own.instance) {
            tracing::warn!(key = %mark.key, by = %mark.by, "a change in doubt is another instance's, whose disk this was: letting it go");
            self.marks.remove(&mark.key);
        }
    }
}

/// A program that waits for a change; when it is dropped, it waits no longer.
struct Asked<'a> {
    writes: &'a Writes,
    key: &'a IdempotencyKey,
    end: End,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let writes = self.writes;
        match writes.pending.borrow_mut().ended(self.key, self.end, now()) {
            Left::Closed => writes.marks.remove(self.key),
            Left::Open => writes.doubt.notify_one(),
        }
    }
}

/// What an answer says about the key that the request had.
pub fn end_of(answer: &Result<Relayed, ProveError>) -> End {
    match answer {
        Ok(answer) if is_recorded(answer) => End::Recorded,
        Ok(answer) if answer.status >= SERVER_ERRORS => End::Lost,
        Err(ProveError::Ask(failure)) if failure.may_be_done() => End::Lost,
        Ok(_) | Err(_) => End::TurnedAway,
    }
}

/// Whether the answer is by a record of the key: it names it, or says that the key was used for something else.
fn is_recorded(answer: &Relayed) -> bool {
    let names = answer.headers.iter().any(|(name, _)| name == OPERATION);
    names || {
        let problem = serde_json::from_slice::<ProblemDetails>(answer.body.bytes());
        problem.is_ok_and(|problem| problem.kind == KEY_REUSED)
    }
}
