//! A step that reads many records is begun anew a few times, however many they are.

use std::sync::atomic::{AtomicUsize, Ordering};

use moorline_shared::access::AccessList;
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::{HostId, InstanceId, OperationId, PathPrefix, Principal};

use super::operation::Effect;
use super::{Attempt, Caller, Env, Executor, Operation, Role, ServiceModel, Stop, View};
use crate::identity::master::MasterKey;
use crate::instance_data::operations::{BatchAction, BatchChange, Reply, Values};
use crate::instance_data::rules::NewValue;
use crate::instances::operations::{Register, Run, With};
use crate::settings::Settings;
use crate::store::Store;
use crate::{accounts, instance_data, instances};

/// The rules of a service, counting how often a step was begun.
#[derive(Debug)]
struct Counted<M> {
    model: M,
    steps: AtomicUsize,
}

impl<M: ServiceModel> ServiceModel for Counted<M> {
    type Op = M::Op;
    type Reply = M::Reply;
    type Refusal = M::Refusal;

    fn step(&self, v: &mut View<'_>, op: &M::Op, env: &Env) -> Result<M::Reply, Stop<M::Refusal>> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.model.step(v, op, env)
    }
}

/// A control plane with one host, whose administrator runs one operation after the other.
struct World {
    executor: Executor,
    runs: usize,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let executor = Executor::new(store, Settings::default(), MasterKey::for_tests());
        let mut world = Self {
            executor,
            runs: 0,
            _folder: folder,
        };
        let host: HostId = "h1".parse().unwrap();
        let offer = RegisterHost {
            zone: "z".parse().unwrap(),
            vcpus: 256,
            memory_mib: 65_536,
            images: vec!["busybox".parse().unwrap()],
        };
        let caller = Caller {
            principal: Principal::Host(host.clone()),
            role: Role::Member,
            ..administrator()
        };
        let op = instances::Op::RegisterHost { host, offer };
        world.run_as(instances::Model, op, caller).await;
        world
    }

    /// An instance with `count` entries of `bytes` each.
    async fn with_entries(count: usize, bytes: usize) -> (Self, InstanceId) {
        let mut world = Self::new().await;
        let id = InstanceId::from_bytes([7; 16]);
        let register = Register {
            host: "h1".parse().unwrap(),
            id: Some(id),
            with: With::default(),
        };
        let op = instances::Op::RegisterInstance(register);
        world.run(instances::Model, op).await;
        let changes: Vec<_> = (0..count).map(|i| put(i, bytes)).collect();
        for changes in changes.chunks(500) {
            world
                .run(
                    instance_data::Model,
                    instance_data::Op::BatchInstanceData {
                        instance: id,
                        changes: changes.to_vec(),
                    },
                )
                .await;
        }
        (world, id)
    }

    async fn run<M: ServiceModel>(&mut self, model: M, op: M::Op) -> (M::Reply, usize) {
        self.run_as(model, op, administrator()).await
    }

    /// Runs an operation, and says how often it was stepped.
    async fn run_as<M: ServiceModel>(&mut self, model: M, op: M::Op, caller: Caller) -> (M::Reply, usize) {
        self.runs += 1;
        let counted = Counted {
            model,
            steps: AtomicUsize::new(0),
        };
        let id = OperationId::derive(&caller.principal, &self.runs.to_string().parse().unwrap());
        let (effect, attempt) = (op.effect(), Attempt::new(op, caller, id));
        let done = match effect {
            Effect::Change => self.executor.execute(&counted, attempt).await,
            Effect::Read => self.executor.read(&counted, attempt, None).await,
        };
        (done.unwrap().reply, counted.steps.into_inner())
    }
}

fn administrator() -> Caller {
    Caller {
        principal: "user:admin".parse().unwrap(),
        account: "default".parse().unwrap(),
        role: Role::Administrator,
        via: None,
        session: None,
    }
}

fn put(i: usize, bytes: usize) -> BatchChange {
    // Each value is another one, and so has a row of its own where it is long.
    let text = format!("{i:0>bytes$}");
    BatchChange {
        path: format!("e/{i}").parse().unwrap(),
        guard: None,
        action: BatchAction::Put(NewValue::text(&text)),
    }
}

#[tokio::test]
async fn listing_a_thousand_long_values_takes_four_steps() {
    let (mut world, instance) = World::with_entries(1_000, 1_025).await;
    let op = instance_data::Op::ListInstanceData {
        instance,
        prefix: PathPrefix::ALL,
        after: None,
        limit: 1_000,
        values: Values::Shown,
    };
    let (reply, steps) = world.run(instance_data::Model, op).await;
    let Reply::Page { entries, .. } = reply else {
        panic!("a listing is a page");
    };
    let shown = entries.iter().filter(|shown| shown.content.is_some()).count();
    assert_eq!(shown, 1_000);
    // The instance, its entries, their values; then all is at hand.
    assert!(steps <= 4, "{steps} steps");
}

#[tokio::test]
async fn a_batch_of_a_hundred_changes_takes_three_steps() {
    let (mut world, instance) = World::with_entries(50, 2_000).await;
    let mut changes: Vec<_> = (0..99).map(|i| put(i, 1_500)).collect();
    changes.push(BatchChange {
        path: "e/99".parse().unwrap(),
        guard: None,
        action: BatchAction::Put(NewValue::text("short")),
    });
    let (_, steps) = world
        .run(
            instance_data::Model,
            instance_data::Op::BatchInstanceData { instance, changes },
        )
        .await;
    // The instance, then everything that the changes read; then all is at hand.
    assert!(steps <= 3, "{steps} steps");
    let changes = (0..10).map(|i| BatchChange {
        path: format!("e/{i}").parse().unwrap(),
        guard: None,
        action: BatchAction::SetAccess(AccessList::default()),
    });
    let (_, steps) = world
        .run(
            instance_data::Model,
            instance_data::Op::BatchInstanceData {
                instance,
                changes: changes.collect(),
            },
        )
        .await;
    assert!(steps <= 3, "{steps} steps");
}

#[tokio::test]
async fn the_history_of_long_values_takes_six_steps() {
    let (mut world, instance) = World::with_entries(1, 10).await;
    for i in 0..20 {
        let mut change = put(i, 1_500);
        change.path = "e/0".parse().unwrap();
        world
            .run(
                instance_data::Model,
                instance_data::Op::BatchInstanceData {
                    instance,
                    changes: vec![change],
                },
            )
            .await;
    }
    let op = instance_data::Op::GetInstanceDataHistory {
        instance,
        path: "e/0".parse().unwrap(),
        before: None,
        limit: 20,
    };
    let (reply, steps) = world.run(instance_data::Model, op).await;
    let Reply::History { changes, .. } = reply else {
        panic!("a history is a history");
    };
    assert_eq!(changes.len(), 20);
    // The instance, the entry, its value, its changes, their values; then all is at hand.
    assert!(steps <= 6, "{steps} steps");
}

#[tokio::test]
async fn listing_operations_takes_three_steps() {
    let (mut world, _) = World::with_entries(40, 1).await;
    for i in 0..30 {
        let run = instances::Op::RegisterInstance(Register {
            host: "h1".parse().unwrap(),
            id: Some(InstanceId::from_bytes([i; 16])),
            with: With::default(),
        });
        if i != 7 {
            world.run(instances::Model, run).await;
        }
    }
    let op = accounts::Op::ListOperations {
        instance: None,
        before: None,
        limit: 30,
    };
    let (reply, steps) = world.run(accounts::Model, op).await;
    assert_eq!(reply.operations.len(), 30);
    assert!(steps <= 3, "{steps} steps");
}

#[tokio::test]
async fn running_and_stopping_a_hundred_instances_takes_few_steps() {
    let mut world = World::new().await;
    let run = Run {
        image: "busybox".parse().unwrap(),
        instance_type: "micro".parse().unwrap(),
        count: 100,
        host: None,
        zone: None,
        with: With::default(),
    };
    let (reply, steps) = world
        .run(instances::Model, instances::Op::RunInstances(run))
        .await;
    let instances::operations::Reply::Changed(instances) = reply else {
        panic!("instances are made");
    };
    assert!(steps <= 4, "{steps} steps");
    let (_, steps) = world
        .run(instances::Model, instances::Op::StopInstances { instances })
        .await;
    assert!(steps <= 2, "{steps} steps");
}
