//! What is to be done later, written in the transaction that decides it, and the task that does it.

use std::sync::Arc;
use std::time::Duration;

use moorline_shared::id::IdempotencyKey;
use moorline_shared::{Digest, OperationId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::execute::{ExecuteError, Executor};
use super::operation::Intent;
use super::record::key;
use crate::services::Services;
use crate::store::{Key, Range, ReadError};

/// The row of an operation's `i`-th intent; rows are in the order in which they are due.
pub(super) fn row(intent: &Intent, operation: OperationId, i: usize) -> Key {
    let due = u64::try_from(intent.due.millis()).unwrap_or(0);
    key(format!("outbox/{due:016x}/{}-{i:04}", operation.digest()).as_bytes())
}

/// The id under which the intent of `row` is submitted, however often it is tried.
pub(super) fn operation_id(row: &Key) -> OperationId {
    let digest = Digest::of(row.as_bytes());
    let key: IdempotencyKey = digest
        .to_string()
        .parse()
        .expect("a digest is 64 printable characters");
    OperationId::derive(&crate::services::outbox_caller().principal, &key)
}

/// How long the task waits at most before it looks again, whatever is due.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Submits what is due until cancelled. One transaction does the work and removes the row, so that a crash in between
/// loses nothing and repeats nothing.
pub async fn run(executor: Arc<Executor>, services: Arc<Services>, cancel: CancellationToken) {
    loop {
        let wait = match submit_due(&executor, &services).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(error = %error, "the outbox can't be read; it is tried again");
                LOOK_AGAIN
            }
        };
        tokio::select! {
            // Cancel-safe: nothing is under way while this waits.
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Submits every row that is due, and says how long to wait for the next.
async fn submit_due(executor: &Executor, services: &Services) -> Result<Duration, ReadError> {
    loop {
        let head = executor.store().head().await?;
        let page = executor
            .store()
            .range(head, &Range::prefix("outbox/").limit(64))
            .await?;
        let now = executor.now();
        let mut submitted = 0;
        for (row, kept) in &page.entries {
            let Ok(intent) = serde_json::from_slice::<Intent>(&kept.value) else {
                tracing::error!(row = %row, "a row of the outbox can't be read");
                continue;
            };
            if intent.due > now {
                return Ok(until(now, intent.due));
            }
            match services
                .submit(executor, intent.submit, row.clone(), operation_id(row))
                .await
            {
                // The rules said no: that is an answer, and its record took the row away.
                Ok(()) | Err(ExecuteError::Refused { .. }) => submitted += 1,
                Err(error) => {
                    tracing::warn!(row = %row, error = %error, "a due operation failed; it is tried again");
                }
            }
        }
        if submitted == 0 || page.next.is_none() {
            return Ok(LOOK_AGAIN);
        }
    }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_millis(now.millis_until(due)).min(LOOK_AGAIN)
}
