//! The control plane: the real executor and the real feed, on a store in memory.
//!
//! Nothing of it waits, so its futures are polled once. What it has committed outlives it; feeds and what they were about
//! to say don't.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use moorline_control::http::feed::feeds::{Feeds, Interest};
use moorline_control::http::feed::parts::{Gone, Sink};
use moorline_control::http::feed::passage::{Passage, Passed};
use moorline_control::http::feed::views::Views;
use moorline_control::identity::master::MasterKey;
use moorline_control::instance_data::{self, operations::Op as Data};
use moorline_control::instances;
use moorline_control::model::{Attempt, Caller, Done, ExecuteError, Executor, Role, ServiceModel};
use moorline_control::settings::{AccessControl, Settings};
use moorline_control::store::memory::Memory;
use moorline_control::store::{Store, Watch};
use moorline_shared::api::feed::{
    BOOKMARK_SECONDS, FeedItem, FeedMessage, OpenFeed, SetInterests, View, ViewId,
};
use moorline_shared::{HostId, OperationId, Principal, Revision};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::mutant::Mutant;
use crate::world::Moved;

/// What the deployment is called.
pub const DEPLOYMENT: &str = "world";

/// How many lines of a feed may be under way before its host has to read one.
const MOST_LINES: usize = 16;

/// What a future comes to that nothing holds up.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits in this world")
}

/// A key that everybody knows.
pub fn master() -> Arc<MasterKey> {
    MasterKey::new(&Zeroizing::new([7; 32])).into()
}

/// The control plane.
#[derive(Debug)]
pub struct Plane {
    /// What is durable.
    memory: Arc<Memory>,
    epoch: u64,
    running: Option<Running>,
    mutant: Mutant,
    asked: u64,
    master: Arc<MasterKey>,
}

#[derive(Debug)]
struct Running {
    executor: Executor,
    feeds: Feeds,
    watch: Watch,
    open: BTreeMap<usize, Open>,
}

#[derive(Debug)]
struct Open {
    passage: Passage,
    bookmark_at: u64,
}

/// The lines of a feed that are under way.
#[derive(Debug)]
pub struct Lines<'a> {
    /// Where they wait.
    pub lines: &'a mut std::collections::VecDeque<FeedMessage>,
    /// What is wrong.
    pub mutant: Mutant,
}

impl Sink for Lines<'_> {
    async fn send(&mut self, message: &FeedMessage) -> Result<(), Gone> {
        let mut message = message.clone();
        if self.mutant == Mutant::ForgottenWithdrawal {
            forget_withdrawals(&mut message);
        }
        self.lines.push_back(message);
        Ok(())
    }
}

fn forget_withdrawals(message: &mut FeedMessage) {
    if let FeedMessage::Part { items } | FeedMessage::Batch { items, .. } = message {
        items.retain(|item| !matches!(item, FeedItem::Entry { entry: None, .. }));
    }
}

/// Why the control plane does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// It doesn't run, or the feed that was spoken of is over.
    Away,
    /// It won't, however often it is asked.
    Never,
}

impl Plane {
    /// A control plane with what `memory` has at its head.
    pub fn on(memory: &Memory, head: u64, mutant: Mutant, clock: Clock) -> Self {
        let memory = memory.fork(head, 1).expect("the head can be read");
        let mut plane = Self {
            memory: memory.into(),
            epoch: 1,
            running: None,
            mutant,
            // What was asked before this memory was made had the first names.
            asked: 1_000 * head,
            master: master(),
        };
        plane.start(clock);
        plane
    }

    /// Whether it runs.
    pub const fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Its store.
    pub fn store(&self) -> Store {
        Store::Memory(self.memory.clone())
    }

    /// What can be copied of it.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The last transaction.
    pub fn head(&self) -> Revision {
        let n = at_once(self.store().head()).expect("a store in memory can be read");
        Revision::new(self.epoch, n)
    }

    /// It starts, unless it runs.
    pub fn start(&mut self, clock: Clock) {
        if self.running.is_some() {
            return;
        }
        let store = self.store();
        let executor = Executor::new(store.clone(), Settings::default(), self.master.clone()).told_the_time();
        executor.tell(clock.time());
        let at = self.head().n;
        let watch = at_once(store.watch(at)).expect("the head can be watched");
        let feeds = Feeds::read(&store, at, AccessControl::Enforced, self.master.clone());
        self.running = Some(Running {
            executor,
            watch,
            feeds: at_once(feeds).expect("the head can be read"),
            open: BTreeMap::new(),
        });
    }

    /// It is killed.
    pub fn kill(&mut self) {
        let ran = self.running.take().is_some();
        let head = self.head();
        if ran && self.mutant == Mutant::LostCommit && head.n > 0 {
            self.memory = self
                .memory
                .fork(head.n - 1, self.epoch)
                .unwrap_or_else(|_| {
                    self.memory
                        .fork(head.n, self.epoch)
                        .expect("the head can be read")
                })
                .into();
        }
    }

    /// Its state is lost, and what it was at revision `n` is restored from a backup, in a new epoch.
    pub fn restore(&mut self, n: u64, clock: Clock) {
        self.running = None;
        self.epoch += 1;
        self.memory = self
            .memory
            .fork(n, self.epoch)
            .expect("nothing is compacted here")
            .into();
        self.start(clock);
    }

    /// It is later.
    pub fn tell(&mut self, clock: Clock) {
        let Some(running) = &mut self.running else {
            return;
        };
        running.executor.tell(clock.time());
    }

    /// A name for something that is asked once.
    pub fn fresh_id(&mut self, who: &Principal) -> OperationId {
        self.asked += 1;
        let key = format!("asked-{}", self.asked).parse();
        OperationId::derive(who, &key.expect("it is a key"))
    }

    /// Runs an operation that may change something.
    pub fn change<M: ServiceModel>(
        &mut self,
        model: &M,
        op: M::Op,
        caller: Caller,
        id: Option<OperationId>,
    ) -> Option<Result<Done<M::Reply>, ExecuteError>> {
        let fresh = self.fresh_id(&caller.principal);
        let id = id
            .filter(|_| self.mutant != Mutant::ForgottenKey)
            .unwrap_or(fresh);
        let running = self.running.as_ref()?;
        Some(at_once(
            running.executor.execute(model, Attempt::new(op, caller, id)),
        ))
    }

    /// Runs an operation that only looks.
    pub fn look(
        &mut self,
        op: Data,
        caller: Caller,
    ) -> Option<Result<Done<instance_data::operations::Reply>, ExecuteError>> {
        let id = self.fresh_id(&caller.principal);
        let running = self.running.as_ref()?;
        let attempt = Attempt::new(op, caller, id);
        Some(at_once(running.executor.read(
            &instance_data::Model,
            attempt,
            None,
        )))
    }

    /// Tells the feeds of the next transaction, if there is one that they were not told of.
    pub fn dispatch(&mut self) -> Moved {
        let Some(running) = &mut self.running else {
            return Moved::No;
        };
        match running.watch.next().now_or_never() {
            Some(Ok(batch)) => {
                running.feeds.dispatch(&batch);
                Moved::Yes
            }
            _ => Moved::No,
        }
    }

    fn views(&self) -> Views {
        Views::new(self.store(), AccessControl::Enforced, self.master.clone())
    }

    /// A host opens its feed; the lines that bring it in step are under way then.
    pub fn open_feed(
        &mut self,
        host: usize,
        open: OpenFeed,
        lines: &mut Lines<'_>,
        clock: Clock,
    ) -> Result<(), No> {
        let (epoch, views) = (self.epoch, self.views());
        let running = self.running.as_mut().ok_or(No::Away)?;
        let (id, cursor) = (host_id(host), open.cursor);
        let opened = running.feeds.open(id.clone(), open);
        let hello = FeedMessage::Hello {
            host: id,
            session: opened.session,
            deployment: DEPLOYMENT.into(),
            bookmark_seconds: BOOKMARK_SECONDS,
        };
        lines.lines.push_back(hello);
        let passage = Passage::new(epoch, views, &opened);
        at_once(passage.begin(cursor, &opened, lines)).map_err(|_| No::Away)?;
        let bookmark_at = clock.ms();
        running.open.insert(host, Open { passage, bookmark_at });
        Ok(())
    }

    /// The next thing that waits for a host is under way, if there is one and the host reads.
    pub fn pass(&mut self, host: usize, lines: &mut Lines<'_>, clock: Clock) -> Moved {
        let head = self.head().n;
        let Some(running) = &mut self.running else {
            return Moved::No;
        };
        let Some(open) = running
            .open
            .get_mut(&host)
            .filter(|_| lines.lines.len() < MOST_LINES)
        else {
            return Moved::No;
        };
        // Nobody vouches for what the feeds were not told of.
        if clock.ms() >= open.bookmark_at && running.feeds.position() >= head {
            open.bookmark_at = clock.ms() + u64::from(BOOKMARK_SECONDS) * 1_000;
            let _ = at_once(open.passage.bookmark(head, lines));
            return Moved::Yes;
        }
        match at_once(open.passage.pass(lines)) {
            Ok(Passed::Something) => Moved::Yes,
            Ok(Passed::Nothing) => Moved::No,
            Err(_) => {
                running.open.remove(&host);
                Moved::No
            }
        }
    }

    /// Whether a host has a feed here.
    pub fn feeds(&self, host: usize) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.open.contains_key(&host))
    }

    /// A host's feed broke.
    pub fn feed_lost(&mut self, host: usize) {
        if let Some(running) = &mut self.running {
            running.open.remove(&host);
        }
    }

    /// A host says what its feed is to carry.
    pub fn set_interests(&mut self, host: usize, set: SetInterests) -> Result<(), No> {
        let running = self.running.as_mut().ok_or(No::Away)?;
        let set = running
            .feeds
            .set_interests(&host_id(host), set.session, set.add, &set.remove);
        match set {
            Interest::Set => Ok(()),
            Interest::NoFeed => Err(No::Away),
            Interest::NotYours(_) => Err(No::Never),
        }
    }

    /// A view as it is now, for the host that its reader is on.
    pub fn view(&self, host: usize, view: ViewId) -> Result<View, No> {
        let (at, views) = (self.head().n, self.views());
        if !self.runs() {
            return Err(No::Away);
        }
        let reader = at_once(views.instance(at, view.reader)).map_err(|_| No::Away)?;
        if reader.is_none_or(|record| record.host != host_id(host)) {
            return Err(No::Away);
        }
        at_once(views.read(at, view)).map_err(|_| No::Away)
    }

    /// A host saw an instance end.
    pub fn ended(&mut self, host: usize, instance: moorline_shared::InstanceId, incarnation: u64) {
        use moorline_shared::api::hosts::ReportState;
        use moorline_shared::api::instances::InstanceState;
        let host = host_id(host);
        let caller = caller(Principal::Host(host.clone()), Role::Provider);
        let report = ReportState {
            instance,
            state: InstanceState::Terminated,
            incarnation,
            reboots: 0,
            reason: None,
        };
        let op = instances::Op::ReportInstanceState { host, report };
        let _ = self.change(&instances::Model, op, caller, None);
    }
}

/// The name of a host.
pub fn host_id(host: usize) -> HostId {
    format!("h{host}").parse().expect("it is a name")
}

/// A caller without a session.
pub fn caller(principal: Principal, role: Role) -> Caller {
    Caller {
        principal,
        account: "default".parse().expect("it is a name"),
        role,
        via: None,
        session: None,
    }
}

/// The administrator.
pub fn administrator() -> Caller {
    let user = "user:admin".parse().expect("it is a user");
    caller(user, Role::Administrator)
}
