//! Rules and records agree: a random run is replayed from its records, and stepped again on a fork.

mod identities;
mod retention;
mod secrets;
mod steps;
mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use self::steps::{Kind, Step, steps};
use self::world::World;
use super::journal::OperationRecord;
use super::replay::replay;
use crate::store::{Key, Transaction, Write};

/// Runs the steps, and compares the store with what its records lead to.
fn check(steps: Vec<Step>) -> World {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        world
            .step(Step {
                caller: 5,
                target: 0,
                kind: Kind::Run(2),
            })
            .await;
        for step in steps {
            world.step(step).await;
        }
        world.replay().await;
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn records_lead_to_the_store_byte_for_byte(steps in steps(60)) {
        check(steps);
    }
}

#[test]
fn a_long_run_is_replayed_byte_for_byte_and_much_of_it_was_done_and_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = steps(1_400).new_tree(&mut runner).unwrap().current();
    let World {
        seen,
        done_later,
        secrets,
        ..
    } = check(steps);
    assert!(secrets.len() > 100, "{} values were sealed", secrets.len());
    assert!(seen["done"] > 300 && seen["refused"] > 200, "{seen:?}");
    assert!(seen["failed"] > 5, "{seen:?}");
    for api in [
        "ExpireEntry",
        "TrimEntryHistory",
        "PurgeInstanceData",
        "ForgetInstance",
    ] {
        assert!(done_later.get(api) > Some(&0), "{api}: {done_later:?}");
    }
}

/// Guards are of the epoch that they were given in, and so are the replies.
#[test]
fn records_of_before_and_after_a_restored_backup_lead_to_the_store() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = steps(240).new_tree(&mut runner).unwrap().current();
    runtime.block_on(async {
        let mut world = World::new().await;
        for (n, step) in steps.into_iter().enumerate() {
            if n == 120 {
                world.restore();
            }
            world.step(step).await;
        }
        let store = world.executor.store();
        assert!(store.epoch() > store.epoch_of(1), "no epoch was begun");
        world.replay().await;
    });
}

#[test]
fn a_record_that_lies_is_found() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        world
            .step(Step {
                caller: 5,
                target: 0,
                kind: Kind::Run(1),
            })
            .await;
        let store = world.executor.store();
        let head = store.head().await.unwrap();
        let dump = store.dump(head).await.unwrap();
        let is_last = |key: &Key| key.to_string().starts_with("operation/");
        let (key, kept) = dump
            .into_iter()
            .find(|(key, kept)| is_last(key) && kept.modified == head)
            .unwrap();
        let mut record: OperationRecord = serde_json::from_slice(&kept.value).unwrap();
        record.effects.pop();
        let lie = Write::Put(key, serde_json::to_vec(&record).unwrap().into());
        store
            .commit(Transaction {
                guards: vec![],
                writes: vec![lie],
            })
            .await
            .unwrap();
        assert!(replay(store, &world.services).await.is_err());
    });
}
