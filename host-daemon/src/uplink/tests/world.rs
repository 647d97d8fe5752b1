//! A host daemon's uplink, and the control plane that it has.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moorline_client::{Client, Endpoint};
use moorline_shared::HostId;
use moorline_shared::api::feed::{FeedItem, FeedMessage, OpenFeed, SetInterests, ViewId};
use moorline_shared::api::hosts::{RegisterHost, ReportState};
use moorline_shared::api::sync::{HostSync, SyncHost};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plane::{Opened, Plane};
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::config::{CacheConfig, ControlConfig, LinkConfig};
use crate::link::tests::{Agent, entry, id, link_key, path, revision, spec, view};
use crate::link::{Admission, Shards, ShardsHandle};
use crate::persistence;
use crate::uplink::{Reports, SpecChange, Uplink};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon without machines, and the control plane that it has.
pub(super) struct World {
    pub(super) opened: mpsc::UnboundedReceiver<Opened>,
    pub(super) interests: mpsc::UnboundedReceiver<SetInterests>,
    pub(super) reports: mpsc::UnboundedReceiver<(ReportState, String)>,
    pub(super) views: mpsc::UnboundedReceiver<ViewId>,
    pub(super) syncs: mpsc::UnboundedReceiver<SyncHost>,
    pub(super) specs: mpsc::Receiver<SpecChange>,
    pub(super) report: Reports,
    pub(super) plane: Arc<Plane>,
    pub(super) shards: Shards,
    pub(super) kept: persistence::Handle,
    /// Of the guests' sockets, and of the daemon's state.
    pub(super) folder: tempfile::TempDir,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: JoinSet<()>,
}

pub(super) async fn soon<T>(what: impl Future<Output = Option<T>>) -> T {
    let what = tokio::time::timeout(PATIENCE, what).await;
    what.expect("nothing came in time")
        .expect("nothing can come any more")
}

pub(super) fn hello(lines: &mpsc::UnboundedSender<FeedMessage>, session: u64, deployment: &str) {
    let hello = FeedMessage::Hello {
        host: "h1".parse().unwrap(),
        session,
        deployment: deployment.into(),
        bookmark_seconds: 60,
    };
    lines.send(hello).unwrap();
}

pub(super) fn batch(lines: &mpsc::UnboundedSender<FeedMessage>, from: u64, to: u64, items: Vec<FeedItem>) {
    let (from, to) = (revision(from), revision(to));
    lines.send(FeedMessage::Batch { from, to, items }).unwrap();
}

/// The beginning of a snapshot, with these items.
pub(super) fn snapshot(
    lines: &mpsc::UnboundedSender<FeedMessage>,
    from: Option<u64>,
    to: u64,
    items: Vec<FeedItem>,
) {
    let (from, to) = (from.map(revision), revision(to));
    lines.send(FeedMessage::Snapshot { from, to }).unwrap();
    lines.send(FeedMessage::Part { items }).unwrap();
}

/// A whole snapshot.
pub(super) fn caught_up(
    lines: &mpsc::UnboundedSender<FeedMessage>,
    from: Option<u64>,
    to: u64,
    items: Vec<FeedItem>,
) {
    snapshot(lines, from, to, items);
    let to = revision(to);
    lines.send(FeedMessage::SnapshotEnd { to }).unwrap();
}

pub(super) fn put_own(n: u8, to: u64, value: &str) -> FeedItem {
    FeedItem::Entry {
        view: ViewId::own(id(n)),
        path: path("a"),
        entry: Some(entry(to, value)),
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap()).await
    }

    /// A daemon that finds what an earlier one left.
    pub(super) async fn within(folder: tempfile::TempDir) -> Self {
        let control = ControlConfig {
            sync_seconds: 1,
            ..ControlConfig::default()
        };
        Self::with(folder, control).await
    }

    /// A daemon that is told this of its control plane.
    pub(super) async fn with(folder: tempfile::TempDir, control: ControlConfig) -> Self {
        let (opened, opened_rx) = mpsc::unbounded_channel();
        let (interests, interests_rx) = mpsc::unbounded_channel();
        let (reports, reports_rx) = mpsc::unbounded_channel();
        let (views, views_rx) = mpsc::unbounded_channel();
        let (syncs, syncs_rx) = mpsc::unbounded_channel();
        let plane = Arc::new(Plane {
            opened,
            interests,
            reports,
            views,
            answers: Mutex::default(),
            interest_answers: Mutex::default(),
            view: Mutex::default(),
            syncs,
            sync: Mutex::new(HostSync::InStep),
        });
        let routes = plane.clone().routes();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let host: HostId = "h1".parse().unwrap();
        let endpoint = Endpoint::new(url.parse().unwrap(), "token".parse().unwrap());
        let (asks, asked) = mpsc::channel(64);
        let shards = Shards::start(&LinkConfig::default(), &CacheConfig::default(), None, &asks).unwrap();
        let (writer, restored) = persistence::open(folder.path(), None, shards.handle());
        let kept = writer.handle();
        let (report, reported) = Reports::channel();
        let (specs, specs_rx) = mpsc::channel(64);
        let uplink = Uplink {
            client: Client::new(endpoint).unwrap(),
            identity: crate::identity::tests::identity(),
            host,
            offer: RegisterHost {
                zone: "z1".parse().unwrap(),
                vcpus: 1,
                memory_mib: 1,
                images: vec![],
            },
            shards: shards.handle().clone(),
            asks: asked,
            reports: reported,
            specs,
            credentials: crate::credentials::channel().0,
            kept: (restored, kept.clone()),
            control,
        };
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run(cancel.clone()));
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let linking = uplink.run(cancel.clone());
        tasks.spawn(async move { linking.await.unwrap() });
        Self {
            opened: opened_rx,
            interests: interests_rx,
            reports: reports_rx,
            views: views_rx,
            syncs: syncs_rx,
            specs: specs_rx,
            report,
            plane,
            shards,
            kept,
            folder,
            cancel,
            tasks,
        }
    }

    pub(super) fn handle(&self) -> &ShardsHandle {
        self.shards.handle()
    }

    pub(super) async fn opened(&mut self) -> Opened {
        soon(self.opened.recv()).await
    }

    /// The feed is open, and one instance is there.
    pub(super) async fn begun(&mut self) -> mpsc::UnboundedSender<FeedMessage> {
        let opened = self.opened().await;
        let OpenFeed {
            cursor, interests, ..
        } = &opened.asked;
        assert_eq!((cursor, &interests[..]), (&None, &[][..]));
        hello(&opened.lines, 1, "test");
        let items = vec![FeedItem::Instance(spec(1)), view(1, 1, 5, &[("a", "0")])];
        caught_up(&opened.lines, None, 5, items);
        self.stands_at(1, 5).await;
        opened.lines
    }

    /// Waits until an instance's own view stands there.
    pub(super) async fn stands_at(&self, n: u8, to: u64) {
        let there = async {
            loop {
                let status = self.handle().status().await.unwrap();
                let own = status.iter().find(|status| status.instance == id(n));
                if own.is_some_and(|own| own.revision == Some(revision(to))) {
                    return Some(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(there).await;
    }

    /// Waits until everything up to there is on disk.
    pub(super) async fn keeps(&self, to: moorline_shared::Revision) {
        let there = async {
            while self.kept.status().revision != Some(to) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Some(())
        };
        soon(there).await;
    }

    /// Lets a guest of an instance do something, on a thread of its own.
    pub(super) async fn guest<T: Send + 'static>(
        &self,
        n: u8,
        does: impl FnOnce(&mut Agent) -> T + Send + 'static,
    ) -> T {
        let channel = ChannelSpec::HybridVsock {
            uds_path: self.folder.path().join("vm"),
            peer: ExpectedPeer::Owner,
            admission: Admission::Proof(link_key()),
        };
        self.handle().begin_incarnation(id(n), 1, channel).await.unwrap();
        let socket = self.folder.path().join("vm_8470");
        let guest = tokio::task::spawn_blocking(move || {
            let mut agent = Agent::dial(&socket);
            agent.ready();
            agent.mirror();
            does(&mut agent)
        });
        guest.await.unwrap()
    }

    pub(super) async fn end(self) {
        self.end_and_leave().await;
    }

    /// Ends the daemon in good order, and returns the folder with what it left.
    pub(super) async fn end_and_leave(mut self) -> tempfile::TempDir {
        self.cancel.cancel();
        // The control plane goes on until it is aborted.
        while self.tasks.len() > 1 {
            soon(self.tasks.join_next()).await.unwrap();
        }
        tokio::task::spawn_blocking(move || self.shards.drain(0))
            .await
            .unwrap()
            .unwrap();
        self.tasks.shutdown().await;
        self.folder
    }
}
