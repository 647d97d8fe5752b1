//! A control plane without a server, on which a run happens.

use std::collections::BTreeMap;

use moorline_shared::api::data::EntryGuard;
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::api::instances::ModifyInstance;
use moorline_shared::entry::Value;
use moorline_shared::{HostId, InstanceId, OperationId, Principal, Revision};

use super::identities::identify;
use super::steps::{Kind, Step, change, list, path_of, read, report, run, secrecy, too_many};
use crate::identity::master::MasterKey;
use crate::instance_data::rules::NewValue;
use crate::instances::operations::{Register, With};
use crate::model::journal::{OperationRecord, Outcome};
use crate::model::operation::{self, Effect};
use crate::model::replay::{self, replay};
use crate::model::sealing::Sealing;
use crate::model::{
    Attempt, Caller, Content, Env, ExecuteError, Executor, Fork, Intent, Record, Role, Stop, View, outbox,
};
use crate::services::{AnyOp, Services, provider};
use crate::settings::{self, Settings};
use crate::store::{Range, Store, sqlite};
use crate::{accounts, identity, instance_data, instances};

/// A control plane without a server.
pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) services: Services,
    pub(super) instances: Vec<InstanceId>,
    ids: u64,
    revisions: Vec<Revision>,
    pub(super) done_later: BTreeMap<&'static str, usize>,
    pub(super) seen: BTreeMap<&'static str, usize>,
    /// How each value began that was given for a secret.
    pub(super) secrets: Vec<String>,
    folder: tempfile::TempDir,
}

/// All of the past is kept.
fn options() -> sqlite::Options {
    sqlite::Options {
        retention: sqlite::Retention::All,
        ..Default::default()
    }
}

/// How many changes of an entry are kept: so few that a run trims many.
pub(super) const KEEP_CHANGES: u32 = 3;

pub(super) const HOSTS: [&str; 2] = ["h1", "h2"];

/// What only a host boots that has room for more instances than a transaction.
pub(super) const LARGE_IMAGE: &str = "large";

/// The most instances of a request.
pub(super) const MOST: u32 = moorline_shared::api::instances::MAX_INSTANCES;

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &options()).unwrap();
        let limits = settings::Limits {
            entries: 18,
            value_bytes: 6_000,
            instance_bytes: 20_000,
        };
        let executor = Executor::new(
            store,
            Settings {
                limits,
                keep_changes: KEEP_CHANGES,
                ..Settings::default()
            },
            MasterKey::for_tests(),
        )
        .recording_all();
        let (services, seen) = (Services::default(), BTreeMap::new());
        let mut world = Self {
            executor,
            services,
            instances: vec![],
            ids: 0,
            revisions: vec![],
            done_later: BTreeMap::new(),
            seen,
            secrets: vec![],
            folder,
        };
        let adopt = settings::Op::AdoptSettings(world.executor.settings().as_ref().clone());
        world.run(adopt.into(), provider("control")).await;
        let hosts = HOSTS.map(|host| (host, 4, "busybox"));
        for (host, vcpus, image) in hosts.into_iter().chain([("large", MOST, LARGE_IMAGE)]) {
            let offer = RegisterHost {
                zone: "z".parse().unwrap(),
                vcpus,
                memory_mib: u64::from(vcpus) * 512,
                images: vec![image.parse().unwrap()],
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
    pub(super) async fn run(&mut self, op: AnyOp, caller: Caller) {
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
        let (mut fork, mut op) = (before, op);
        let mut view = View::new(&mut fork, id);
        let master = MasterKey::for_tests();
        let mut sealing = Sealing::by_state(&master, &env, &mut view);
        let given = op.clone();
        op.seal(&mut sealing);
        sealing.finish().expect("a fork has everything at hand");
        self.note_sealed(given, op.clone());
        let mut view = View::new(&mut fork, id);
        let stepped = self.services.step(&mut view, &op, &env);
        let trace = view.into_trace();
        let outcome = match (&live, stepped) {
            (Ok(reply), Ok(stepped)) => {
                assert_eq!(*reply, stepped, "{op:?}");
                "done"
            }
            (Err(ExecuteError::Refused { .. }), Ok(reply)) => {
                let record = record.expect("what failed leaves a record");
                let Outcome::Failed { problem } = &record.outcome else {
                    panic!("{op:?} is {:?}, and done on a fork", record.outcome);
                };
                let found = replay::too_large(&record, reply, trace);
                assert_eq!(found.as_ref(), Some(&**problem), "{op:?}");
                "failed"
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

    /// Goes on with the store as a backup of it brings it back.
    pub(super) fn restore(&mut self) {
        let [from, to] = ["store.db", "restored.db"].map(|name| self.folder.path().join(name));
        let copy = sqlite::Detached::copy(&from, &to).unwrap();
        copy.begin_epoch(0).unwrap();
        let store = Store::open_sqlite(to, &options()).unwrap();
        let settings = self.executor.settings().as_ref().clone();
        self.executor = Executor::new(store, settings, MasterKey::for_tests()).recording_all();
    }

    /// How many operations were run.
    pub(super) const fn given(&self) -> u64 {
        self.ids
    }

    /// Replays the store from its records, and compares the two byte for byte.
    pub(super) async fn replay(&self) {
        let store = self.executor.store();
        let replayed = replay(store, &self.services)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let live = store.dump(store.head().await.unwrap()).await.unwrap();
        assert_eq!(replayed.head(), store.head().await.unwrap());
        for (live, replayed) in live.iter().zip(replayed.dump()) {
            assert_eq!((&live.0, &live.1.value), (replayed.0, &replayed.1.value));
            assert_eq!((&live.0, &live.1), (replayed.0, replayed.1));
        }
        assert_eq!(live.len(), replayed.dump().count());
        self.check_secrets(&live);
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
                    operation::Operation::effect(&$op),
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
            AnyOp::Identity(op) => run!(identity::Model, op),
            AnyOp::Enrolment(op) => run!(crate::identity::enrolment::Model, op),
            AnyOp::Authority(op) => run!(crate::identity::authority::Model, op),
            AnyOp::InstanceSessions(op) => run!(identity::instances::Model, op),
            AnyOp::Issuer(op) => run!(identity::issuer::Model, op),
        }
    }

    /// What an administrator sees.
    pub(super) async fn look(&self, op: instance_data::Op) -> instance_data::operations::Reply {
        let id = OperationId::derive(&administrator().principal, &"look".parse().unwrap());
        let attempt = Attempt::new(op, administrator(), id);
        let done = self.executor.read(&instance_data::Model, attempt, None).await;
        done.unwrap().reply
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

    pub(super) async fn step(&mut self, step: Step) {
        if let Kind::Due(most) = step.kind {
            self.due(most).await;
            return;
        }
        let target = self
            .instances
            .get(step.target)
            .copied()
            .unwrap_or(InstanceId::from_bytes([9; 16]));
        let caller = self.caller(step.caller, target);
        let op = self.operation(step.kind, target);
        let caller = match &op {
            AnyOp::Identity(identity::Op::CreateSession(_) | identity::Op::LogIn(_)) => provider("identity"),
            AnyOp::Instances(instances::Op::ReportInstanceState { host, .. }) => {
                caller_of(Principal::Host(host.clone()))
            }
            _ => caller,
        };
        self.run(op, caller).await;
    }

    /// Does the first `most` things of the outbox, whenever they are due, and says how many there were.
    pub(super) async fn due(&mut self, most: usize) -> usize {
        let store = self.executor.store();
        let head = store.head().await.unwrap();
        let page = store
            .range(head, &Range::prefix("outbox/").limit(most))
            .await
            .unwrap();
        for (row, kept) in &page.entries {
            let intent: Intent = serde_json::from_slice(&kept.value).unwrap();
            *self.done_later.entry(intent.submit.api()).or_default() += 1;
            if let AnyOp::Instances(instances::Op::ForgetInstance { instance }) = &intent.submit {
                self.instances.retain(|id| id != instance);
            }
            let id = outbox::operation_id(row);
            let done = self
                .services
                .submit(&self.executor, intent.submit, row.clone(), id)
                .await;
            assert!(
                matches!(done, Ok(()) | Err(ExecuteError::Refused { .. })),
                "{done:?}"
            );
        }
        page.entries.len()
    }

    /// Mostly the administrator, sometimes a guest on one of the hosts, sometimes nobody of consequence.
    fn caller(&self, which: u8, target: InstanceId) -> Caller {
        let other = self.instances.first().copied().unwrap_or(target);
        match which {
            0 => Caller {
                via: Some(HOSTS[0].parse().unwrap()),
                session: None,
                ..caller_of(Principal::Instance(target))
            },
            1 => Caller {
                via: Some(HOSTS[1].parse().unwrap()),
                session: None,
                ..caller_of(Principal::Instance(other))
            },
            2 => caller_of("user:stranger".parse().unwrap()),
            _ => administrator(),
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
            Kind::Due(_) => unreachable!("what is due says itself what is done"),
            Kind::TooMany => Op::RunInstances(too_many()).into(),
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
                secret,
            } => Data::PutInstanceData {
                instance,
                path: path_of(path),
                guard: self.guard(guard),
                new: NewValue {
                    ttl: ttl.then(|| 1.try_into().unwrap()),
                    access: access.then(|| list(3)),
                    secret: secrecy(secret),
                    ..NewValue::text(&self.marked(size))
                },
            }
            .into(),
            Kind::Append { path, size } => {
                let content = Content::Inline(Value::from(self.marked(size).as_str()));
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
                    .map(|(path, action)| change(path, action, &self.marked(0)))
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
            Kind::Identify { who, which } => identify(who, which),
        }
    }
}

pub(super) fn administrator() -> Caller {
    Caller {
        role: Role::Administrator,
        ..caller_of("user:admin".parse().unwrap())
    }
}

pub(super) fn caller_of(principal: Principal) -> Caller {
    Caller {
        principal,
        account: "default".parse().unwrap(),
        role: Role::Member,
        via: None,
        session: None,
    }
}
