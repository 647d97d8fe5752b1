//! Shards without a control plane and without machines.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use moorline_shared::api::data::Entry;
use moorline_shared::api::feed::{FeedEntry, FeedItem, InstanceSpec, View, ViewEntry, ViewId};
use moorline_shared::api::instances::{Desired, Driver};
use moorline_shared::entry::{Origin, Value, Visibility};
use moorline_shared::link::body::Relay;
use moorline_shared::secret::SecretKey;
use moorline_shared::{EntryPath, InstanceId, Revision, Timestamp};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cache::FeedBatch;
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::{
    Admission, Ask, BeginError, Count, Counts, FeedEffects, GuestStatus, Handover, Shards, ShardsHandle,
};

use super::{Agent, link_key};

/// The instance that a test calls by this number.
pub(crate) const fn id(n: u8) -> InstanceId {
    InstanceId::from_bytes([n; 16])
}

pub(crate) fn path(text: &str) -> EntryPath {
    text.parse().unwrap()
}

/// A request that a guest has passed on, with this method and body.
pub(crate) fn relay(method: &str, body: &str) -> Relay {
    Relay {
        method: method.into(),
        target: "/v1/instances/x/data/y".into(),
        headers: Vec::new(),
        length: 0,
        body: body.into(),
    }
}

pub(crate) fn revision(n: u64) -> Revision {
    Revision::new(1, n)
}

/// An entry as the feed brings it.
pub(crate) fn entry(n: u64, value: &str) -> FeedEntry {
    FeedEntry {
        revision: revision(n),
        content_type: "text/plain".parse().unwrap(),
        value: Value::from(value),
        secret: false,
        expires_at: None,
    }
}

/// An entry of an instance's own making, as the control plane shows it to who asks.
pub(crate) fn remote(at: &str, n: u64, value: &str) -> Entry {
    Entry {
        path: path(at),
        revision: revision(n),
        version: 1,
        content_type: "text/plain".parse().unwrap(),
        length: value.len() as u64,
        value: Some(Value::from(value)),
        origin: Origin::Customer,
        visibility: Visibility::Private,
        secret: false,
        expires_at: None,
        changed_by: "user:admin".parse().unwrap(),
        changed_at: Timestamp::from_millis(0).unwrap(),
        access: None,
    }
}

/// A whole view.
pub(crate) fn view(reader: u8, instance: u8, n: u64, entries: &[(&str, &str)]) -> FeedItem {
    let mut entries: Vec<_> = entries
        .iter()
        .map(|(at, value)| ViewEntry {
            path: path(at),
            entry: entry(n, value),
        })
        .collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    FeedItem::View(View {
        view: ViewId {
            reader: id(reader),
            instance: id(instance),
        },
        revision: revision(n),
        entries,
    })
}

pub(crate) fn spec(n: u8) -> InstanceSpec {
    InstanceSpec {
        instance: id(n),
        revision: revision(1),
        account: "main".parse().unwrap(),
        name: None,
        driver: Driver::External,
        image: None,
        vcpus: 1,
        memory_mib: 64,
        desired: Desired::Running,
        roles: BTreeSet::new(),
        reboots: 0,
        incarnation: 0,
    }
}

/// A running set of shards, and the folder of the guests' sockets.
pub(crate) struct World {
    pub(crate) asks: mpsc::Receiver<Ask>,
    shards: Option<Shards>,
    runtime: Runtime,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&LinkConfig::default(), &CacheConfig::default())
    }

    pub(crate) fn with(link: &LinkConfig, cache: &CacheConfig) -> Self {
        let world = Self::start(link, cache);
        world.handle().deployment("test");
        world
    }

    /// The feed was never open.
    pub(crate) fn nameless() -> Self {
        Self::start(&LinkConfig::default(), &CacheConfig::default())
    }

    fn start(link: &LinkConfig, cache: &CacheConfig) -> Self {
        let (sender, asks) = mpsc::channel(64);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let shards = Shards::start(link, cache, None, &sender).unwrap();
        shards.handle().feed_clock().heard(crate::link::now());
        Self {
            asks,
            shards: Some(shards),
            runtime: runtime.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn handle(&self) -> &ShardsHandle {
        self.shards.as_ref().unwrap().handle()
    }

    /// The path of the device of an instance's VM.
    fn device(&self, n: u8) -> PathBuf {
        self.folder.path().join(n.to_string())
    }

    /// The socket that connections of the guest arrive at.
    pub(crate) fn socket(&self, n: u8) -> PathBuf {
        self.folder.path().join(format!("{n}_8470"))
    }

    /// The instance is this host's, and a life of its VM begins.
    pub(crate) fn add(&self, n: u8, entries: &[(&str, &str)]) {
        self.begin(n, 1);
        let items = vec![FeedItem::Instance(spec(n)), view(n, n, 1, entries)];
        self.apply(1, items);
    }

    pub(crate) fn begin(&self, n: u8, incarnation: u64) {
        self.begin_at(n, incarnation, n);
    }

    /// A life of the instance begins on the device that is named after another.
    pub(crate) fn begin_at(&self, n: u8, incarnation: u64, device: u8) {
        self.begin_with(n, incarnation, device, Admission::Proof(link_key()));
    }

    /// A life begins in which the first HELLO is given this key.
    pub(crate) fn begin_keyless(&self, n: u8, incarnation: u64, key: SecretKey) -> mpsc::Receiver<Handover> {
        let (handovers, recorder) = mpsc::channel(4);
        let admission = Admission::FirstHello { key, handovers };
        self.begin_with(n, incarnation, n, admission);
        recorder
    }

    fn begin_with(&self, n: u8, incarnation: u64, device: u8, admission: Admission) {
        self.try_begin(n, incarnation, device, admission).unwrap();
    }

    pub(crate) fn try_begin(
        &self,
        n: u8,
        incarnation: u64,
        device: u8,
        admission: Admission,
    ) -> Result<(), BeginError> {
        let channel = ChannelSpec::HybridVsock {
            uds_path: self.device(device),
            peer: ExpectedPeer::Owner,
            admission,
        };
        let begun = self.handle().begin_incarnation(id(n), incarnation, channel);
        self.runtime.block_on(begun)
    }

    pub(crate) fn end(&self, n: u8, incarnation: u64) {
        self.runtime
            .block_on(self.handle().end_incarnation(id(n), incarnation));
    }

    /// A batch that builds on whatever there is.
    pub(crate) fn apply(&self, to: u64, items: Vec<FeedItem>) -> FeedEffects {
        let batch = FeedBatch {
            from: Some(revision(0)),
            to: revision(to),
            items,
        };
        self.runtime.block_on(self.handle().apply(batch)).unwrap()
    }

    /// One of an instance's own entries changes.
    pub(crate) fn set(&self, n: u8, at: &str, to: u64, value: Option<&str>) {
        let item = FeedItem::Entry {
            view: ViewId::own(id(n)),
            path: path(at),
            entry: value.map(|value| entry(to, value)),
        };
        self.apply(to, vec![item]);
    }

    /// The next question to the control plane.
    pub(crate) fn asked(&mut self) -> Ask {
        let next = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), self.asks.recv()).await });
        next.expect("nothing was asked").unwrap()
    }

    pub(crate) fn statuses(&self) -> Vec<GuestStatus> {
        self.runtime.block_on(self.handle().status()).unwrap()
    }

    pub(crate) fn status(&self, n: u8) -> GuestStatus {
        let all = self.statuses();
        all.into_iter().find(|status| status.instance == id(n)).unwrap()
    }

    /// How often the shards have counted something, all of them together.
    pub(crate) fn counted(&self, of: fn(&Counts) -> &Count) -> u64 {
        let shards = self.handle().counts();
        shards.iter().map(|counts| of(counts).read()).sum()
    }

    pub(crate) fn drain(&mut self) {
        if let Some(shards) = self.shards.take() {
            shards.drain(1_000).unwrap();
        }
    }

    /// A guest whose session is open and whose mirror is filled.
    pub(crate) fn guest(&self, n: u8) -> Agent {
        let mut agent = Agent::dial(&self.socket(n));
        agent.ready();
        agent.mirror();
        agent
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.drain();
    }
}
