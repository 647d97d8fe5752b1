//! Both sockets as callers have them: real sockets, real shards, real processes, and no control plane.

mod operations;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use moorline_client::{Client, Endpoint, Retries, Token};
use moorline_shared::api::ProblemDetails;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::host::{Channel, HostStatus, InstanceStatus, Registered, Supervision};
use moorline_shared::{InstanceId, Revision, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{BindError, Services, Sockets};
use crate::config::{CacheConfig, LinkConfig, SocketConfig};
use crate::identity::HostIdentity;
use crate::identity::files::Files;
use crate::link::Shards;
use crate::uplink::{Reports, SpecChange};
use crate::vm::Supervisor;
use crate::vm::config::{ExternalConfig, Tables};
use crate::vm::external::{Caller, External, RegisterError, Registration};

const OURS: InstanceId = InstanceId::from_bytes([1; 16]);
const OTHER: InstanceId = InstanceId::from_bytes([2; 16]);
const OF_QEMU: InstanceId = InstanceId::from_bytes([3; 16]);
const UNKNOWN: InstanceId = InstanceId::from_bytes([4; 16]);

/// The folders of a host, which outlive its daemon.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("vmm/a")).unwrap();
        std::fs::create_dir_all(folder.path().join("elsewhere")).unwrap();
        let open = folder.path().join("vmm/open");
        std::fs::create_dir_all(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::fs::symlink("vmm", folder.path().join("alias")).unwrap();
        Self { folder }
    }

    fn sockets(&self) -> SocketConfig {
        SocketConfig {
            register: self.folder.path().join("run/register.sock"),
            register_group: None,
            admin: self.folder.path().join("run/admin.sock"),
        }
    }

    fn uds_path(&self) -> PathBuf {
        self.folder.path().join("vmm/a/vsock")
    }

    fn guest_socket(&self) -> PathBuf {
        self.folder.path().join("vmm/a/vsock_8470")
    }

    fn registration(&self, vmm: &Vmm) -> Value {
        json!({
            "instance": OURS,
            "channel": {"hybrid": {"path": self.uds_path()}},
            "supervision": {"vmm": {"pid": vmm.0.id()}},
        })
    }
}

/// Something that runs until it is killed, and is killed with the test.
struct Vmm(Child);

impl Vmm {
    fn start() -> Self {
        let mut command = Command::new("cat");
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // One that has ended is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a host is known by.
fn identity(folder: &Path) -> HostIdentity {
    let state = folder.join("identity");
    crate::identity::tests::enrolled(&state, "h1");
    HostIdentity::new(Files::of(&state).present().unwrap())
}

/// The daemon's part that the sockets speak for.
struct Daemon {
    sockets: SocketConfig,
    services: Services,
    specs: mpsc::Sender<SpecChange>,
    external: External,
    reports: mpsc::UnboundedReceiver<ReportState>,
    /// Those that came while something else was waited for.
    early: VecDeque<ReportState>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    shards: Shards,
}

impl Daemon {
    async fn start(host: &Host) -> Self {
        let (asks, _) = mpsc::channel(1);
        let link = LinkConfig::default();
        let shards = Shards::start(&link, &CacheConfig::default(), None, &asks).unwrap();
        let (reporting, reports) = Reports::channel();
        let directories = ["vmm", "alias"]
            .map(|name| host.folder.path().join(name))
            .to_vec();
        let tables = Tables {
            external: ExternalConfig { directories },
            ..Tables::default()
        };
        let state = host.folder.path().join("state");
        let supervisor = Supervisor::new(&tables, &state, shards.handle().clone(), reporting).unwrap();
        let services = Services {
            host: "host-1".parse().unwrap(),
            started_at: Timestamp::from_millis(0).unwrap(),
            shards: shards.handle().clone(),
            table: supervisor.table(),
            external: supervisor.external(),
            credentials: crate::credentials::channel().0,
            cache: crate::persistence::Handle::default(),
            control: nobody(),
            identity: identity(host.folder.path()),
        };
        let external = supervisor.external();
        let (specs, changes) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let sockets = Sockets::bind(&host.sockets()).unwrap();
        let mut tasks = JoinSet::new();
        let serving = sockets.serve(services.clone(), cancel.clone());
        tasks.spawn(async move { serving.await.unwrap() });
        let supervising = supervisor.run(changes, cancel.clone());
        tasks.spawn(async move { supervising.await.unwrap() });
        let sockets = host.sockets();
        let mut daemon = Self {
            sockets,
            services,
            specs,
            external,
            reports,
            early: VecDeque::new(),
            cancel,
            tasks,
            shards,
        };
        daemon.knows(OURS, Driver::External).await;
        daemon.knows(OTHER, Driver::External).await;
        daemon.knows(OF_QEMU, Driver::Qemu).await;
        // The last of them was taken in when it is reported, and so were those before it.
        loop {
            let report = daemon.reports.recv().await.unwrap();
            if report.instance == OF_QEMU {
                return daemon;
            }
            daemon.early.push_back(report);
        }
    }

    /// The same, with our instance's VM registered.
    async fn with_vmm(host: &Host) -> (Self, Vmm) {
        let (daemon, vmm) = (Self::start(host).await, Vmm::start());
        let registered = daemon.register(&host.registration(&vmm)).await;
        registered.as_done::<Registered>();
        (daemon, vmm)
    }

    async fn knows(&self, instance: InstanceId, driver: Driver) {
        let spec = InstanceSpec {
            instance,
            revision: Revision::new(1, 1),
            account: "main".parse().unwrap(),
            name: None,
            driver,
            image: None,
            vcpus: 1,
            memory_mib: 64,
            desired: Desired::Stopped,
            roles: BTreeSet::new(),
            reboots: 0,
            incarnation: 6,
        };
        self.specs.send(SpecChange::Set(spec)).await.unwrap();
    }

    async fn register(&self, body: &Value) -> Answer {
        self.post("/v1/register", body.to_string()).await
    }

    async fn post(&self, path: &str, body: String) -> Answer {
        ask(&self.sockets.register, "POST", path, &body).await
    }

    async fn get(&self, path: &str) -> Answer {
        ask(&self.sockets.admin, "GET", path, "").await
    }

    /// The next report about our instance.
    async fn reported(&mut self) -> ReportState {
        loop {
            let report = match self.early.pop_front() {
                Some(early) => early,
                None => self.reports.recv().await.unwrap(),
            };
            if report.instance == OURS {
                return report;
            }
        }
    }

    async fn end(mut self) {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let shards = self.shards;
        tokio::task::spawn_blocking(move || shards.drain(0))
            .await
            .unwrap()
            .unwrap();
    }
}

/// A client whose control plane is away.
fn nobody() -> Client {
    let token: Token = "no-token".parse().unwrap();
    let endpoint = Endpoint::new("http://127.0.0.1:9".parse().unwrap(), token).retrying(Retries::NEVER);
    Client::new(endpoint).unwrap()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn as_done<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    fn as_problem(&self) -> ProblemDetails {
        let problem: ProblemDetails = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem
    }
}

async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: local\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A body that is refused by its length isn't read to its end.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = body.to_owned();
    Answer { status, body }
}

/// Other members of the group may use the socket, and register VMs of their own.
#[tokio::test]
async fn a_registration_is_its_users_until_it_ends() {
    let host = Host::new();
    let (daemon, _vmm) = Daemon::with_vmm(&host).await;
    let other = Caller { uid: 4_000_000 };
    let taken = Registration {
        instance: OURS,
        incarnation: 0,
        channel: Channel::Hybrid {
            path: host.uds_path(),
            device: None,
        },
        supervision: Supervision::Unsupervised,
        caller: other,
    };
    let refused = daemon.external.check(taken.clone()).await.unwrap_err();
    assert!(
        matches!(refused, RegisterError::NotYourRegistration(OURS)),
        "{refused}"
    );
    let refused = daemon.external.register(taken.clone()).await.unwrap_err();
    assert!(
        matches!(refused, RegisterError::NotYourRegistration(OURS)),
        "{refused}"
    );
    let refused = daemon.external.unregister(OURS, other).await.unwrap_err();
    assert!(
        matches!(refused, RegisterError::NotYourRegistration(OURS)),
        "{refused}"
    );
    assert!(host.guest_socket().exists());
    daemon.external.unregister(OURS, Caller { uid: 0 }).await.unwrap();
    daemon.external.check(taken).await.unwrap();
    daemon.end().await;
}

#[tokio::test]
async fn a_registration_holds_until_its_vmm_ends() {
    let host = Host::new();
    let mut daemon = Daemon::start(&host).await;
    let vmm = Vmm::start();
    let registered: Registered = daemon.register(&host.registration(&vmm)).await.as_done();
    assert_eq!((registered.instance, registered.incarnation), (OURS, 7));
    let mode = host.guest_socket().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let report = daemon.reported().await;
    assert_eq!((report.state, report.incarnation), (InstanceState::Running, 7));
    let status: InstanceStatus = daemon.get(&format!("/v1/instances/{OURS}")).await.as_done();
    let vm = status.vm.unwrap();
    assert_eq!((vm.state, vm.pid), (InstanceState::Running, Some(vmm.0.id())));
    assert_eq!(status.guest.unwrap().incarnation, 7);

    vmm.end();
    let report = daemon.reported().await;
    assert_eq!(
        (report.state, report.reason.as_deref()),
        (InstanceState::Stopped, Some("its VMM ended"))
    );
    assert!(!host.guest_socket().exists());

    // The next VM of the instance is another life, by whatever channel it comes.
    let vmm = Vmm::start();
    let registered: Registered = daemon.register(&host.registration(&vmm)).await.as_done();
    assert_eq!(registered.incarnation, 8);
    daemon.reported().await;
    let unregister = json!({"instance": OURS}).to_string();
    assert_eq!(
        daemon.post("/v1/unregister", unregister.clone()).await.status,
        204
    );
    assert_eq!(daemon.reported().await.reason, None);
    assert!(!host.guest_socket().exists());
    let again = daemon.post("/v1/unregister", unregister).await.as_problem();
    assert_eq!((again.status, again.field.as_deref()), (404, Some("instance")));
    daemon.end().await;
}

#[tokio::test]
async fn a_registration_that_cannot_be_made_leaves_the_one_before_it() {
    let host = Host::new();
    let (mut daemon, vmm) = Daemon::with_vmm(&host).await;
    assert_eq!(daemon.reported().await.state, InstanceState::Running);
    // This daemon doesn't listen on AF_VSOCK.
    let supervision = &host.registration(&vmm)["supervision"];
    let other = json!({"instance": OURS, "channel": {"vsock": {"cid": 7}}, "supervision": supervision});
    assert_eq!(
        daemon.register(&other).await.as_problem().kind,
        "channel-unusable"
    );
    let status: InstanceStatus = daemon.get(&format!("/v1/instances/{OURS}")).await.as_done();
    let vm = status.vm.unwrap();
    assert_eq!((vm.state, vm.incarnation), (InstanceState::Running, 7));
    UnixStream::connect(host.guest_socket()).await.unwrap();

    // It is still its VMM's end that ends it.
    vmm.end();
    assert_eq!(daemon.reported().await.state, InstanceState::Stopped);
    assert!(!host.guest_socket().exists());
    daemon.end().await;
}

#[tokio::test]
async fn a_registration_survives_the_daemon_and_its_vmm_is_looked_at_again() {
    let host = Host::new();
    let (daemon, vmm) = Daemon::with_vmm(&host).await;
    daemon.end().await;

    let mut daemon = Daemon::start(&host).await;
    let report = daemon.reported().await;
    assert_eq!((report.state, report.incarnation), (InstanceState::Running, 7));
    assert!(host.guest_socket().exists());
    daemon.end().await;

    vmm.end();
    let mut daemon = Daemon::start(&host).await;
    let report = daemon.reported().await;
    assert_eq!((report.state, report.incarnation), (InstanceState::Stopped, 7));
    assert_eq!(
        report.reason.as_deref(),
        Some("its VMM ended while the host daemon was not running")
    );
    assert!(!host.guest_socket().exists());
    daemon.end().await;
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_the_field() {
    let host = Host::new();
    let (daemon, vmm) = Daemon::with_vmm(&host).await;
    let mut table = String::new();
    let path = |path: &str| json!({"hybrid": {"path": host.folder.path().join(path)}});
    let here = path("vmm/b");
    let supervised = json!({"vmm": {"pid": vmm.0.id()}});
    let earlier = json!({"vmm": {"pid": vmm.0.id(), "started": 1}});
    let cases = [
        ("outside", OTHER, path("elsewhere/vsock"), &supervised),
        ("upwards", OTHER, path("vmm/../elsewhere/vsock"), &supervised),
        ("no folder", OTHER, path("vmm/missing/vsock"), &supervised),
        ("taken", OTHER, path("vmm/a/vsock"), &supervised),
        ("taken by another path", OTHER, path("alias/a/vsock"), &supervised),
        ("everybody's folder", OTHER, path("vmm/open/vsock"), &supervised),
        ("host's CID", OTHER, json!({"vsock": {"cid": 2}}), &supervised),
        ("no process", OTHER, here.clone(), &json!({"vmm": {"pid": 0}})),
        ("another process", OTHER, here.clone(), &earlier),
        ("run by the host", OF_QEMU, here.clone(), &supervised),
        ("control plane away", UNKNOWN, here.clone(), &supervised),
    ];
    for (name, instance, channel, supervision) in cases {
        let body = json!({"instance": instance, "channel": channel, "supervision": supervision});
        let problem = daemon.register(&body).await.as_problem();
        let detail = problem
            .detail
            .replace(host.folder.path().to_str().unwrap(), "HOST");
        let detail = detail.replace(&vmm.0.id().to_string(), "PID");
        let field = problem.field.as_deref().unwrap_or("-");
        writeln!(table, "{name}: {} {} {field}", problem.status, problem.kind).unwrap();
        writeln!(table, "    {detail}").unwrap();
    }
    insta::assert_snapshot!(table);
    daemon.end().await;
}

#[tokio::test]
async fn requests_that_are_none_are_refused() {
    let host = Host::new();
    let daemon = Daemon::start(&host).await;
    let misspelt = json!({"instance": OURS, "chanel": {"vsock": {"cid": 7}}, "supervision": "unsupervised"});
    let bad = [misspelt.to_string(), "{".to_owned(), "[]".to_owned()];
    for body in bad {
        let problem = daemon.post("/v1/register", body).await.as_problem();
        assert_eq!(problem.kind, "bad-request", "{problem:?}");
    }
    let large = format!("\"{}\"", "x".repeat(9 << 20));
    assert_eq!(daemon.post("/v1/register", large).await.status, 413);
    assert_eq!(
        daemon.post("/v1/status", String::new()).await.as_problem().status,
        404
    );
    assert_eq!(daemon.get("/v1/register").await.as_problem().status, 404);
    assert_eq!(
        daemon.get("/v1/instances/7").await.as_problem().field.as_deref(),
        Some("id")
    );
    assert_eq!(
        daemon
            .get(&format!("/v1/instances/{UNKNOWN}"))
            .await
            .as_problem()
            .status,
        404
    );
    let status: HostStatus = daemon.get("/v1/status").await.as_done();
    assert_eq!(status.host.as_str(), "host-1");
    assert!(!status.feed.in_step);
    daemon.end().await;
}

#[tokio::test]
async fn callers_who_say_nothing_keep_nobody_else_waiting_for_long() {
    let host = Host::new();
    let daemon = Daemon::start(&host).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(UnixStream::connect(&daemon.sockets.admin).await.unwrap());
    }
    let next = daemon.get("/v1/status");
    let freed = async {
        // All seats are taken, so this one is served only when one of them is given up.
        tokio::task::yield_now().await;
        drop(idle.pop());
    };
    let (answer, ()) = tokio::join!(next, freed);
    assert_eq!(answer.status, 200);
    daemon.end().await;
}

#[tokio::test]
async fn sockets_have_their_modes_and_belong_to_one_daemon() {
    let host = Host::new();
    let mut config = host.sockets();
    config.register_group = Some(rustix::process::getegid().as_raw().to_string());
    let sockets = Sockets::bind(&config).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&config.register), mode(&config.admin)), (0o660, 0o600));
    assert!(matches!(Sockets::bind(&config), Err(BindError::InUse { .. })));
    drop(sockets);
    let again = Sockets::bind(&config).unwrap();
    drop(again);
    let file = host.folder.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    for path in [&file, &host.folder.path().join("vmm")] {
        let config = SocketConfig {
            admin: path.clone(),
            ..config.clone()
        };
        assert!(matches!(Sockets::bind(&config), Err(BindError::InTheWay { .. })));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    config.register_group = Some("no such group".to_owned());
    assert!(matches!(Sockets::bind(&config), Err(BindError::NoGroup(_))));
}
