//! The same way once more: operation records stepped from an empty store, to see that rules and records agree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use moorline_shared::Digest;
use moorline_shared::api::ProblemDetails;
use moorline_shared::entry::Value;

use super::base::Fork;
use super::content::{Content, LongValue};
use super::execute;
use super::journal::{OperationRecord, Outcome};
use super::operation::{Env, Stop};
use super::transaction::{Fences, compose, effects};
use super::view::{Trace, View};
use crate::accounts;
use crate::services::{AnyOp, Services};
use crate::settings::{Settings, SettingsRecord};
use crate::store::{Key, Range, ReadError, Store, Versioned};

/// Why the records don't lead to the state.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record can't be read.
    #[error("{key} can't be read: {reason}")]
    Broken {
        /// Its key.
        key: Key,
        /// Why.
        reason: String,
    },
    /// Records are missing: they were compacted or moved away.
    #[error("the records don't begin at revision {expected}; the next one is of revision {found}")]
    Gap {
        /// The revision that was expected.
        expected: u64,
        /// The one that was found.
        found: u64,
    },
    /// Stepping came to something else than the record says.
    #[error("operation {operation} ({api}) ends otherwise when it is stepped again: {difference}")]
    Differs {
        /// The operation.
        operation: moorline_shared::OperationId,
        /// What was asked.
        api: &'static str,
        /// What is different.
        difference: String,
    },
}

/// Steps every operation record of `store` in order, from an empty fork, and returns the state it comes to.
///
/// Takes as much memory as the store has. Each step must end as its record says, effects included. Long values that are
/// gone, with the history that named them or because they were refused, take part by their names.
pub async fn replay(store: &Store, services: &Services) -> Result<Fork, ReplayError> {
    let head = store.head().await?;
    let history = History::read(store, head).await?;
    let mut fork = Fork::empty(store.epoch());
    for (n, record) in history.records {
        while history.forgotten.contains(&(fork.head() + 1)) {
            fork.skip();
        }
        if n != fork.head() + 1 {
            return Err(ReplayError::Gap {
                expected: fork.head() + 1,
                found: n,
            });
        }
        fork.begin(store.epoch_of(n));
        let settings = history
            .settings
            .get(&record.settings)
            .cloned()
            .unwrap_or_default();
        replay_one(&mut fork, *services, &record, settings, &history.values)?;
    }
    Ok(fork)
}

/// What replaying needs beside the rules.
struct History {
    records: BTreeMap<u64, OperationRecord>,
    /// The revisions of refused reads whose records are no longer kept.
    forgotten: HashSet<u64>,
    settings: HashMap<Digest, Arc<Settings>>,
    values: HashMap<Digest, Value>,
}

impl History {
    async fn read(store: &Store, at: u64) -> Result<Self, ReplayError> {
        let mut history = Self {
            records: BTreeMap::new(),
            forgotten: HashSet::new(),
            settings: HashMap::new(),
            values: HashMap::new(),
        };
        for (key, kept) in store.all(at, Range::prefix("operation/")).await? {
            let record: OperationRecord = decode(&key, &kept)?;
            if let AnyOp::Accounts(accounts::Op::ForgetRefusedReads { revisions }) = &record.asked {
                history.forgotten.extend(revisions);
            }
            history.records.insert(kept.modified, record);
        }
        for (key, kept) in store.all(at, Range::prefix("settings/")).await? {
            let record: SettingsRecord = decode(&key, &kept)?;
            history
                .settings
                .insert(record.settings.digest(), Arc::new(record.settings));
        }
        for (key, kept) in store.all(at, Range::prefix("value/")).await? {
            let long: LongValue = decode(&key, &kept)?;
            history.values.insert(long.digest, long.value);
        }
        Ok(history)
    }
}

fn decode<T: serde::de::DeserializeOwned>(key: &Key, kept: &Versioned) -> Result<T, ReplayError> {
    let broken = |error: serde_json::Error| ReplayError::Broken {
        key: key.clone(),
        reason: error.to_string(),
    };
    serde_json::from_slice(&kept.value).map_err(broken)
}

fn replay_one(
    fork: &mut Fork,
    services: Services,
    record: &OperationRecord,
    settings: Arc<Settings>,
    values: &HashMap<Digest, Value>,
) -> Result<(), ReplayError> {
    let mut op = record.asked.clone();
    let mut derived = record.derived.clone();
    for content in op.contents().into_iter().chain(&mut derived) {
        restore(content, values);
    }
    let env = Env {
        now: record.at,
        operation: record.id,
        caller: record.caller.clone(),
        settings,
    };
    let mut view = View::new(fork, record.id).recalling(derived);
    let stepped = services.step(&mut view, &op, &env);
    let trace = agreed(record, op, stepped, view.into_trace()).map_err(|difference| {
        let (operation, api) = (record.id, record.asked.api());
        ReplayError::Differs {
            operation,
            api,
            difference,
        }
    })?;
    fork.apply(compose(record, trace, Fences::On));
    Ok(())
}

/// What stepping `op` again writes, if it came to what the record says; otherwise in what it is different.
fn agreed(
    record: &OperationRecord,
    mut op: AnyOp,
    stepped: Result<serde_json::Value, Stop<ProblemDetails>>,
    trace: Trace,
) -> Result<Trace, String> {
    match (&record.outcome, stepped) {
        (Outcome::Done(expected), Ok(reply)) if *expected == reply => {
            if effects(&trace) != record.effects {
                return Err(format!("it changes {:?}", effects(&trace)));
            }
            if trace.derived != record.derived {
                return Err(format!("it makes {:?}", trace.derived));
            }
            Ok(trace)
        }
        (Outcome::Refused { problem, .. }, Err(Stop::Refused(found))) if **problem == found => {
            Ok(Trace::default())
        }
        (Outcome::Failed { problem }, Ok(reply)) => {
            // Long values that were never kept are missing from what it would have written.
            let whole = op.contents().iter().all(|content| content.at_hand().is_some());
            let found = too_large(record, reply, trace);
            if whole && found.as_ref() != Some(&**problem) {
                return Err(format!("{found:?} instead of {problem:?}"));
            }
            Ok(Trace::default())
        }
        (expected, found) => Err(format!("{found:?} instead of {expected:?}")),
    }
}

/// Why an operation that was allowed doesn't fit into a transaction, if it doesn't.
pub(super) fn too_large(
    record: &OperationRecord,
    reply: serde_json::Value,
    trace: Trace,
) -> Option<ProblemDetails> {
    let done = OperationRecord {
        outcome: Outcome::Done(reply),
        effects: effects(&trace),
        derived: trace.derived.clone(),
        ..record.clone()
    };
    let judged = compose(&done, trace, Fences::On).check();
    judged.err().map(|bound| execute::too_large(&bound))
}

/// Puts a long or sealed value back where its name stands, unless it is gone: then its name must do.
fn restore(content: &mut Content, values: &HashMap<Digest, Value>) {
    let found = content.digest().and_then(|digest| values.get(&digest));
    if let Some(value) = found {
        *content = content.clone().with(value.clone());
    }
}
