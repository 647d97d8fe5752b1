//! The one way an operation runs: snapshot, step, load, step again, commit with guards on all that was read.
//!
//! * `attempt`: what is to be run, and what is answered. `outcome`: the record of what it came to.
//! * `clock`: the time at which it happens.

mod attempt;
mod clock;
mod outcome;

use std::sync::Arc;

use moorline_shared::{Digest, Revision, Timestamp};

pub use attempt::{Attempt, Done, ExecuteError};
use clock::Clock;
pub(super) use outcome::too_large;
use outcome::{Stepped, blank, record, refused};

use super::base::Loaded;
use super::journal::{OperationRecord, Outcome};
use super::operation::{Effect, Env, Operation, Problem, RefusalRecords, ServiceModel, Stop};
use super::record::Record;
use super::refused_reads::{Recorded, RefusedReads};
use super::sealing::Sealing;
use super::transaction::{Fences, compose};
use super::view::{Trace, View};
use crate::identity::master::MasterKey;
use crate::settings::Settings;
use crate::store::{CommitError, Invalid, Key, Store, Write};

/// How often an operation is stepped anew because others changed what it read.
const MOST_CONFLICTS: u32 = 1_000;

/// Runs operations against the store.
#[derive(Debug)]
pub struct Executor {
    store: Store,
    /// What the values of secret entries are sealed with.
    master: Arc<MasterKey>,
    settings: Arc<Settings>,
    settings_digest: Digest,
    clock: Clock,
    fences: Fences,
    refused_reads: RefusedReads,
}

impl Executor {
    /// An executor on `store` under `settings`, which seals secret values with `master`.
    pub fn new(store: Store, settings: Settings, master: Arc<MasterKey>) -> Self {
        let settings_digest = settings.digest();
        Self {
            store,
            master,
            settings: Arc::new(settings),
            settings_digest,
            clock: Clock::of_the_system(),
            fences: Fences::On,
            refused_reads: RefusedReads::default(),
        }
    }

    /// The same in another time than the system's: it is what [`Self::tell`] said last, and stands still in between. The
    /// same operations in the same order come to the same then, byte for byte.
    #[must_use]
    pub fn told_the_time(self) -> Self {
        Self {
            clock: Clock::told(),
            ..self
        }
    }

    /// It is `now` from now on, unless it is later already.
    pub fn tell(&self, now: Timestamp) {
        self.clock.tell(now.millis());
    }

    #[cfg(test)]
    pub(super) fn without_fences(self) -> Self {
        Self {
            fences: Fences::Off,
            ..self
        }
    }

    #[cfg(test)]
    pub(super) fn recording_all(self) -> Self {
        Self {
            refused_reads: RefusedReads::all(),
            ..self
        }
    }

    /// The store it runs on.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The settings it runs under.
    pub const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// The time an operation would be taken to happen at.
    pub fn now(&self) -> Timestamp {
        let millis = self.clock.millis();
        Timestamp::from_millis(millis).expect("the present lies within the years a time can have")
    }

    /// Runs an operation that may change something, and answers once it is durable.
    ///
    /// Not cancel-safe: a future that is dropped may have committed; the same attempt finds out.
    pub async fn execute<M: ServiceModel>(
        &self,
        model: &M,
        attempt: Attempt<M::Op>,
    ) -> Result<Done<M::Reply>, ExecuteError> {
        debug_assert_eq!(attempt.op.effect(), Effect::Change);
        for _ in 0..MOST_CONFLICTS {
            let env = self.env(&attempt);
            let at = self.store.head().await?;
            let mut base = Loaded::at(&self.store, at);
            let sealed = self.seal(&attempt, &env, &mut base).await?;
            let stepped = self.step(model, &sealed.op, &env, base).await?;
            let refused = matches!(stepped, Stepped::Refused { .. });
            if refused && attempt.op.refusal_records() == RefusalRecords::Some {
                return self.refuse(&sealed, &env, stepped, at).await;
            }
            let (record, trace, reply) = record(&sealed, &env, self.settings_digest, stepped);
            match self.store.commit(compose(&record, trace, self.fences)).await {
                Ok(n) => return self.done(&record, reply, n),
                Err(CommitError::Conflict { .. } | CommitError::Unknown { .. }) => {
                    if let Some(earlier) = self.earlier(&attempt).await? {
                        return earlier;
                    }
                }
                Err(CommitError::Invalid(bound)) => {
                    return self.fail(&sealed, &env, &bound).await;
                }
                Err(error) => return Err(ExecuteError::Commit(error)),
            }
        }
        Err(ExecuteError::Contended(MOST_CONFLICTS))
    }

    /// Runs an operation that only looks, at the head or at revision `at`. Only a refusal leaves a record, and of those
    /// of one caller a burst of 20 and then one a second, which says how many left none.
    pub async fn read<M: ServiceModel>(
        &self,
        model: &M,
        attempt: Attempt<M::Op>,
        at: Option<u64>,
    ) -> Result<Done<M::Reply>, ExecuteError> {
        debug_assert_eq!(attempt.op.effect(), Effect::Read);
        let env = self.env(&attempt);
        let at = match at {
            Some(at) => at,
            None => self.store.head().await?,
        };
        let base = Loaded::at(&self.store, at);
        match self.step(model, &attempt.op, &env, base).await? {
            Stepped::Reply(reply, _) => Ok(Done {
                reply,
                revision: self.revision(at),
                operation: attempt.id,
            }),
            refused @ Stepped::Refused { .. } => self.refuse(&attempt, &env, refused, at).await,
        }
    }

    /// Leaves the record of a read that was refused in the state `at`, or of a failed log-in, unless the caller has had
    /// too many.
    async fn refuse<Op: Operation, R: serde::Serialize>(
        &self,
        attempt: &Attempt<Op>,
        env: &Env,
        stepped: Stepped<R>,
        at: u64,
    ) -> Result<Done<R>, ExecuteError> {
        let principal = &attempt.caller.principal;
        let recorded = self
            .refused_reads
            .count(principal, attempt.op.effect(), self.clock.instant());
        match (recorded, stepped) {
            (Recorded::Not, Stepped::Refused { shown, .. }) => Err(ExecuteError::Refused {
                shown,
                operation: None,
                revision: self.revision(at),
            }),
            (recorded, stepped) => {
                let (mut record, trace, reply) = record(attempt, env, self.settings_digest, stepped);
                if let Recorded::After(unrecorded) = recorded {
                    record.unrecorded = unrecorded;
                }
                // When the record came is not when this was so: others may have committed in between.
                self.store
                    .commit(compose(&record, trace, self.fences))
                    .await
                    .map_err(ExecuteError::Commit)?;
                self.done(&record, reply, at)
            }
        }
    }

    /// Runs an operation that writes nothing, and removes `rows` with it, which nothing but its caller removes.
    pub(super) async fn forget<M: ServiceModel>(
        &self,
        model: &M,
        attempt: Attempt<M::Op>,
        rows: Vec<Key>,
    ) -> Result<Done<M::Reply>, ExecuteError> {
        let env = self.env(&attempt);
        let base = Loaded::at(&self.store, self.store.head().await?);
        let stepped = self.step(model, &attempt.op, &env, base).await?;
        let (record, trace, reply) = record(&attempt, &env, self.settings_digest, stepped);
        let mut transaction = compose(&record, trace, self.fences);
        transaction.writes.extend(rows.into_iter().map(Write::Delete));
        let n = self
            .store
            .commit(transaction)
            .await
            .map_err(ExecuteError::Commit)?;
        self.done(&record, reply, n)
    }

    fn env<Op>(&self, attempt: &Attempt<Op>) -> Env {
        let (caller, settings) = (attempt.caller.clone(), self.settings.clone());
        Env {
            now: self.now(),
            operation: attempt.id,
            caller,
            settings,
        }
    }

    /// The attempt with the values sealed that are for entries that are secret in the state of `base`. What the caller
    /// gave stays in `attempt`: in another state other values may be secret.
    async fn seal<Op: Operation>(
        &self,
        attempt: &Attempt<Op>,
        env: &Env,
        base: &mut Loaded,
    ) -> Result<Attempt<Op>, ExecuteError> {
        loop {
            let (mut sealed, mut view) = (attempt.clone(), View::new(base, env.operation));
            let mut sealing = Sealing::by_state(&self.master, env, &mut view);
            sealed.op.seal(&mut sealing);
            if sealing.finish().is_ok() {
                return Ok(sealed);
            }
            if let Some((key, reason)) = view.into_trace().broken {
                return Err(ExecuteError::Broken { key, reason });
            }
            base.fetch(&self.store).await?;
        }
    }

    /// Steps until everything that the step reads is loaded.
    async fn step<M: ServiceModel>(
        &self,
        model: &M,
        op: &M::Op,
        env: &Env,
        mut base: Loaded,
    ) -> Result<Stepped<M::Reply>, ExecuteError> {
        loop {
            let mut view = View::new(&mut base, env.operation);
            match model.step(&mut view, op, env) {
                Ok(reply) => return Ok(Stepped::Reply(reply, view.into_trace())),
                Err(Stop::Refused(refusal)) => {
                    return Ok(Stepped::Refused {
                        problem: Box::new(refusal.problem()),
                        shown: Box::new(refusal.shown()),
                        derived: view.into_trace().derived,
                    });
                }
                Err(Stop::Load(_)) => {
                    if let Some((key, reason)) = view.into_trace().broken {
                        return Err(ExecuteError::Broken { key, reason });
                    }
                    base.fetch(&self.store).await?;
                }
            }
        }
    }

    fn done<R>(&self, record: &OperationRecord, reply: Option<R>, n: u64) -> Result<Done<R>, ExecuteError> {
        let revision = self.revision(n);
        match (reply, &record.outcome) {
            (Some(reply), _) => Ok(Done {
                reply,
                revision,
                operation: record.id,
            }),
            (None, outcome) => Err(refused(record.id, outcome, revision)),
        }
    }

    fn revision(&self, n: u64) -> Revision {
        Revision::new(self.store.epoch(), n)
    }

    /// What an earlier try of the same request came to, if there was one.
    async fn earlier<Op: Operation, R: serde::de::DeserializeOwned>(
        &self,
        attempt: &Attempt<Op>,
    ) -> Result<Option<Result<Done<R>, ExecuteError>>, ExecuteError> {
        let head = self.store.head().await?;
        let key = OperationRecord::key(&attempt.id);
        let Some(found) = self.store.get(head, &key).await? else {
            return Ok(None);
        };
        let record: OperationRecord =
            serde_json::from_slice(&found.value).map_err(|_| ExecuteError::Reply(attempt.id))?;
        let mut asked = attempt.op.clone();
        asked.seal(&mut Sealing::as_recorded(&self.master, attempt.id, &record.asked));
        if !asked.repeats(&record.asked) {
            return Err(ExecuteError::KeyReused);
        }
        let (operation, revision) = (record.id, self.revision(found.modified));
        Ok(Some(match record.outcome {
            Outcome::Done(reply) => serde_json::from_value(reply)
                .map(|reply| Done {
                    reply,
                    revision,
                    operation,
                })
                .map_err(|_| ExecuteError::Reply(operation)),
            outcome => Err(refused(operation, &outcome, revision)),
        }))
    }

    /// Leaves the record of an operation that was allowed and doesn't fit into a transaction.
    async fn fail<Op: Operation, R>(
        &self,
        attempt: &Attempt<Op>,
        env: &Env,
        bound: &Invalid,
    ) -> Result<Done<R>, ExecuteError> {
        let outcome = Outcome::Failed {
            problem: Box::new(too_large(bound)),
        };
        let record = blank(attempt, env, self.settings_digest, outcome);
        let n = self
            .store
            .commit(compose(&record, Trace::default(), self.fences))
            .await
            .map_err(ExecuteError::Commit)?;
        self.done(&record, None, n)
    }
}
