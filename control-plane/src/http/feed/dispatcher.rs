//! The one task that tails the store for all hosts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use moorline_shared::api::feed::{InstanceSpec, OpenFeed, Revocation, ViewId};
use moorline_shared::api::instances::InstanceState;
use moorline_shared::{HostId, InstanceId, Revision};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::index::{Change, Index, PerHost, Place, Told, changes, spec};
use super::queue::Queue;
use super::revocations::{Concerns, Notice, Revocations};
use super::touched::Touched;
use super::views::Views;
use crate::identity::master::MasterKey;
use crate::settings::AccessControl;
use crate::store::{Batch, ReadError, Store, Watch, WatchError};

/// What the dispatcher is asked.
#[derive(Debug)]
enum Command {
    Open {
        host: HostId,
        open: OpenFeed,
        reply: oneshot::Sender<Opened>,
    },
    Close {
        host: HostId,
        session: u64,
    },
    SetInterests {
        host: HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: Vec<ViewId>,
        reply: oneshot::Sender<Interest>,
    },
}

/// A feed that was opened: everything after `at` comes by the queue.
#[derive(Debug)]
pub struct Opened {
    /// The feed's number.
    pub session: u64,
    /// The revision where the queue begins.
    pub at: u64,
    /// What was revoked since the host's cursor.
    pub revoked: Vec<Revocation>,
    /// The host's instances there.
    pub instances: Vec<InstanceSpec>,
    /// Every view that the host has there, each with the last transaction that may have changed it.
    pub views: Vec<(ViewId, u64)>,
    /// What comes after.
    pub queue: Arc<Queue>,
}

/// What became of a change of interests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It is in force.
    Set,
    /// The host has no such feed.
    NoFeed,
    /// A view's reader is not on the host.
    NotYours(InstanceId),
}

/// Where the rest of the control plane asks the dispatcher.
#[derive(Clone, Debug)]
pub struct FeedHandle {
    commands: mpsc::Sender<Command>,
    position: watch::Receiver<u64>,
}

/// The dispatcher has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the feed is shutting down")]
pub struct Ended;

impl FeedHandle {
    /// Opens a host's feed; an open one of the same host ends.
    pub async fn open(&self, host: HostId, open: OpenFeed) -> Result<Opened, Ended> {
        let (reply, opened) = oneshot::channel();
        self.commands
            .send(Command::Open { host, open, reply })
            .await
            .map_err(|_| Ended)?;
        opened.await.map_err(|_| Ended)
    }

    /// Changes what a feed carries.
    pub async fn set_interests(
        &self,
        host: HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: Vec<ViewId>,
    ) -> Result<Interest, Ended> {
        let (reply, set) = oneshot::channel();
        self.commands
            .send(Command::SetInterests {
                host,
                session,
                add,
                remove,
                reply,
            })
            .await
            .map_err(|_| Ended)?;
        set.await.map_err(|_| Ended)
    }

    /// Forgets a feed that ended. Never waits; a full queue of commands only means that it is forgotten later.
    pub fn close(&self, host: HostId, session: u64) {
        let _ = self.commands.try_send(Command::Close { host, session });
    }

    /// Up to which transaction every queue has been told what concerns it.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until every queue has been told what concerns it up to transaction `n`; for ever if the dispatcher ends
    /// before. Cancel-safe.
    pub async fn reached(&self, n: u64) {
        let mut position = self.position.clone();
        if position.wait_for(|position| *position >= n).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why the dispatcher ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The store ended, or can't be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Where everything is at a revision, and a watch from there.
#[derive(Debug)]
struct Scene {
    at: u64,
    watch: Watch,
    index: Index,
    revisions: HashMap<InstanceId, Revision>,
    touched: Touched,
    revocations: Revocations,
}

impl Scene {
    async fn read(store: &Store, control: AccessControl, master: &Arc<MasterKey>) -> Result<Self, ReadError> {
        let at = store.head().await?;
        let watch = store.watch(at).await?;
        let (mut index, mut revisions) = (Index::new(control), HashMap::new());
        let views = Views::new(store.clone(), control, master.clone());
        for (record, revision) in views.instances(at).await? {
            revisions.insert(record.id, revision);
            index.load(record);
        }
        for (instance, group) in views.instances_in_groups(at).await? {
            index.load_membership(instance, group, Place::In);
        }
        Ok(Self {
            at,
            watch,
            index,
            revisions,
            touched: Touched::read(store, at).await?,
            revocations: Revocations::read(store, at).await?,
        })
    }
}

/// The task.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    control: AccessControl,
    /// What opens the secrets that hosts are told.
    master: Arc<MasterKey>,
    watch: Watch,
    index: Index,
    feeds: HashMap<HostId, Feed>,
    sessions: u64,
    commands: mpsc::Receiver<Command>,
    position: watch::Sender<u64>,
    /// The revision at which each instance last changed, for the specs of a feed that opens.
    revisions: HashMap<InstanceId, Revision>,
    touched: Touched,
    revocations: Revocations,
}

#[derive(Debug)]
struct Feed {
    session: u64,
    queue: Arc<Queue>,
    interests: BTreeSet<ViewId>,
}

impl Dispatcher {
    /// Reads where everything is, and is ready to [`Self::run`].
    pub async fn new(
        store: &Store,
        control: AccessControl,
        master: Arc<MasterKey>,
    ) -> Result<(Self, FeedHandle), ReadError> {
        let scene = Scene::read(store, control, &master).await?;
        let (sender, commands) = mpsc::channel(256);
        let position = watch::Sender::new(scene.at);
        let handle = FeedHandle {
            commands: sender,
            position: position.subscribe(),
        };
        let dispatcher = Self {
            store: store.clone(),
            control,
            master,
            watch: scene.watch,
            index: scene.index,
            revisions: scene.revisions,
            touched: scene.touched,
            revocations: scene.revocations,
            feeds: HashMap::new(),
            sessions: 0,
            commands,
            position,
        };
        Ok((dispatcher, handle))
    }

    /// Tells hosts what concerns them until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), DispatchError> {
        loop {
            tokio::select! {
                // Every arm is cancel-safe: a watch and a channel keep what was not taken.
                () = cancel.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                batch = self.watch.next() => match batch {
                    Ok(batch) => self.dispatch(&batch),
                    Err(WatchError::Compacted { .. }) => self.begin_anew().await?,
                    Err(error) => return Err(error.into()),
                },
            }
        }
        self.end_all();
        Ok(())
    }

    /// Compaction overtook the watch: what was missed is read from the store, and every host is made to come again.
    async fn begin_anew(&mut self) -> Result<(), ReadError> {
        tracing::warn!("the feed fell behind what the store keeps; every host is brought in step anew");
        let scene = Scene::read(&self.store, self.control, &self.master).await?;
        self.end_all();
        (self.watch, self.index) = (scene.watch, scene.index);
        (self.revisions, self.touched) = (scene.revisions, scene.touched);
        self.revocations = scene.revocations;
        self.position.send_replace(scene.at);
        Ok(())
    }

    fn end_all(&mut self) {
        for (_, feed) in self.feeds.drain() {
            feed.queue.close();
        }
    }

    fn dispatch(&mut self, batch: &Batch) {
        let epoch = self.store.epoch();
        for event in batch.events.iter() {
            if let Some(notice) = self.revocations.note(epoch, event) {
                self.revoke(&notice);
            }
        }
        let changes = changes(epoch, &batch.events, &self.master);
        for change in &changes {
            match change {
                Change::Instance(record, revision) => drop(self.revisions.insert(record.id, *revision)),
                Change::InstanceForgotten(id) => drop(self.revisions.remove(id)),
                Change::Entry(..) | Change::EntryGone(..) | Change::Membership(..) => {}
            }
        }
        self.touched.note(batch.n, &changes);
        let told = self.index.apply(changes);
        self.tell(batch.n, told);
        self.position.send_replace(batch.n);
    }

    fn revoke(&self, notice: &Notice) {
        let tell = |feed: &Feed| feed.queue.revoke(notice.revocation.clone());
        match &notice.concerns {
            Concerns::All => self.feeds.values().for_each(tell),
            Concerns::Instance(id) => {
                let record = self.index.instance(id);
                record
                    .and_then(|record| self.feeds.get(&record.host))
                    .into_iter()
                    .for_each(tell);
            }
        }
    }

    /// Whether a guest of the host may hold a token of what was revoked.
    fn concerns(&self, notice: &Notice, host: &HostId) -> bool {
        match &notice.concerns {
            Concerns::All => true,
            Concerns::Instance(id) => self.index.instance(id).is_some_and(|record| record.host == *host),
        }
    }

    /// What the host missed. A cursor of another store, or of one that lost what the host has seen, means nothing here.
    fn revoked_after(&self, cursor: Option<Revision>, host: &HostId) -> Vec<Revocation> {
        let known =
            cursor.filter(|known| known.epoch == self.store.epoch() && known.n <= *self.position.borrow());
        let missed = self.revocations.after(known.map_or(0, |known| known.n));
        missed
            .filter(|notice| self.concerns(notice, host))
            .map(|notice| notice.revocation.clone())
            .collect()
    }

    fn tell(&self, n: u64, told: PerHost) {
        for (host, told) in told {
            if let Some(feed) = self.feeds.get(&host) {
                feed.queue.push(n, told);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { host, open, reply } => {
                let opened = self.open(host, open);
                // A caller that went away is told by its stream's end; see Close.
                let _ = reply.send(opened);
            }
            Command::Close { host, session } => {
                if self.feeds.get(&host).is_some_and(|feed| feed.session == session) {
                    self.end(&host);
                }
            }
            Command::SetInterests {
                host,
                session,
                add,
                remove,
                reply,
            } => {
                let _ = reply.send(self.set_interests(&host, session, add, &remove));
            }
        }
    }

    fn open(&mut self, host: HostId, open: OpenFeed) -> Opened {
        self.end(&host);
        self.sessions += 1;
        let revoked = self.revoked_after(open.cursor, &host);
        let wanted = open
            .interests
            .into_iter()
            .filter(|view| self.index.may_want(&host, *view));
        let interests: BTreeSet<ViewId> = wanted.collect();
        for view in &interests {
            self.index.add_reader(*view);
        }
        let queue = Arc::new(Queue::default());
        let instances = self.specs(&host);
        let own = instances.iter().map(|spec| ViewId::own(spec.instance));
        let all = own.chain(interests.iter().copied());
        let views = all.map(|view| (view, self.touched.last(view))).collect();
        let feed = Feed {
            session: self.sessions,
            queue: queue.clone(),
            interests,
        };
        self.feeds.insert(host, feed);
        Opened {
            session: self.sessions,
            at: *self.position.borrow(),
            revoked,
            instances,
            views,
            queue,
        }
    }

    /// The instances of a host that are not terminated.
    fn specs(&self, host: &HostId) -> Vec<InstanceSpec> {
        let revision = |id: &InstanceId| self.revisions.get(id).copied().unwrap_or_default();
        self.index
            .on(host)
            .filter(|record| record.state != InstanceState::Terminated)
            .map(|record| spec(record, revision(&record.id)))
            .collect()
    }

    fn end(&mut self, host: &HostId) {
        if let Some(feed) = self.feeds.remove(host) {
            for view in &feed.interests {
                self.index.remove_reader(*view);
            }
            feed.queue.close();
        }
    }

    fn set_interests(
        &mut self,
        host: &HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: &[ViewId],
    ) -> Interest {
        if let Some(view) = add.iter().find(|view| !self.index.may_want(host, **view)) {
            return Interest::NotYours(view.reader);
        }
        let Some(feed) = self.feeds.get_mut(host).filter(|feed| feed.session == session) else {
            return Interest::NoFeed;
        };
        for view in remove.iter().filter(|view| feed.interests.remove(view)) {
            self.index.remove_reader(*view);
        }
        for view in add {
            feed.interests.insert(view);
            self.index.add_reader(view);
            feed.queue.push(*self.position.borrow(), vec![Told::Reread(view)]);
        }
        Interest::Set
    }
}
