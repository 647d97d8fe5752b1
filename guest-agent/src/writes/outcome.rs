//! What became of a change: the master's record of its key, which the instance may read since it asked for it itself.

use bytes::Bytes;
use moorline_shared::agent::{WriteState, WriteStatus};
use moorline_shared::api::operations::{Operation, Outcome};
use moorline_shared::entry::Value;
use moorline_shared::id::{IdempotencyKey, Principal};
use moorline_shared::link::Moment;
use moorline_shared::link::body::Relay;
use moorline_shared::{InstanceId, OperationId};

use super::Writes;
use super::pending::{Left, Mark, Waited, Word};
use crate::link::AskFailure;
use crate::platform::now;
use crate::proof::ProveError;

const OK: u16 = 200;
const NOT_FOUND: u16 = 404;

/// Why the master's record was not found out.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The master can't be asked.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// It answered something else.
    #[error("the control plane answered with status {0} when it was asked for the record of a change")]
    Status(u16),
    /// Its answer is not understood.
    #[error("the control plane's record of the change is not understood")]
    Malformed(#[from] serde_json::Error),
}

impl Writes {
    /// Asks the master about a change in doubt, once, and says in the log what became of it.
    pub(super) async fn find_out(&self, mark: &Mark) {
        let asked = now();
        match self.record_of(mark.by, &mark.key).await {
            Ok(record) => self.found_out(mark, record.as_ref(), asked),
            Err(error) => tracing::debug!(key = %mark.key, %error, "a change is in doubt still"),
        }
    }

    fn found_out(&self, mark: &Mark, record: Option<&Operation>, asked: Moment) {
        let word = record.map_or(Word::Nothing, |_| Word::Recorded);
        if self.pending.borrow_mut().answered(&mark.key, word, asked) == Left::Open {
            return;
        }
        self.marks.remove(&mark.key);
        let outcome = record.map_or(WriteState::NotMade, state_of).as_str();
        tracing::info!(key = %mark.key, method = %mark.method, target = %mark.target, outcome, "found out about a change whose answer was lost");
    }

    /// The master's record of what this instance asked under `key`; `None` if it has none.
    async fn record_of(
        &self,
        by: InstanceId,
        key: &IdempotencyKey,
    ) -> Result<Option<Operation>, RecordError> {
        let operation = OperationId::derive(&Principal::Instance(by), key);
        let relay = Relay {
            method: "GET".to_owned(),
            target: format!("/v1/operations/{operation}"),
            headers: Vec::new(),
            length: 0,
            body: Value::from(Bytes::new()),
        };
        let answer = self.prover.relay(&relay).await?;
        match answer.status {
            OK => Ok(Some(serde_json::from_slice(answer.body.bytes())?)),
            NOT_FOUND => Ok(None),
            status => Err(RecordError::Status(status)),
        }
    }

    /// What is known about the change that this instance asked for under `key`: here, or by the master's record.
    ///
    /// Without either it is `None`: nobody asked for such a change, or it never came to the master.
    pub async fn status(&self, key: &IdempotencyKey) -> Result<Option<WriteStatus>, RecordError> {
        let open = self
            .pending
            .borrow()
            .get(key)
            .map(|(mark, waited)| (mark.clone(), waited));
        if let Some((mark, Waited::For)) = &open {
            return Ok(Some(status(mark, WriteState::UnderWay)));
        }
        let by = self.line.identity().map(|own| own.instance);
        let by = by.ok_or(AskFailure::Away).map_err(ProveError::from)?;
        let asked = now();
        let record = match (self.record_of(by, key).await, &open) {
            (Err(_), Some((mark, _))) => return Ok(Some(status(mark, WriteState::InDoubt))),
            (record, _) => record?,
        };
        if let Some((mark, _)) = &open {
            self.found_out(mark, record.as_ref(), asked);
        }
        let in_doubt = self.pending.borrow().get(key).is_some();
        Ok(match (record, open) {
            (Some(record), open) => Some(recorded(key, open.map(|(mark, _)| mark), record)),
            (None, Some((mark, _))) if in_doubt => Some(status(&mark, WriteState::InDoubt)),
            (None, Some((mark, _))) => Some(status(&mark, WriteState::NotMade)),
            (None, None) => None,
        })
    }

    /// The changes that are under way or in doubt, in the order of their keys.
    pub fn open(&self) -> Vec<WriteStatus> {
        let state = |waited| match waited {
            Waited::For => WriteState::UnderWay,
            Waited::ForNoMore => WriteState::InDoubt,
        };
        let pending = self.pending.borrow();
        pending
            .iter()
            .map(|(mark, waited)| status(mark, state(waited)))
            .collect()
    }
}

fn state_of(record: &Operation) -> WriteState {
    match record.outcome {
        Outcome::Done => WriteState::Made,
        Outcome::Refused { .. } => WriteState::Refused,
        Outcome::Failed { .. } => WriteState::Failed,
    }
}

fn status(mark: &Mark, state: WriteState) -> WriteStatus {
    WriteStatus {
        key: mark.key.clone(),
        state,
        method: Some(mark.method.clone()),
        target: Some(mark.target.clone()),
        operation: None,
        revision: None,
        problem: None,
    }
}

fn recorded(key: &IdempotencyKey, mark: Option<Mark>, record: Operation) -> WriteStatus {
    let state = state_of(&record);
    let problem = match record.outcome {
        Outcome::Done => None,
        Outcome::Refused { problem } | Outcome::Failed { problem } => Some(problem),
    };
    let (method, target) = mark.map(|mark| (mark.method, mark.target)).unzip();
    WriteStatus {
        key: key.clone(),
        state,
        method,
        target,
        operation: Some(record.id),
        revision: Some(record.revision),
        problem,
    }
}
