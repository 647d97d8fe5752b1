//! Every open feed, and what each transaction of the store means for it. Nothing here waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moorline_shared::api::feed::{InstanceSpec, OpenFeed, Revocation, ViewId};
use moorline_shared::api::instances::InstanceState;
use moorline_shared::{HostId, InstanceId, Revision};

use super::index::{Change, Index, PerHost, Place, Told, changes, spec};
use super::queue::Queue;
use super::revocations::{Concerns, Notice, Revocations};
use super::stats::Stats;
use super::touched::Touched;
use super::views::Views;
use crate::identity::master::MasterKey;
use crate::settings::AccessControl;
use crate::store::{Batch, ReadError, Store};

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
    /// Every view that the host has there, each with the last transaction that may have changed it; a later one than
    /// all if the host has none of it.
    pub views: Vec<(ViewId, u64)>,
    /// What comes after.
    pub queue: Arc<Queue>,
}

/// What a host should hold.
#[derive(Clone, Debug)]
pub struct Held {
    /// The last transaction that changed which instances are the host's, or one of them.
    pub changed: u64,
    /// The views, each with the last transaction that may have changed it.
    pub views: Vec<(ViewId, u64)>,
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

/// The open feeds, and where everything is that they are about.
#[derive(Debug)]
pub struct Feeds {
    epoch: u64,
    /// What opens the secrets that hosts are told.
    master: Arc<MasterKey>,
    /// The last transaction that was told.
    at: u64,
    index: Index,
    /// The revision at which each instance last changed, for the specs of a feed that opens.
    revisions: HashMap<InstanceId, Revision>,
    touched: Touched,
    revocations: Revocations,
    open: HashMap<HostId, Feed>,
    sessions: u64,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Feed {
    session: u64,
    queue: Arc<Queue>,
    interests: BTreeSet<ViewId>,
}

impl Feeds {
    /// Where everything is in `store` at revision `at`, and no feed yet. Whatever is committed after that is to be given
    /// to [`Self::dispatch`].
    pub async fn read(
        store: &Store,
        at: u64,
        control: AccessControl,
        master: Arc<MasterKey>,
    ) -> Result<Self, ReadError> {
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
            epoch: store.epoch(),
            master,
            at,
            index,
            revisions,
            touched: Touched::read(store, at).await?,
            revocations: Revocations::read(store, at).await?,
            open: HashMap::new(),
            sessions: 0,
            stats: Arc::default(),
        })
    }

    /// Goes on where `later` is. All feeds end, and no later session has the number of one before.
    pub fn succeed(&mut self, later: Self) {
        self.end_all();
        let (sessions, stats) = (self.sessions, self.stats.clone());
        *self = Self {
            sessions,
            stats,
            ..later
        };
    }

    /// What is counted of them.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The last transaction that every queue has been told of, as far as it concerns its host.
    pub const fn position(&self) -> u64 {
        self.at
    }

    /// Ends all feeds once what waits for them is sent.
    pub fn end_all(&mut self) {
        for (_, feed) in self.open.drain() {
            feed.queue.close();
        }
        self.count_hosts();
    }

    /// Tells every host what concerns it of the next transaction.
    pub fn dispatch(&mut self, batch: &Batch) {
        let epoch = self.epoch;
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
        self.at = batch.n;
    }

    fn revoke(&self, notice: &Notice) {
        let tell = |feed: &Feed| feed.queue.revoke(notice.revocation.clone());
        match &notice.concerns {
            Concerns::All => self.open.values().for_each(tell),
            Concerns::Instance(id) => {
                let record = self.index.instance(id);
                record
                    .and_then(|record| self.open.get(&record.host))
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
        let known = cursor.filter(|known| known.epoch == self.epoch && known.n <= self.at);
        let missed = self.revocations.after(known.map_or(0, |known| known.n));
        missed
            .filter(|notice| self.concerns(notice, host))
            .map(|notice| notice.revocation.clone())
            .collect()
    }

    fn tell(&self, n: u64, told: PerHost) {
        for (host, told) in told {
            if let Some(feed) = self.open.get(&host) {
                feed.queue.push(n, told);
            }
        }
    }

    /// Opens a host's feed; an open one of the same host ends.
    pub fn open(&mut self, host: HostId, open: OpenFeed) -> Opened {
        self.end(&host);
        self.sessions += 1;
        let revoked = self.revoked_after(open.cursor, &host);
        let mut added: BTreeSet<_> = open.poll.into_iter().flat_map(|poll| poll.add).collect();
        added.retain(|view| self.index.may_want(&host, *view));
        let wanted = open
            .interests
            .into_iter()
            .filter(|view| self.index.may_want(&host, *view));
        let interests: BTreeSet<ViewId> = wanted.chain(added.iter().copied()).collect();
        for view in &interests {
            self.index.add_reader(*view);
        }
        let queue = Arc::new(Queue::counted(self.stats.clone()));
        let instances = self.specs(&host);
        let own = instances.iter().map(|spec| ViewId::own(spec.instance));
        let all = own.chain(interests.iter().copied());
        // What is new to the host comes whole, however long ago it changed.
        let touched = |view| {
            if added.contains(&view) {
                u64::MAX
            } else {
                self.touched.last(view)
            }
        };
        let views = all.map(|view| (view, touched(view))).collect();
        let feed = Feed {
            session: self.sessions,
            queue: queue.clone(),
            interests,
        };
        self.open.insert(host, feed);
        self.stats.opened.fetch_add(1, Ordering::Relaxed);
        self.count_hosts();
        Opened {
            session: self.sessions,
            at: self.at,
            revoked,
            instances,
            views,
            queue,
        }
    }

    /// What a host should hold, with those of these views of other instances that it may.
    pub fn held(&self, host: &HostId, mut foreign: Vec<ViewId>) -> Held {
        foreign.retain(|view| view.reader != view.instance && self.index.may_want(host, *view));
        foreign.sort_unstable();
        foreign.dedup();
        let changed = self
            .index
            .on(host)
            .filter_map(|record| self.revisions.get(&record.id));
        let own = self.specs(host);
        let own = own.iter().map(|spec| ViewId::own(spec.instance));
        let views = own.chain(foreign).map(|view| (view, self.touched.last(view)));
        Held {
            changed: changed.map(|revision| revision.n).max().unwrap_or(0),
            views: views.collect(),
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

    /// Forgets a feed that ended, if it is still the host's.
    pub fn close(&mut self, host: &HostId, session: u64) {
        if self.open.get(host).is_some_and(|feed| feed.session == session) {
            self.end(host);
        }
    }

    fn end(&mut self, host: &HostId) {
        if let Some(feed) = self.open.remove(host) {
            for view in &feed.interests {
                self.index.remove_reader(*view);
            }
            feed.queue.close();
            self.count_hosts();
        }
    }

    fn count_hosts(&self) {
        let hosts = self.open.len() as u64;
        self.stats.hosts.store(hosts, Ordering::Relaxed);
    }

    /// Changes what a feed carries.
    pub fn set_interests(
        &mut self,
        host: &HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: &[ViewId],
    ) -> Interest {
        if let Some(view) = add.iter().find(|view| !self.index.may_want(host, **view)) {
            return Interest::NotYours(view.reader);
        }
        let Some(feed) = self.open.get_mut(host).filter(|feed| feed.session == session) else {
            return Interest::NoFeed;
        };
        for view in remove.iter().filter(|view| feed.interests.remove(view)) {
            self.index.remove_reader(*view);
        }
        for view in add {
            feed.interests.insert(view);
            self.index.add_reader(view);
            feed.queue.push(self.at, vec![Told::Reread(view)]);
        }
        Interest::Set
    }
}
