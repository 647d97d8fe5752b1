//! An agent before the test host.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::Revision;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::TestHost;
use crate::access::Rules;
use crate::credentials::Credentials;
use crate::link::{Endpoint, Given, Line, keep};
use crate::local::{Backing, Settings, open};
use crate::mirror::Live;
use crate::proof::Prover;
use crate::writes::{Marks, Writes};

/// A host, and an agent that dials it and serves a socket.
pub(crate) struct Rig {
    pub(crate) host: TestHost,
    pub(crate) mirror: Rc<Live>,
    pub(crate) credentials: Rc<Credentials>,
    pub(crate) line: Rc<Line>,
    pub(crate) socket: PathBuf,
    pub(crate) backing: Rc<Backing>,
    pub(crate) stop: CancellationToken,
    /// The tasks of host and agent; they end with the rig.
    pub(crate) tasks: JoinSet<()>,
    listener: Option<UnixListener>,
    folder: TempDir,
}

impl Rig {
    /// The agent alone, in front of a host that doesn't take connections yet.
    pub(crate) async fn without_host(settings: Settings) -> Self {
        Self::ruled_without_host(settings, Rules::default()).await
    }

    /// The same, with rules on who may read what.
    pub(crate) async fn ruled_without_host(settings: Settings, rules: Rules) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = TestHost::new(folder.path().join("host"));
        let given = Given::default();
        let endpoint = Endpoint::Unix(host.path.clone());
        let line = Rc::new(Line::new(&endpoint));
        let stop = CancellationToken::new();
        let socket = folder.path().join("run/agent.sock");
        let mut tasks = JoinSet::new();
        let prover = Rc::new(Prover::new(Rc::clone(&line), Rc::clone(&given.credentials)));
        let (proving, told) = (Rc::clone(&prover), stop.clone());
        tasks.spawn_local(async move { proving.keep(&told).await });
        let writes = Rc::new(Writes::new(
            Marks::at(&folder.path().join("writes")),
            Rc::clone(&line),
            Rc::clone(&prover),
            Rc::clone(&given.mirror),
            settings.settling,
        ));
        let (finding_out, told) = (Rc::clone(&writes), stop.clone());
        tasks.spawn_local(async move { finding_out.keep(&told).await });
        let backing = Rc::new(Backing {
            prover,
            writes,
            given: given.clone(),
            line: Rc::clone(&line),
            rules,
            settings: Settings {
                socket: socket.clone(),
                ..settings
            },
        });
        for serving in open(&backing, &stop).await.unwrap() {
            tasks.spawn_local(serving);
        }
        let (taken, asking, told) = (given.clone(), Rc::clone(&line), stop.clone());
        tasks.spawn_local(async move { keep(&endpoint, &asking, &taken, &told).await });
        Self {
            host,
            mirror: given.mirror,
            credentials: given.credentials,
            line,
            socket,
            backing,
            stop,
            tasks,
            listener: None,
            folder,
        }
    }

    /// The host begins to take connections.
    pub(crate) fn start_host(&mut self) {
        let listener = self
            .listener
            .take()
            .unwrap_or_else(|| UnixListener::bind(&self.host.path).unwrap());
        self.tasks.spawn_local(self.host.clone().serve(listener));
    }

    /// Both, linked, with `a = one` mirrored.
    pub(crate) async fn linked() -> Self {
        Self::linked_with(settings()).await
    }

    pub(crate) async fn linked_with(settings: Settings) -> Self {
        Self::ruled(settings, Rules::default()).await
    }

    /// The same, with rules on who may read what.
    pub(crate) async fn ruled(settings: Settings, rules: Rules) -> Self {
        let mut rig = Self::ruled_without_host(settings, rules).await;
        rig.host.change(&[("a", Some(b"one"))]);
        rig.start_host();
        rig.mirrored(2).await;
        rig
    }

    /// Waits until the mirror stands at the `n`-th revision or later.
    pub(crate) async fn mirrored(&self, n: u64) {
        self.mirror
            .until(|mirror| (mirror.revision()? >= Revision::new(1, n)).then_some(()))
            .await;
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Waits until what no one tells of is so.
pub(crate) async fn until(mut look: impl FnMut() -> bool) {
    while !look() {
        tokio::task::yield_now().await;
    }
}

/// Whoever runs the tests may change data.
pub(crate) fn settings() -> Settings {
    let writer = std::fs::metadata("/proc/self").unwrap().uid();
    Settings {
        writer,
        ..Settings::default()
    }
}

/// Runs a test on the kind of runtime the agent has, and fails it when it takes too long.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_mins(1), test).await };
    runtime
        .block_on(limited)
        .expect("the test waited for something that never came");
}
