//! What is to be done later, written in the transaction that decides it, and the task that does it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moorline_shared::id::IdempotencyKey;
use moorline_shared::{Digest, OperationId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::execute::{ExecuteError, Executor};
use super::operation::Intent;
use super::record::key;
use super::sweep;
use crate::services::Services;
use crate::store::{Key, Range, ReadError, Versioned};

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

/// How often the records are removed that are no longer kept.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Submits what is due until cancelled. One transaction does the work and removes the row, so that a crash in between
/// loses nothing and repeats nothing.
pub async fn run(executor: Arc<Executor>, services: Arc<Services>, cancel: CancellationToken) {
    let mut outbox = Outbox {
        executor: &executor,
        services: &services,
        unreadable: BTreeSet::new(),
    };
    let mut swept = None;
    loop {
        if swept.is_none_or(|at: Instant| at.elapsed() >= SWEEP_EVERY) {
            swept = Some(Instant::now());
            if let Err(error) = sweep::sweep(&executor, executor.now()).await {
                tracing::warn!(%error, "old records of refusals can't be removed; it is tried again");
            }
        }
        let wait = match outbox.submit_due().await {
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

/// The rows, and what is known of those that nothing can be done about.
struct Outbox<'a> {
    executor: &'a Executor,
    services: &'a Services,
    /// Rows that can't be read: told of once, and left for whoever repairs the store.
    unreadable: BTreeSet<Key>,
}

/// What looking at the rows came to.
struct Pass {
    submitted: usize,
    /// How long to wait for the next row.
    wait: Duration,
}

impl Outbox<'_> {
    /// Submits every row that is due, and says how long to wait for the next. A row that fails holds no other up.
    async fn submit_due(&mut self) -> Result<Duration, ReadError> {
        let mut failed = BTreeSet::new();
        loop {
            // What was submitted may have left rows that are due before those that were looked at.
            let pass = self.pass(&mut failed).await?;
            if pass.submitted == 0 {
                return Ok(pass.wait);
            }
        }
    }

    /// Looks once at every row that is due and did not fail before.
    async fn pass(&mut self, failed: &mut BTreeSet<Key>) -> Result<Pass, ReadError> {
        let mut range = Range::prefix("outbox/").limit(64);
        let mut submitted = 0;
        loop {
            // Each page is of the newest state: what is submitted commits, and compaction may follow it past the state
            // that the pass began with.
            let head = self.executor.store().head().await?;
            let page = self.executor.store().range(head, &range).await?;
            for (row, kept) in page.entries {
                let Some(intent) = self.intent(&row, &kept) else {
                    continue;
                };
                let now = self.executor.now();
                if intent.due > now {
                    let wait = until(now, intent.due);
                    return Ok(Pass { submitted, wait });
                }
                if failed.contains(&row) {
                    continue;
                }
                match self.submit(&row, intent).await {
                    Ok(()) => submitted += 1,
                    Err(error) => {
                        tracing::warn!(%row, %error, "a due operation failed; it is tried again");
                        failed.insert(row);
                    }
                }
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => {
                    return Ok(Pass {
                        submitted,
                        wait: LOOK_AGAIN,
                    });
                }
            }
        }
    }

    fn intent(&mut self, row: &Key, kept: &Versioned) -> Option<Intent> {
        let intent = serde_json::from_slice(&kept.value);
        intent
            .inspect_err(|error| {
                if self.unreadable.insert(row.clone()) {
                    tracing::error!(%row, %error, "a row of the outbox can't be read and is set aside");
                }
            })
            .ok()
    }

    async fn submit(&self, row: &Key, intent: Intent) -> Result<(), ExecuteError> {
        let submitted = self
            .services
            .submit(self.executor, intent.submit, row.clone(), operation_id(row))
            .await;
        match submitted {
            // The rules said no: that is an answer, and its record took the row away.
            Err(ExecuteError::Refused { .. }) => Ok(()),
            other => other,
        }
    }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_millis(now.millis_until(due)).min(LOOK_AGAIN)
}

#[cfg(test)]
mod tests {
    use moorline_shared::InstanceId;

    use super::*;
    use crate::identity::master::MasterKey;
    use crate::instance_data;
    use crate::instances::records::InstanceRecord;
    use crate::model::Record as _;
    use crate::settings::{self, Settings};
    use crate::store::{Store, Transaction, Write};

    fn due(millis: i64, name: &str, submit: crate::services::AnyOp) -> Write {
        let due = Timestamp::from_millis(millis).unwrap();
        let row = key(format!("outbox/{millis:016x}/{name}").as_bytes());
        Write::Put(row, serde_json::to_vec(&Intent { due, submit }).unwrap().into())
    }

    #[tokio::test]
    async fn rows_that_cannot_be_carried_out_hold_no_others_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let instance = InstanceId::from_bytes([1; 16]);
        let broken = Write::Put(InstanceRecord::key(&instance), "{".into());
        let unreadable = |i| Write::Put(key(format!("outbox/{:016x}/{i}", 1).as_bytes()), "{".into());
        let purge = instance_data::Op::PurgeInstanceData { instance };
        let failing = |i: usize| due(2, &i.to_string(), purge.clone().into());
        let good = due(3, "good", settings::Op::AdoptSettings(Settings::default()).into());
        let mut transaction = Transaction::default();
        transaction.writes.push(broken);
        transaction.writes.extend((0..70).map(unreadable));
        transaction.writes.extend((0..70).map(failing));
        transaction.writes.push(good);
        store.commit(transaction).await.unwrap();

        let executor = Executor::new(store.clone(), Settings::default(), MasterKey::for_tests());
        let mut outbox = Outbox {
            executor: &executor,
            services: &Services::default(),
            unreadable: BTreeSet::new(),
        };
        assert_eq!(outbox.submit_due().await.unwrap(), LOOK_AGAIN);
        assert_eq!(outbox.unreadable.len(), 70);
        let head = store.head().await.unwrap();
        let left = store.range(head, &Range::prefix("outbox/")).await.unwrap();
        assert_eq!(left.entries.len(), 140, "all but the good one are left");
        let adopted = store.range(head, &Range::prefix("settings/")).await.unwrap();
        assert_eq!(adopted.entries.len(), 1);
    }
}
