//! What any rules can rely on, whatever else runs at the same time.

use std::sync::Arc;

use moorline_shared::entry::{Origin, Value};
use moorline_shared::{InstanceId, OperationId};

use super::{Attempt, Caller, Env, ExecuteError, Executor, Page, ServiceModel, Stop, View};
use crate::identity::master::MasterKey;
use crate::instance_data::Refusal;
use crate::instance_data::operations::{Op, Reply};
use crate::instance_data::records::EntryRecord;
use crate::instance_data::rules::NewValue;
use crate::services::provider;
use crate::settings::Settings;
use crate::store::Store;

/// Rules that count a collection and admit so many: what only a fence can guard, since each admission is a new key.
#[derive(Debug)]
struct Quota(usize);

impl ServiceModel for Quota {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Result<Reply, Stop<Refusal>> {
        let Op::PutInstanceData { instance, path, .. } = op else {
            return Ok(Reply::Changed);
        };
        if v.scan::<EntryRecord>(instance, &Page::ALL)?.len() >= self.0 {
            return Err(Stop::Refused(Refusal::TooManyEntries { most: self.0 as u64 }));
        }
        v.put(&EntryRecord {
            instance: *instance,
            path: path.clone(),
            content: Value::from("x").into(),
            content_type: Default::default(),
            origin: Origin::Customer,
            visibility: Default::default(),
            expires_at: None,
            access: Default::default(),
            changed_by: env.caller.principal.clone(),
            changed_at: env.now,
        });
        Ok(Reply::Changed)
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
    (folder, store)
}

fn attempt(instance: u8, path: &str) -> Attempt<Op> {
    let caller: Caller = provider("test");
    let key = format!("{instance}-{path}").parse().unwrap();
    let id = OperationId::derive(&caller.principal, &key);
    let (instance, path) = (InstanceId::from_bytes([instance; 16]), path.parse().unwrap());
    Attempt::new(
        Op::PutInstanceData {
            instance,
            path,
            guard: None,
            new: NewValue::text("x"),
        },
        caller,
        id,
    )
}

/// Eight threads ask for more than the quota; how many were admitted.
async fn race(executor: &Arc<Executor>, instance: u8, quota: usize) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    for thread in 0..8 {
        let executor = executor.clone();
        tasks.spawn(async move {
            let mut admitted = 0;
            for i in 0..quota {
                match executor
                    .execute(&Quota(quota), attempt(instance, &format!("t{thread}/{i}")))
                    .await
                {
                    Ok(_) => admitted += 1,
                    Err(ExecuteError::Refused { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            admitted
        });
    }
    tasks.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_quota_admits_exactly_itself_under_a_race() {
    let (_folder, store) = store();
    let executor = Arc::new(Executor::new(store, Settings::default(), MasterKey::for_tests()));
    for round in 0..5 {
        assert_eq!(race(&executor, round, 10).await, 10);
    }
}

/// The control: were collections not fenced, the race would be lost, so the test above can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn without_fences_the_race_is_lost() {
    let (_folder, store) = store();
    let executor =
        Arc::new(Executor::new(store, Settings::default(), MasterKey::for_tests()).without_fences());
    for round in 0..50 {
        if race(&executor, round, 10).await > 10 {
            return;
        }
    }
    panic!("50 races without fences admitted no more than the quota: the conformance test proves nothing");
}

#[tokio::test]
async fn a_retry_finds_its_first_try_and_another_body_is_refused() {
    let (_folder, store) = store();
    let executor = Executor::new(store, Settings::default(), MasterKey::for_tests());
    let first = executor.execute(&Quota(1), attempt(1, "a")).await.unwrap();
    let again = executor.execute(&Quota(1), attempt(1, "a")).await.unwrap();
    assert_eq!(
        (again.revision, again.operation),
        (first.revision, first.operation)
    );
    let other = Attempt {
        op: attempt(1, "b").op,
        ..attempt(1, "a")
    };
    assert!(matches!(
        executor.execute(&Quota(1), other).await,
        Err(ExecuteError::KeyReused)
    ));
    let refused = executor.execute(&Quota(1), attempt(1, "c")).await.unwrap_err();
    let again = executor.execute(&Quota(9), attempt(1, "c")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        again.to_string(),
        "a refusal is an answer too"
    );
    assert_eq!(executor.store().head().await.unwrap(), 2);
}
