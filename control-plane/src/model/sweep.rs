//! Removes the records of refused reads and failed log-ins once they were kept for as long as the settings say.
//!
//! Such a record has no effects, so nothing but itself goes with it. The operation that removes some names their
//! revisions, by which a replay knows that nothing else is missing there.

use moorline_shared::id::IdempotencyKey;
use moorline_shared::{OperationId, Timestamp};

use super::execute::{Attempt, ExecuteError, Executor};
use super::journal::{OperationRecord, TimelineRow, refused_read_prefix};
use super::record::Record as _;
use crate::accounts;
use crate::services::provider;
use crate::store::{Key, Range, Versioned};

/// The most records that one operation removes, with up to some ten rows each: well below what a transaction holds.
const AT_ONCE: usize = 256;

/// Removes every record of such a refusal that is no longer kept at `now`, and says how many there were.
pub(super) async fn sweep(executor: &Executor, now: Timestamp) -> Result<usize, ExecuteError> {
    let mut removed = 0;
    loop {
        let some = sweep_some(executor, now).await?;
        removed += some;
        if some < AT_ONCE {
            return Ok(removed);
        }
    }
}

async fn sweep_some(executor: &Executor, now: Timestamp) -> Result<usize, ExecuteError> {
    let store = executor.store();
    let oldest = Range::prefix(refused_read_prefix()).limit(AT_ONCE);
    let page = store.range(store.head().await?, &oldest).await?;
    let keep = executor.settings().keep_refused_reads.seconds();
    let (mut revisions, mut rows) = (Vec::new(), Vec::new());
    for (key, kept) in &page.entries {
        let timeline = timeline(key, kept)?;
        let Some(first) = timeline.first() else { continue };
        if first.at.plus_seconds(keep) > now {
            break;
        }
        revisions.push(kept.modified);
        rows.extend([key.clone(), OperationRecord::key(&first.operation)]);
        rows.extend(timeline.iter().map(TimelineRow::own_key));
    }
    let removed = revisions.len();
    if removed > 0 {
        let (caller, id) = (provider("records"), id(&revisions));
        let op = accounts::Op::ForgetRefusedReads { revisions };
        executor
            .forget(&accounts::Model, Attempt::new(op, caller, id), rows)
            .await?;
    }
    Ok(removed)
}

fn timeline(key: &Key, kept: &Versioned) -> Result<Vec<TimelineRow>, ExecuteError> {
    serde_json::from_slice(&kept.value).map_err(|error| ExecuteError::Broken {
        key: key.clone(),
        reason: error.to_string(),
    })
}

/// A revision's record is removed once: the first of them names the operation.
fn id(revisions: &[u64]) -> OperationId {
    let first = revisions.first().copied().unwrap_or_default();
    let key: IdempotencyKey = format!("refused-reads-{first}")
        .parse()
        .expect("these are printable characters without spaces");
    OperationId::derive(&provider("records").principal, &key)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moorline_shared::InstanceId;

    use super::*;
    use crate::identity::directory::local;
    use crate::identity::master::MasterKey;
    use crate::identity::operations::LogIn;
    use crate::model::Caller;
    use crate::model::replay::{ReplayError, replay};
    use crate::services::Services;
    use crate::settings::{self, Settings};
    use crate::store::{Store, Transaction, Write};
    use crate::{identity, instance_data};

    const DAY: u32 = 86_400;

    /// A read of what is not there.
    async fn ask_in_vain(executor: &Executor, n: u32) {
        let op = instance_data::Op::DescribeInstanceData {
            instance: InstanceId::from_bytes([1; 16]),
        };
        let caller = provider("test");
        let id = OperationId::derive(&caller.principal, &format!("read-{n}").parse().unwrap());
        let asked = executor
            .read(&instance_data::Model, Attempt::new(op, caller, id), None)
            .await;
        assert!(matches!(asked, Err(ExecuteError::Refused { .. })), "{asked:?}");
    }

    /// Somebody tries to log in who isn't there.
    async fn fail_to_log_in(executor: &Executor, n: u32) {
        let op = identity::Op::LogIn(LogIn {
            user: "nobody".parse().unwrap(),
            directory: local(),
            client: None,
            address: None,
            attempt: identity::operations::Attempt::Failed,
        });
        let caller = provider("identity");
        let id = OperationId::derive(&caller.principal, &format!("login-{n}").parse().unwrap());
        let asked = executor
            .execute(&identity::Model, Attempt::new(op, caller, id))
            .await;
        assert!(matches!(asked, Err(ExecuteError::Refused { .. })), "{asked:?}");
    }

    async fn change(executor: &Executor, region: &str) {
        let op = settings::Op::AdoptSettings(Settings {
            region: region.into(),
            ..Settings::default()
        });
        let caller: Caller = provider("test");
        let id = OperationId::derive(&caller.principal, &region.parse().unwrap());
        executor
            .execute(&settings::Model, Attempt::new(op, caller, id))
            .await
            .unwrap();
    }

    async fn count(store: &Store, prefix: &str) -> usize {
        let head = store.head().await.unwrap();
        store
            .range(head, &Range::prefix(prefix))
            .await
            .unwrap()
            .entries
            .len()
    }

    #[tokio::test]
    async fn old_records_of_refused_reads_go_and_the_rest_is_replayed_byte_for_byte() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let executor = Arc::new(Executor::new(
            store.clone(),
            Settings::default(),
            MasterKey::for_tests(),
        ));
        change(&executor, "one").await;
        for n in 0..3 {
            ask_in_vain(&executor, n).await;
            fail_to_log_in(&executor, n).await;
        }
        change(&executor, "two").await;
        let now = executor.now();
        assert_eq!(sweep(&executor, now.plus_seconds(6 * DAY)).await.unwrap(), 0);
        assert_eq!(count(&store, "operation/").await, 8);
        assert_eq!(sweep(&executor, now.plus_seconds(8 * DAY)).await.unwrap(), 6);
        assert_eq!(
            count(&store, "operation/").await,
            3,
            "two changes and the removal"
        );
        assert_eq!(count(&store, "timeline/").await, 3);
        assert_eq!(count(&store, "refused-read/").await, 0);
        change(&executor, "three").await;
        let replayed = replay(&store, &Services::default()).await.unwrap();
        let live = store.dump(store.head().await.unwrap()).await.unwrap();
        let replayed: Vec<_> = replayed
            .dump()
            .map(|(key, kept)| (key.clone(), kept.clone()))
            .collect();
        assert_eq!(live, replayed);
    }

    #[tokio::test]
    async fn another_record_that_is_missing_is_still_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let executor = Executor::new(store.clone(), Settings::default(), MasterKey::for_tests());
        ask_in_vain(&executor, 0).await;
        change(&executor, "one").await;
        sweep(&executor, executor.now().plus_seconds(8 * DAY))
            .await
            .unwrap();
        let caller = provider("test");
        let id = OperationId::derive(&caller.principal, &"one".parse().unwrap());
        let mut transaction = Transaction::default();
        transaction.writes.push(Write::Delete(OperationRecord::key(&id)));
        store.commit(transaction).await.unwrap();
        let replayed = replay(&store, &Services::default()).await;
        assert!(matches!(replayed, Err(ReplayError::Gap { .. })), "{replayed:?}");
    }
}
