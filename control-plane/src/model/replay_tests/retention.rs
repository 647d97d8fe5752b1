//! What is no longer kept is gone from the store, and the records lead there all the same.

use moorline_shared::api::data::PastChange;
use moorline_shared::entry::Value;
use moorline_shared::{EntryPath, InstanceId};

use super::steps::{Kind, Step, report, run};
use super::world::{KEEP_CHANGES, World, administrator, caller_of};
use crate::identity::master::MasterKey;
use crate::instance_data::Op as Data;
use crate::instance_data::operations::Reply;
use crate::instance_data::reveal;
use crate::instance_data::rules::NewValue;
use crate::instances;

fn path() -> EntryPath {
    "config/long".parse().unwrap()
}

/// A long value that is unlike those with another number.
fn long(n: usize) -> String {
    format!("{n:0>2000}")
}

impl World {
    /// A world with one instance.
    async fn with_instance() -> (Self, InstanceId) {
        let mut world = Self::new().await;
        world
            .run(instances::Op::RunInstances(run(1)).into(), administrator())
            .await;
        let instance = world.instances[0];
        (world, instance)
    }

    async fn data(&mut self, op: Data) {
        self.run(op.into(), administrator()).await;
    }

    async fn put(&mut self, instance: InstanceId, value: &str) {
        let new = NewValue::text(value);
        let (path, guard) = (path(), None);
        self.data(Data::PutInstanceData {
            instance,
            path,
            guard,
            new,
        })
        .await;
    }

    /// Does all there is to do later, and what comes of that.
    async fn settle(&mut self) {
        while self.due(100).await > 0 {}
    }

    /// How many keys begin so.
    async fn count(&self, prefix: &str) -> usize {
        let store = self.executor.store();
        let dump = store.dump(store.head().await.unwrap()).await.unwrap();
        dump.iter()
            .filter(|(key, _)| key.to_string().starts_with(prefix))
            .count()
    }

    async fn history(
        &self,
        instance: InstanceId,
        limit: u32,
        before: Option<String>,
    ) -> (Vec<PastChange>, Option<String>) {
        let op = Data::GetInstanceDataHistory {
            instance,
            path: path(),
            before,
            limit,
        };
        let reply = self.look(op).await;
        let Reply::History { changes, next } = reply else {
            panic!("a history is a history");
        };
        let history = reveal::history(&MasterKey::for_tests(), &(instance, path()), changes, next).unwrap();
        (history.changes, history.next)
    }
}

fn told(changes: &[PastChange]) -> Vec<(Option<Value>, Option<Value>)> {
    changes
        .iter()
        .map(|change| (change.from.clone(), change.to.clone()))
        .collect()
}

fn pair(from: &str, to: &str) -> (Option<Value>, Option<Value>) {
    (Some(from.into()), Some(to.into()))
}

#[tokio::test]
async fn a_history_is_as_long_as_the_settings_say_and_its_long_values_go_with_it() {
    let (mut world, instance) = World::with_instance().await;
    for n in 0..32 {
        world.put(instance, &long(n)).await;
    }
    let expected = [(30, 31), (29, 30), (28, 29)].map(|(from, to)| pair(&long(from), &long(to)));
    let (before, _) = world.history(instance, 100, None).await;
    assert_eq!(told(&before), expected, "no more is shown, though more is there");
    let prefix = format!("value/{instance}/{}//", path());
    assert_eq!(world.count(&prefix).await, 32);
    world.settle().await;
    let kept = KEEP_CHANGES as usize + 1;
    assert_eq!(world.count(&prefix).await, kept);
    assert_eq!(
        world.count(&format!("change/{instance}/{}//", path())).await,
        kept
    );
    let (after, next) = world.history(instance, 100, None).await;
    assert_eq!((told(&after), next), (expected.to_vec(), None));
    let (first, next) = world.history(instance, 2, None).await;
    let (second, end) = world.history(instance, 2, next).await;
    assert_eq!(told(&[first, second].concat()), expected);
    assert_eq!(end, None);
    world.replay().await;
}

#[tokio::test]
async fn a_value_stays_as_long_as_anything_names_it() {
    let (mut world, instance) = World::with_instance().await;
    world.put(instance, &long(7)).await;
    for n in 0..13 {
        world.put(instance, &long(n % 2)).await;
    }
    world.put(instance, &long(7)).await;
    // The sixteenth version; what it and the ones before it name stays.
    world.put(instance, "short").await;
    world.settle().await;
    let (changes, _) = world.history(instance, 100, None).await;
    assert_eq!(
        told(&changes),
        [
            pair(&long(7), "short"),
            pair(&long(0), &long(7)),
            pair(&long(1), &long(0))
        ]
    );
    assert_eq!(world.count(&format!("value/{instance}/{}//", path())).await, 3);
    world.replay().await;
}

#[tokio::test]
async fn a_value_that_was_made_of_ones_that_are_gone_is_replayed() {
    let (mut world, instance) = World::with_instance().await;
    world.put(instance, &long(1)).await;
    let append = |value: &str| Data::AppendInstanceData {
        instance,
        path: path(),
        guard: None,
        content: Value::from(value).into(),
    };
    world.data(append(&long(2))).await;
    for _ in 0..30 {
        world.data(append("more")).await;
    }
    world.settle().await;
    assert_eq!(
        world.count(&format!("value/{instance}/{}//", path())).await,
        KEEP_CHANGES as usize + 1
    );
    let (changes, _) = world.history(instance, 1, None).await;
    let expected = format!("{}{}{}", long(1), long(2), "more".repeat(30));
    assert_eq!(changes[0].to, Some(expected.as_str().into()));
    world.replay().await;
}

#[tokio::test]
async fn a_removed_entry_is_looked_after_though_it_begins_anew() {
    let (mut world, instance) = World::with_instance().await;
    for n in 0..10 {
        world.put(instance, &long(n)).await;
        let (path, guard) = (path(), None);
        world
            .data(Data::DeleteInstanceData {
                instance,
                path,
                guard,
            })
            .await;
        world.settle().await;
    }
    let kept = KEEP_CHANGES as usize + 1;
    assert_eq!(
        world.count(&format!("change/{instance}/{}//", path())).await,
        kept
    );
    assert_eq!(
        world.count(&format!("value/{instance}/{}//", path())).await,
        kept / 2
    );
    world.replay().await;
}

#[tokio::test]
async fn a_terminated_instance_is_purged_and_then_forgotten() {
    let (mut world, instance) = World::with_instance().await;
    for n in 0..5 {
        world.put(instance, &long(n)).await;
    }
    let instances = vec![instance];
    let terminate = instances::Op::TerminateInstances { instances };
    world.run(terminate.into(), administrator()).await;
    world
        .run(report(instance, 5).into(), caller_of("host:h1".parse().unwrap()))
        .await;
    // The purge comes before the forgetting: the first row is due first.
    assert_eq!(world.due(1).await, 1);
    assert_eq!(world.done_later["PurgeInstanceData"], 1);
    assert_eq!(world.count(&format!("entry/{instance}/")).await, 0);
    assert!(
        world.count(&format!("change/{instance}/")).await > 0,
        "history is kept longer"
    );
    let (changes, _) = world.history(instance, 2, None).await;
    assert_eq!(
        told(&changes),
        [(Some(long(4).as_str().into()), None), pair(&long(3), &long(4))],
        "the past of what was purged can be read"
    );
    assert_eq!(world.count(&format!("instance/{instance}")).await, 1);
    world.settle().await;
    for kind in ["instance", "change", "value", "usage", "fence/entry", "outbox"] {
        assert_eq!(world.count(&format!("{kind}/{instance}")).await, 0, "{kind}");
    }
    assert!(
        world.count(&format!("timeline/{instance}/")).await > 0,
        "what was done is still told"
    );
    world.replay().await;
    world
        .step(Step {
            caller: 5,
            target: 0,
            kind: Kind::Tag(1),
        })
        .await;
    assert_eq!(world.seen["refused"], 1, "there is no such instance");
}
