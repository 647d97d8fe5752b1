//! What is to be run, and what is answered.

use moorline_shared::api::ProblemDetails;
use moorline_shared::{OperationId, Revision};

use crate::model::operation::Caller;
use crate::store::{CommitError, Key, ReadError};

/// An operation to be run, by whom, and under which id.
#[derive(Clone, Debug)]
pub struct Attempt<Op> {
    /// What is asked.
    pub op: Op,
    /// Who asks.
    pub caller: Caller,
    /// The id; the same one for every try of the same request.
    pub id: OperationId,
    /// The outbox row that it is submitted for, which it removes.
    pub consumes: Option<Key>,
}

impl<Op> Attempt<Op> {
    /// A request of `caller`.
    pub const fn new(op: Op, caller: Caller, id: OperationId) -> Self {
        Self {
            op,
            caller,
            id,
            consumes: None,
        }
    }
}

/// An operation that was done.
#[derive(Clone, Debug)]
pub struct Done<R> {
    /// What is answered.
    pub reply: R,
    /// When it was committed; for a read, the state it read.
    pub revision: Revision,
    /// Its id, under which its record is found.
    pub operation: OperationId,
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The rules said no; there is a record, unless it was one of many reads that the caller had refused.
    #[error("{}", shown.detail)]
    Refused {
        /// What the caller may know.
        shown: Box<ProblemDetails>,
        /// The record's operation.
        operation: Option<OperationId>,
        /// As of which revision: the state that a read was refused in, or the one that recorded the refusal of a change.
        revision: Revision,
    },
    /// The id was used for another request.
    #[error("the idempotency key was used for another request; use a fresh key for each request")]
    KeyReused,
    /// Others change the same things all the time.
    #[error("the data were changed by others {0} times while this was tried; try again")]
    Contended(u32),
    /// A record in the store can't be read.
    #[error("the record {key} can't be read: {reason}; it was written by a newer release or is damaged")]
    Broken {
        /// Its key.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// The state that was to be read is gone or not there yet.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store could not commit.
    #[error(transparent)]
    Commit(CommitError),
    /// A record of an earlier try can't be understood.
    #[error("the answer of operation {0} can't be read; a newer release wrote it")]
    Reply(OperationId),
}
