//! A host that loses its feed at any moment has, once it is in step again, just what its guests may see.

mod compare;
mod damage;
mod host;
mod polls;
mod resume;
mod revoked;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::feed::{FeedMessage, MAX_LINE_BYTES, OpenFeed, Poll, ViewId, named};
use moorline_shared::api::hosts::{RegisterHost, ReportState};
use moorline_shared::api::instances::{InstanceState, ModifyInstance};
use moorline_shared::id::GroupName;
use moorline_shared::{EntryPath, HostId, InstanceId, OperationId, Principal};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::host::HostModel;
use super::parts::{Gone, Sink};
use super::stream::Stream;
use super::views::Views;
use super::{Dispatcher, FeedHandle};
use crate::identity::master::MasterKey;
use crate::instance_data::operations::{BatchAction, BatchChange};
use crate::instance_data::rules::NewValue;
use crate::instances::operations::{Run, With};
use crate::model::{Attempt, Caller, Executor, Role};
use crate::settings::{AccessControl, Settings};
use crate::store::Store;
use crate::{identity, instance_data, instances};

/// What happens.
#[derive(Clone, Debug)]
enum Event {
    Run,
    Put { instance: usize, path: u8, long: bool },
    Pair { instance: usize },
    Delete { instance: usize, path: u8 },
    Access { instance: usize, path: u8, subject: u8 },
    Tag { instance: usize, tag: u8 },
    Join { instance: usize, group: u8 },
    Leave { instance: usize, group: u8 },
    End { instance: usize },
    Revoke { instance: usize },
    Begin { instance: usize },
    LogOut,
    Want { reader: usize, instance: usize },
    Unwant { nth: usize },
    Lose,
    Compact,
    Settle,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = || 0usize..4;
    let event = prop_oneof![
        1 => Just(Event::Run),
        8 => (one(), 0u8..4, prop::bool::weighted(0.2)).prop_map(|(instance, path, long)| Event::Put { instance, path, long }),
        4 => one().prop_map(|instance| Event::Pair { instance }),
        3 => (one(), 0u8..4).prop_map(|(instance, path)| Event::Delete { instance, path }),
        4 => (one(), 0u8..4, 0u8..5).prop_map(|(instance, path, subject)| Event::Access { instance, path, subject }),
        2 => (one(), 0u8..2).prop_map(|(instance, tag)| Event::Tag { instance, tag }),
        2 => (one(), 0u8..2).prop_map(|(instance, group)| Event::Join { instance, group }),
        1 => (one(), 0u8..2).prop_map(|(instance, group)| Event::Leave { instance, group }),
        1 => one().prop_map(|instance| Event::End { instance }),
        3 => one().prop_map(|instance| Event::Revoke { instance }),
        3 => one().prop_map(|instance| Event::Begin { instance }),
        1 => Just(Event::LogOut),
        3 => (one(), one()).prop_map(|(reader, instance)| Event::Want { reader, instance }),
        1 => one().prop_map(|nth| Event::Unwant { nth }),
        3 => Just(Event::Lose),
        1 => Just(Event::Compact),
        2 => Just(Event::Settle),
    ];
    prop::collection::vec(event, 60..120)
}

/// A control plane with one host, whose feed may be lost at any moment.
struct World {
    executor: Executor,
    views: Views,
    handle: FeedHandle,
    host: HostModel,
    messages: Option<mpsc::UnboundedReceiver<FeedMessage>>,
    feeds: JoinSet<()>,
    instances: Vec<InstanceId>,
    /// Those of which not the first life is the present one, with that.
    lives: BTreeMap<InstanceId, u64>,
    /// The sessions of instances that were ended.
    ended: BTreeSet<String>,
    ids: u64,
    /// For how long the host has its polls kept, if it polls.
    polls: Option<u32>,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

struct Channel(mpsc::UnboundedSender<FeedMessage>);

impl Sink for Channel {
    async fn send(&mut self, message: &FeedMessage) -> Result<(), Gone> {
        // What goes over the wire is JSON, so what doesn't survive that doesn't arrive here either.
        let line = serde_json::to_string(message).unwrap();
        assert!(line.len() < MAX_LINE_BYTES, "a line of {} bytes", line.len());
        self.0
            .send(serde_json::from_str(&line).unwrap())
            .map_err(|_| Gone)
    }
}

fn host() -> HostId {
    "h1".parse().unwrap()
}

fn caller(principal: &str, role: Role) -> Caller {
    Caller {
        principal: principal.parse().unwrap(),
        account: "default".parse().unwrap(),
        role,
        via: None,
        session: None,
    }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::store::sqlite::Options {
            recent_bytes: 0,
            ..Default::default()
        };
        let store = Store::open_sqlite(folder.path().join("store.db"), &options).unwrap();
        let (dispatcher, handle) = Dispatcher::new(&store, AccessControl::Enforced, MasterKey::for_tests())
            .await
            .unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { dispatcher.run(CancellationToken::new()).await.unwrap() });
        let mut world = Self {
            executor: Executor::new(store.clone(), Settings::default(), MasterKey::for_tests()),
            views: Views::new(store, AccessControl::Enforced, MasterKey::for_tests()),
            handle,
            host: HostModel::default(),
            messages: None,
            feeds: JoinSet::new(),
            instances: Vec::new(),
            lives: BTreeMap::new(),
            ended: BTreeSet::new(),
            ids: 0,
            polls: None,
            tasks,
            _folder: folder,
        };
        let images = vec!["busybox".parse().unwrap()];
        let offer = RegisterHost {
            zone: "z".parse().unwrap(),
            vcpus: 99,
            memory_mib: 99_999,
            images,
        };
        world
            .run(
                instances::Op::RegisterHost { host: host(), offer },
                caller("host:h1", Role::Member),
            )
            .await;
        for group in [0, 1].map(group_of) {
            world.identify(identity::Op::CreateGroup { group }).await;
        }
        world.run_instance().await;
        world.run_instance().await;
        world
    }

    async fn run(&mut self, op: instances::Op, caller: Caller) -> Option<instances::operations::Reply> {
        self.ids += 1;
        let id = OperationId::derive(&caller.principal, &format!("k{}", self.ids).parse().unwrap());
        Some(
            self.executor
                .execute(&instances::Model, Attempt::new(op, caller, id))
                .await
                .ok()?
                .reply,
        )
    }

    /// Changes data as the administrator; a refusal is as good as any other outcome here.
    async fn change(&mut self, op: instance_data::Op) {
        self.ids += 1;
        let caller = caller("user:admin", Role::Administrator);
        let id = OperationId::derive(&caller.principal, &format!("k{}", self.ids).parse().unwrap());
        drop(
            self.executor
                .execute(&instance_data::Model, Attempt::new(op, caller, id))
                .await,
        );
    }

    /// Changes groups as the administrator; to leave one that nobody is in is refused.
    async fn identify(&mut self, op: identity::Op) {
        self.ids += 1;
        let caller = caller("user:admin", Role::Administrator);
        let id = OperationId::derive(&caller.principal, &format!("k{}", self.ids).parse().unwrap());
        let done = self
            .executor
            .execute(&identity::Model, Attempt::new(op, caller, id));
        drop(done.await);
    }

    async fn run_instance(&mut self) {
        let run = Run {
            image: "busybox".parse().unwrap(),
            instance_type: "micro".parse().unwrap(),
            count: 1,
            host: None,
            zone: None,
            with: With::default(),
        };
        let made = self
            .run(
                instances::Op::RunInstances(run),
                caller("user:admin", Role::Administrator),
            )
            .await;
        if let Some(instances::operations::Reply::Changed(ids)) = made {
            self.instances.extend(ids);
        }
    }

    fn instance(&self, nth: usize) -> InstanceId {
        self.instances[nth % self.instances.len()]
    }

    async fn happen(&mut self, event: Event) {
        use instance_data::Op;
        match event {
            Event::Run if self.instances.len() < 6 => self.run_instance().await,
            Event::Run => {}
            Event::Put { instance, path, long } => {
                let new = NewValue::text(&format!(
                    "{}{}",
                    self.ids,
                    "x".repeat(if long { 3_000 } else { 0 })
                ));
                let instance = self.instance(instance);
                self.change(Op::PutInstanceData {
                    instance,
                    path: path_of(path),
                    guard: None,
                    new,
                })
                .await;
            }
            Event::Pair { instance } => {
                let new = NewValue::text(&self.ids.to_string());
                let put = |path: &str| BatchChange {
                    path: path.parse().unwrap(),
                    guard: None,
                    action: BatchAction::Put(new.clone()),
                };
                let (instance, changes) = (self.instance(instance), vec![put("pair/a"), put("pair/b")]);
                self.change(Op::BatchInstanceData { instance, changes }).await;
            }
            Event::Delete { instance, path } => {
                let instance = self.instance(instance);
                self.change(Op::DeleteInstanceData {
                    instance,
                    path: path_of(path),
                    guard: None,
                })
                .await;
            }
            Event::Access {
                instance,
                path,
                subject,
            } => {
                let (instance, access) = (self.instance(instance), self.list(subject));
                self.change(Op::SetEntryAccess {
                    instance,
                    path: path_of(path),
                    guard: None,
                    access,
                })
                .await;
            }
            Event::Tag { instance, tag } => {
                let change = ModifyInstance {
                    tags: Some(vec![format!("k={tag}").parse().unwrap()]),
                    ..Default::default()
                };
                let op = instances::Op::ModifyInstanceAttribute {
                    instance: self.instance(instance),
                    change,
                };
                self.run(op, caller("user:admin", Role::Administrator)).await;
            }
            Event::Join { instance, group } => {
                let member = Principal::Instance(self.instance(instance));
                let group = group_of(group);
                self.identify(identity::Op::AddGroupMember { group, member })
                    .await;
            }
            Event::Leave { instance, group } => {
                let member = Principal::Instance(self.instance(instance));
                let group = group_of(group);
                self.identify(identity::Op::RemoveGroupMember { group, member })
                    .await;
            }
            Event::End { instance } => self.end(instance).await,
            Event::Revoke { instance } => {
                let instance = Principal::Instance(self.instance(instance));
                let ended = self.end_session(instance).await;
                self.ended.insert(ended);
            }
            Event::Begin { instance } => {
                let instance = self.instance(instance);
                *self.lives.entry(instance).or_insert(1) += 1;
                self.report(instance, InstanceState::Running).await;
            }
            Event::LogOut => drop(self.end_session("user:ann".parse().unwrap()).await),
            Event::Want { reader, instance } => self.want(reader, instance).await,
            Event::Unwant { nth } => self.unwant(nth).await,
            Event::Lose => self.lose().await,
            Event::Compact => {
                let head = self.executor.store().head().await.unwrap();
                self.executor.store().compact(head).await.unwrap();
            }
            Event::Settle => self.settle().await,
        }
    }

    fn list(&self, subject: u8) -> AccessList {
        let subject = match subject {
            0 => Subject::Owner,
            1 => Subject::Account,
            2 => "tag:k=1".parse().unwrap(),
            3 => "group:g1".parse().unwrap(),
            _ => Subject::Instance(self.instances[0]),
        };
        vec![Clause {
            subject,
            rights: Rights::only(Right::Read),
        }]
        .try_into()
        .unwrap()
    }

    async fn end(&mut self, nth: usize) {
        if self.instances.len() < 3 {
            return;
        }
        let instance = self.instances.remove(nth % self.instances.len());
        let terminate = instances::Op::TerminateInstances {
            instances: vec![instance],
        };
        self.run(terminate, caller("user:admin", Role::Administrator))
            .await;
        self.report(instance, InstanceState::Terminated).await;
        self.host.wanted.retain(|view| view.reader != instance);
    }

    /// The present life of an instance.
    fn life(&self, instance: &InstanceId) -> u64 {
        self.lives.get(instance).copied().unwrap_or(1)
    }

    /// The host says what an instance is, in its present life.
    async fn report(&mut self, instance: InstanceId, state: InstanceState) {
        let report = ReportState {
            instance,
            state,
            incarnation: self.life(&instance),
            reboots: 0,
            reason: None,
        };
        let report = instances::Op::ReportInstanceState { host: host(), report };
        self.run(report, caller("host:h1", Role::Member)).await;
    }

    async fn want(&mut self, reader: usize, instance: usize) {
        let view = ViewId {
            reader: self.instance(reader),
            instance: self.instance(instance),
        };
        if view.reader != view.instance && self.host.wanted.insert(view) && self.messages.is_some() {
            self.settle().await;
        }
    }

    /// Asks for the views that are wanted and have not come, once in a session. Returns whether there are any.
    async fn ask_for_wanted(&mut self) -> bool {
        let host_has = &self.host;
        let missing = |view: &ViewId| !host_has.views.contains_key(view) && !host_has.resync.contains(view);
        let missing: Vec<_> = host_has.wanted.iter().copied().filter(missing).collect();
        if self.polls.is_some() {
            // The next poll asks.
            return !missing.is_empty();
        }
        let (add, session): (Vec<_>, _) = (
            missing
                .iter()
                .copied()
                .filter(|view| !host_has.asked.contains(view))
                .collect(),
            host_has.session,
        );
        if !add.is_empty() {
            self.host.asked.extend(&add);
            let set = self.handle.set_interests(host(), session, add, vec![]).await;
            assert_eq!(set.unwrap(), super::feeds::Interest::Set);
        }
        !missing.is_empty()
    }

    async fn unwant(&mut self, nth: usize) {
        let Some(view) = self.host.wanted.iter().nth(nth).copied() else {
            return;
        };
        self.host.wanted.remove(&view);
        self.host.views.remove(&view);
        self.host.asked.remove(&view);
        if self.messages.is_some() {
            self.settle().await;
            self.handle
                .set_interests(host(), self.host.session, vec![], vec![view])
                .await
                .unwrap();
        }
    }

    /// The connection is gone; what was sent and not received is lost.
    async fn lose(&mut self) {
        self.messages = None;
        self.feeds.shutdown().await;
    }

    /// Everything is named once to a host that begins.
    fn poll(&self, wait_ms: u32) -> Poll {
        let instances = self.host.instances.iter();
        let wanted = self.host.wanted.iter().copied();
        Poll {
            wait_ms,
            instances: self
                .host
                .cursor
                .map(|_| named(instances.map(|(id, at)| (*id, *at)))),
            add: wanted
                .filter(|view| !self.host.views.contains_key(view))
                .collect(),
        }
    }

    async fn connect(&mut self) {
        let open = OpenFeed {
            cursor: self.host.cursor,
            // What has not come yet is not to be gone on from.
            interests: self
                .host
                .wanted
                .iter()
                .copied()
                .filter(|view| self.host.views.contains_key(view))
                .collect(),
            poll: self.polls.map(|wait_ms| self.poll(wait_ms)),
        };
        let opened = self.handle.open(host(), open.clone()).await.unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        let store = self.executor.store().clone();
        let stream = Stream::new(
            store,
            self.views.clone(),
            self.handle.clone(),
            host(),
            &opened,
            CancellationToken::new(),
        );
        self.feeds.spawn(async move {
            let mut sink = Channel(sender);
            drop(stream.run("test".into(), open, opened, &mut sink).await);
        });
        self.messages = Some(messages);
    }

    /// Waits until the host stands where the store does, connecting again as often as it takes.
    async fn settle(&mut self) {
        let head = self.executor.store().head().await.unwrap();
        let concerned = self.ids;
        loop {
            if self.messages.is_none() {
                self.connect().await;
            }
            let Some(messages) = &mut self.messages else {
                continue;
            };
            // A poll is kept in silence for as long as was asked.
            let kept = Duration::from_millis(self.polls.unwrap_or_default().into());
            match tokio::time::timeout(Duration::from_secs(20) + kept, messages.recv())
                .await
                .expect("the feed is silent")
            {
                Some(message) => self.host.apply(message),
                None => self.messages = None,
            }
            // Only what the dispatcher has seen can be asked for, as a host asks only for instances it was told of.
            if self.host.cursor.is_some_and(|cursor| cursor.n >= head) && !self.ask_for_wanted().await {
                return;
            }
            // Operations that concern no host move the head too: a bookmark brings the host there.
            assert_eq!(self.ids, concerned);
        }
    }

    /// What the host has is what its guests may see.
    async fn check(&mut self) {
        self.settle().await;
        let head = self.executor.store().head().await.unwrap();
        let live: BTreeSet<_> = self.instances.iter().copied().collect();
        let named: BTreeSet<_> = self.host.instances.keys().copied().collect();
        assert_eq!(named, live);
        assert_eq!(self.host.revoked, self.ended, "all of them, and nobody else's");
        let own = live.iter().map(|id| ViewId::own(*id));
        for view in own.chain(self.host.wanted.iter().copied()).collect::<Vec<_>>() {
            let expected = self.views.read(head, view).await.unwrap();
            let expected: BTreeMap<_, _> = expected
                .entries
                .into_iter()
                .map(|entry| (entry.path, entry.entry))
                .collect();
            let found = self.host.views.get(&view).cloned().unwrap_or_default();
            if !self.host.resync.contains(&view) {
                assert_eq!(found, expected, "{view:?}");
            }
        }
        self.compare().await;
    }
}

fn group_of(n: u8) -> GroupName {
    format!("g{n}").parse().unwrap()
}

fn path_of(n: u8) -> EntryPath {
    ["a", "b/c", "d", "pair/x"][usize::from(n % 4)].parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_host_has_what_its_guests_may_see_whatever_it_lost(events in events()) {
        run(events, None);
    }

    #[test]
    fn so_has_one_that_polls(events in events(), wait_ms in prop_oneof![Just(0), Just(30_000)]) {
        run(events, Some(wait_ms));
    }
}

fn run(events: Vec<Event>, polls: Option<u32>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new().await;
        world.polls = polls;
        for event in events {
            world.happen(event).await;
        }
        world.check().await;
    });
}
