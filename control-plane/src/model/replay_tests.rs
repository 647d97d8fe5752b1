//! Rules and records agree: a random run is replayed from its records, and stepped again on a fork.

use std::collections::BTreeMap;

use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::EntryGuard;
use moorline_shared::api::hosts::{RegisterHost, ReportState};
use moorline_shared::api::instances::{InstanceState, ModifyInstance};
use moorline_shared::entry::Value;
use moorline_shared::{EntryPath, HostId, InstanceId, OperationId, PathPrefix, Principal, Revision};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::operation::Effect;
use super::replay::replay;
use super::{Attempt, Caller, Content, Env, ExecuteError, Executor, Fork, Record, Role, Stop, View};
use crate::instance_data::model::{BatchAction, BatchChange, Values};
use crate::instance_data::rules::NewValue;
use crate::instances::model::{Register, Run, With};
use crate::model::journal::{OperationRecord, Outcome};
use crate::services::{AnyOp, Services, provider};
use crate::settings::{self, Settings};
use crate::store::{Key, Store, Transaction, Write};
use crate::{accounts, instance_data, instances};

/// A step of the run: who does what to which of the instances there are.
#[derive(Clone, Debug)]
struct Step {
    caller: u8,
    target: usize,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Run(u32),
    Register,
    Ask(u8),
    Tag(u8),
    Resize,
    Report(u8),
    Put {
        path: u8,
        size: usize,
        ttl: bool,
        guard: u8,
        access: bool,
    },
    Append {
        path: u8,
        size: usize,
    },
    Delete {
        path: u8,
        guard: u8,
    },
    Batch(Vec<(u8, u8)>),
    SetAccess {
        path: u8,
        subject: u8,
    },
    Read {
        path: u8,
        which: u8,
    },
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => (0u32..4).prop_map(Kind::Run),
        1 => Just(Kind::Register),
        3 => (0u8..4).prop_map(Kind::Ask),
        1 => (0u8..4).prop_map(Kind::Tag),
        1 => Just(Kind::Resize),
        4 => (0u8..7).prop_map(Kind::Report),
        12 => (0u8..6, prop_oneof![0usize..40, 1_000usize..5_000], prop::bool::weighted(0.1), 0u8..6, prop::bool::weighted(0.1))
            .prop_map(|(path, size, ttl, guard, access)| Kind::Put { path, size, ttl, guard, access }),
        3 => (0u8..6, 0usize..2_000).prop_map(|(path, size)| Kind::Append { path, size }),
        3 => (0u8..6, 0u8..6).prop_map(|(path, guard)| Kind::Delete { path, guard }),
        3 => prop::collection::vec((0u8..6, 0u8..4), 0..5).prop_map(Kind::Batch),
        3 => (0u8..6, 0u8..5).prop_map(|(path, subject)| Kind::SetAccess { path, subject }),
        4 => (0u8..6, 0u8..6).prop_map(|(path, which)| Kind::Read { path, which }),
    ]
}

fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..6, 0usize..6, kinds()).prop_map(|(caller, target, kind)| Step { caller, target, kind });
    prop::collection::vec(step, count..=count)
}

/// A control plane without a server.
struct World {
    executor: Executor,
    services: Services,
    instances: Vec<InstanceId>,
    ids: u64,
    revisions: Vec<Revision>,
    seen: BTreeMap<&'static str, usize>,
    _folder: tempfile::TempDir,
}

const HOSTS: [&str; 2] = ["h1", "h2"];

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::store::sqlite::Options {
            retention: crate::store::sqlite::Retention::All,
            ..Default::default()
        };
        let store = Store::open_sqlite(folder.path().join("store.db"), &options).unwrap();
        let limits = settings::Limits {
            entries: 18,
            value_bytes: 6_000,
            instance_bytes: 20_000,
        };
        let executor = Executor::new(
            store,
            Settings {
                limits,
                ..Settings::default()
            },
        );
        let (services, seen) = (Services::default(), BTreeMap::new());
        let mut world = Self {
            executor,
            services,
            instances: vec![],
            ids: 0,
            revisions: vec![],
            seen,
            _folder: folder,
        };
        let adopt = settings::Op::AdoptSettings(world.executor.settings().as_ref().clone());
        world.run(adopt.into(), provider("control")).await;
        for host in HOSTS {
            let images = vec!["busybox".parse().unwrap()];
            let offer = RegisterHost {
                zone: "z".parse().unwrap(),
                vcpus: 4,
                memory_mib: 2_048,
                images,
            };
            let host: HostId = host.parse().unwrap();
            let op = instances::Op::RegisterHost {
                host: host.clone(),
                offer,
            };
            world.run(op.into(), caller_of(Principal::Host(host))).await;
        }
        world
    }

    /// Runs an operation live, and steps it on a fork of the state it found: both must come to the same.
    async fn run(&mut self, op: AnyOp, caller: Caller) {
        self.ids += 1;
        let id = OperationId::derive(&caller.principal, &format!("k{}", self.ids).parse().unwrap());
        let before = Fork::of(self.executor.store(), self.executor.store().head().await.unwrap())
            .await
            .unwrap();
        let live = self.live(op.clone(), caller.clone(), id).await;
        let kept = self.executor.store().head().await.unwrap();
        let record = self.record(kept, id).await;
        let now = record
            .as_ref()
            .map_or_else(|| self.executor.now(), |record| record.at);
        let env = Env {
            now,
            operation: id,
            caller,
            settings: self.executor.settings().clone(),
        };
        let mut fork = before;
        let stepped = self.services.step(&mut View::new(&mut fork, id), &op, &env);
        let outcome = match (&live, stepped) {
            (Ok(reply), Ok(stepped)) => {
                assert_eq!(*reply, stepped, "{op:?}");
                "done"
            }
            (Err(ExecuteError::Refused { .. }), Err(Stop::Refused(problem))) => {
                let Some(OperationRecord {
                    outcome: Outcome::Refused { problem: kept, .. },
                    ..
                }) = record
                else {
                    panic!("{op:?} was refused and left no record of it");
                };
                assert_eq!(*kept, problem, "{op:?}");
                "refused"
            }
            (live, stepped) => panic!("{op:?} ends live as {live:?} and on a fork as {stepped:?}"),
        };
        *self.seen.entry(outcome).or_default() += 1;
        self.note(&live, kept);
    }

    fn note(&mut self, live: &Result<serde_json::Value, ExecuteError>, head: u64) {
        self.revisions
            .push(Revision::new(self.executor.store().epoch(), head));
        let made = live
            .as_ref()
            .ok()
            .and_then(|reply| reply.get("changed")?.as_array().cloned())
            .unwrap_or_default();
        for id in made.iter().filter_map(|id| id.as_str()?.parse().ok()) {
            if !self.instances.contains(&id) {
                self.instances.push(id);
            }
        }
    }

    async fn live(
        &self,
        op: AnyOp,
        caller: Caller,
        id: OperationId,
    ) -> Result<serde_json::Value, ExecuteError> {
        macro_rules! run {
            ($model:expr, $op:expr) => {{
                let (effect, attempt) = (
                    super::Operation::effect(&$op),
                    Attempt::new($op, caller, id),
                );
                let done = match effect {
                    Effect::Change => self.executor.execute(&$model, attempt).await?,
                    Effect::Read => self.executor.read(&$model, attempt, None).await?,
                };
                Ok(serde_json::to_value(done.reply).unwrap())
            }};
        }
        match op {
            AnyOp::Settings(op) => run!(settings::Model, op),
            AnyOp::Instances(op) => run!(instances::Model, op),
            AnyOp::InstanceData(op) => run!(instance_data::Model, op),
            AnyOp::Accounts(op) => run!(accounts::Model, op),
        }
    }

    async fn record(&self, at: u64, id: OperationId) -> Option<OperationRecord> {
        let found = self
            .executor
            .store()
            .read(at, &[OperationRecord::key(&id)])
            .await
            .unwrap();
        Some(serde_json::from_slice(&found.into_iter().next()??.value).unwrap())
    }

    async fn step(&mut self, step: Step) {
        let target = self
            .instances
            .get(step.target)
            .copied()
            .unwrap_or(InstanceId::from_bytes([9; 16]));
        let caller = self.caller(step.caller, target);
        let op = self.operation(step.kind, target);
        let caller = match &op {
            AnyOp::Instances(instances::Op::ReportInstanceState { host, .. }) => {
                caller_of(Principal::Host(host.clone()))
            }
            _ => caller,
        };
        self.run(op, caller).await;
    }

    /// Mostly the administrator, sometimes a guest on one of the hosts, sometimes nobody of consequence.
    fn caller(&self, which: u8, target: InstanceId) -> Caller {
        let other = self.instances.first().copied().unwrap_or(target);
        match which {
            0 => Caller {
                via: Some(HOSTS[0].parse().unwrap()),
                ..caller_of(Principal::Instance(target))
            },
            1 => Caller {
                via: Some(HOSTS[1].parse().unwrap()),
                ..caller_of(Principal::Instance(other))
            },
            2 => caller_of("user:stranger".parse().unwrap()),
            _ => Caller {
                role: Role::Administrator,
                ..caller_of("user:admin".parse().unwrap())
            },
        }
    }

    fn guard(&self, which: u8) -> Option<EntryGuard> {
        match which {
            0 => Some(EntryGuard::Absent),
            1 => self.revisions.last().copied().map(EntryGuard::Revision),
            _ => None,
        }
    }

    fn operation(&self, kind: Kind, instance: InstanceId) -> AnyOp {
        use instance_data::Op as Data;
        use instances::Op;
        let instances = vec![instance];
        match kind {
            Kind::Run(count) => Op::RunInstances(run(count)).into(),
            Kind::Register => {
                let with = With {
                    name: Some("ext".into()),
                    ..With::default()
                };
                Op::RegisterInstance(Register {
                    host: HOSTS[0].parse().unwrap(),
                    id: None,
                    with,
                })
                .into()
            }
            Kind::Ask(0) => Op::StartInstances { instances }.into(),
            Kind::Ask(1) => Op::StopInstances { instances }.into(),
            Kind::Ask(2) => Op::RebootInstances { instances }.into(),
            Kind::Ask(_) => Op::TerminateInstances { instances }.into(),
            Kind::Tag(n) => {
                let tags = Some(vec![format!("role={n}").parse().unwrap()]);
                Op::ModifyInstanceAttribute {
                    instance,
                    change: ModifyInstance {
                        tags,
                        ..Default::default()
                    },
                }
                .into()
            }
            Kind::Resize => {
                let instance_type = Some("small".parse().unwrap());
                Op::ModifyInstanceAttribute {
                    instance,
                    change: ModifyInstance {
                        instance_type,
                        ..Default::default()
                    },
                }
                .into()
            }
            Kind::Report(state) => report(instance, state).into(),
            Kind::Put {
                path,
                size,
                ttl,
                guard,
                access,
            } => Data::PutInstanceData {
                instance,
                path: path_of(path),
                guard: self.guard(guard),
                new: NewValue {
                    ttl: ttl.then(|| 1.try_into().unwrap()),
                    access: access.then(|| list(3)),
                    ..NewValue::text(&"v".repeat(size))
                },
            }
            .into(),
            Kind::Append { path, size } => {
                let content = Content::Inline(Value::from("a".repeat(size).as_str()));
                Data::AppendInstanceData {
                    instance,
                    path: path_of(path),
                    guard: None,
                    content,
                }
                .into()
            }
            Kind::Delete { path, guard } => Data::DeleteInstanceData {
                instance,
                path: path_of(path),
                guard: self.guard(guard),
            }
            .into(),
            Kind::Batch(changes) => {
                let changes = changes
                    .into_iter()
                    .map(|(path, action)| change(path, action))
                    .collect();
                Data::BatchInstanceData { instance, changes }.into()
            }
            Kind::SetAccess { path, subject } => Data::SetEntryAccess {
                instance,
                path: path_of(path),
                guard: None,
                access: list(subject),
            }
            .into(),
            Kind::Read { path, which } => read(instance, path, which),
        }
    }
}

fn caller_of(principal: Principal) -> Caller {
    Caller {
        principal,
        account: "default".parse().unwrap(),
        role: Role::Member,
        via: None,
    }
}

fn path_of(n: u8) -> EntryPath {
    ["a", "a/b", "config/x", "config/y", "meta/vcpus", "z"][usize::from(n % 6)]
        .parse()
        .unwrap()
}

fn run(count: u32) -> Run {
    let data = BTreeMap::from([("config/x".parse().unwrap(), NewValue::text(&"seed".repeat(300)))]);
    Run {
        image: "busybox".parse().unwrap(),
        instance_type: "micro".parse().unwrap(),
        count,
        host: None,
        zone: None,
        with: With {
            name: Some("n".into()),
            tags: vec![],
            data,
        },
    }
}

fn report(instance: InstanceId, state: u8) -> instances::Op {
    use InstanceState::{Failed, Pending, Running, Stopped, Terminated};
    let state = [Pending, Running, Running, Stopped, Failed, Terminated, Running][usize::from(state)];
    let report = ReportState {
        instance,
        state,
        incarnation: 1,
        reboots: 1,
        reason: None,
    };
    instances::Op::ReportInstanceState {
        host: HOSTS[0].parse().unwrap(),
        report,
    }
}

fn list(subject: u8) -> AccessList {
    let subjects = ["owner", "account", "tag:role=1", "user:stranger"];
    let Some(subject) = subjects.get(usize::from(subject)) else {
        return AccessList::default();
    };
    let subject: Subject = subject.parse().unwrap();
    let rights: Rights = [Right::Read, Right::Update].into_iter().collect();
    vec![Clause { subject, rights }].try_into().unwrap()
}

fn change(path: u8, action: u8) -> BatchChange {
    let action = match action {
        0 => BatchAction::Delete,
        1 => BatchAction::Append(Value::from("more").into()),
        2 => BatchAction::SetAccess(list(0)),
        _ => BatchAction::Put(NewValue::text(&"b".repeat(2_000))),
    };
    BatchChange {
        path: path_of(path),
        guard: None,
        action,
    }
}

fn read(instance: InstanceId, path: u8, which: u8) -> AnyOp {
    use instance_data::Op as Data;
    match which {
        0 => Data::ListInstanceData {
            instance,
            prefix: PathPrefix::ALL,
            after: None,
            limit: 3,
            values: Values::Shown,
        }
        .into(),
        1 => Data::DescribeInstanceData { instance }.into(),
        2 => Data::GetInstanceDataHistory {
            instance,
            path: path_of(path),
            before: None,
            limit: 3,
        }
        .into(),
        3 => accounts::Op::ListOperations {
            instance: Some(instance),
            before: None,
            limit: 3,
        }
        .into(),
        4 => instances::Op::DescribeInstances {
            instance: None,
            name: None,
            host: None,
            state: None,
            after: None,
            limit: 3,
        }
        .into(),
        _ => Data::GetInstanceData {
            instance,
            path: path_of(path),
        }
        .into(),
    }
}

/// Runs the steps, and compares the store with what its records lead to.
fn check(steps: Vec<Step>) -> BTreeMap<&'static str, usize> {
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
        let store = world.executor.store();
        let replayed = replay(store, &world.services)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let live = store.dump(store.head().await.unwrap()).await.unwrap();
        assert_eq!(replayed.head(), store.head().await.unwrap());
        for (live, replayed) in live.iter().zip(replayed.dump()) {
            assert_eq!((&live.0, &live.1.value), (replayed.0, &replayed.1.value));
            assert_eq!((&live.0, &live.1), (replayed.0, replayed.1));
        }
        assert_eq!(live.len(), replayed.dump().count());
        world.seen
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
    let steps = steps(1_200).new_tree(&mut runner).unwrap().current();
    let seen = check(steps);
    assert!(seen["done"] > 300 && seen["refused"] > 200, "{seen:?}");
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
