//! What running an operation came to: the record that is left of it, and what its caller is told.

use moorline_shared::api::ProblemDetails;
use moorline_shared::{Digest, OperationId, Revision};

use super::{Attempt, ExecuteError};
use crate::model::content::Content;
use crate::model::journal::{OperationRecord, Outcome};
use crate::model::operation::{Env, Operation};
use crate::model::transaction::effects;
use crate::model::view::Trace;
use crate::store::Invalid;

/// What one round of stepping came to.
pub(super) enum Stepped<R> {
    Reply(R, Trace),
    Refused {
        problem: Box<ProblemDetails>,
        shown: Box<ProblemDetails>,
        /// What was computed from long values before the rules said no.
        derived: Vec<Content>,
    },
}

/// What the caller of an operation is told that doesn't fit into a transaction.
pub(in crate::model) fn too_large(bound: &Invalid) -> ProblemDetails {
    let title = "The operation is too large for one transaction";
    let detail = format!("{bound}; split it into smaller ones");
    ProblemDetails::new("too-large", title, 413, detail).at(Some("body"))
}

/// What the caller of an operation is told that was not done.
pub(super) fn refused(operation: OperationId, outcome: &Outcome, revision: Revision) -> ExecuteError {
    let shown = match outcome {
        Outcome::Refused { problem, shown } => shown.as_ref().unwrap_or(problem).clone(),
        Outcome::Failed { problem } => problem.clone(),
        Outcome::Done(_) => return ExecuteError::Reply(operation),
    };
    ExecuteError::Refused {
        shown,
        operation: Some(operation),
        revision,
    }
}

pub(super) fn blank<Op: Operation>(
    attempt: &Attempt<Op>,
    env: &Env,
    settings: Digest,
    outcome: Outcome,
) -> OperationRecord {
    OperationRecord {
        id: attempt.id,
        asked: attempt.op.for_record().into(),
        caller: attempt.caller.clone(),
        at: env.now,
        settings,
        outcome,
        effects: Vec::new(),
        derived: Vec::new(),
        consumes: attempt.consumes.as_ref().map(ToString::to_string),
        unrecorded: 0,
    }
}

/// The record of what stepping came to, and what is to be written with it.
pub(super) fn record<Op: Operation, R: serde::Serialize>(
    attempt: &Attempt<Op>,
    env: &Env,
    settings: Digest,
    stepped: Stepped<R>,
) -> (OperationRecord, Trace, Option<R>) {
    match stepped {
        Stepped::Reply(reply, trace) => {
            let json = serde_json::to_value(&reply).unwrap_or(serde_json::Value::Null);
            let mut record = blank(attempt, env, settings, Outcome::Done(json));
            record.effects = effects(&trace);
            record.derived.clone_from(&trace.derived);
            (record, trace, Some(reply))
        }
        Stepped::Refused {
            problem,
            shown,
            derived,
        } => {
            let shown = (shown != problem).then_some(shown);
            let mut record = blank(attempt, env, settings, Outcome::Refused { problem, shown });
            record.derived = derived;
            (record, Trace::default(), None)
        }
    }
}
