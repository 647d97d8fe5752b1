//! What a service manager hears of each daemon: that it is ready, again and again that it is alive, and that it ends.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{PATIENCE, Plan, Programs, state_folder};
use moorline_lab::process::{Running, tied};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// After how many microseconds without a word this service manager would end what it started.
const WATCHDOG_USEC: &str = "200000";
/// More than a daemon tells at its start.
const PINGS: usize = 4;

/// A service manager with the socket that it hears what it started at.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = state_folder()?;
        let socket = UnixDatagram::bind(folder.path().join("notify")).context("bind the socket")?;
        Ok(Self { socket, folder })
    }

    fn start(&self, name: &'static str, program: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Running> {
        // A service manager says whom it watches, and a shell becomes the program under the id that it has.
        let mut command = tied("sh");
        command
            .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""])
            .arg(program)
            .args(arguments)
            .env("NOTIFY_SOCKET", self.folder.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG_USEC);
        Running::start(name, &mut command, self.folder.path().join("log"))
    }

    /// Waits for this word.
    async fn hears(&self, word: &str) -> Result<()> {
        let heard = timeout(PATIENCE, self.listen_for(word)).await;
        heard.with_context(|| format!("waited for {word}"))?
    }

    async fn listen_for(&self, word: &str) -> Result<()> {
        let mut buffer = [0; 512];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let mut lines = buffer[..length].split(|byte| *byte == b'\n');
            if lines.any(|line| line == word.as_bytes()) {
                return Ok(());
            }
        }
    }

    /// A whole life of a daemon.
    async fn hears_of(&self, mut daemon: Running) -> Result<()> {
        let heard = async {
            self.hears("READY=1").await?;
            for _ in 0..PINGS {
                self.hears("WATCHDOG=1").await?;
            }
            let pid = daemon
                .pid()
                .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            kill_process(pid.context("it has ended")?, Signal::TERM).context("have it end")?;
            self.hears("STOPPING=1").await
        };
        heard.await.with_context(|| daemon.last_words())?;
        let ended = daemon.ended().await?;
        ensure!(ended.success(), "it ended with {ended}: {}", daemon.last_words());
        Ok(())
    }
}

#[tokio::test]
async fn the_service_manager_hears_that_a_control_plane_is_alive() -> Result<()> {
    let (manager, state) = (Manager::new()?, state_folder()?);
    let program = Programs::build().await?.path("moorline-control");
    let state = state.path().as_os_str();
    let arguments = [
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--state".as_ref(),
        state,
    ];
    manager
        .hears_of(manager.start("moorline-control", &program, &arguments)?)
        .await
}

#[tokio::test]
async fn the_service_manager_hears_that_a_host_daemon_is_alive() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    deployment.kill_host().await?;
    let manager = Manager::new()?;
    let program = deployment.programs().path("moorline-host");
    let arguments = ["--config".into(), deployment.folder().join("host.toml")];
    manager
        .hears_of(manager.start("moorline-host", &program, &arguments)?)
        .await
}

#[tokio::test]
async fn the_service_manager_hears_that_an_agent_is_alive() -> Result<()> {
    let (manager, state) = (Manager::new()?, state_folder()?);
    let program = Programs::build().await?.agent().await?;
    let at = |name: &str| state.path().join(name).display().to_string();
    let options = [
        ("--link", format!("unix:{}", at("link"))),
        ("--socket", at("socket")),
        ("--state", at("state")),
    ];
    // It has no host, and the boot goes on without its data.
    let options = options.into_iter().chain([("--ready-after", "0".to_owned())]);
    let options = options.flat_map(|(name, value)| [name.to_owned(), value]);
    let arguments: Vec<_> = std::iter::once("run".to_owned()).chain(options).collect();
    manager
        .hears_of(manager.start("moorline-agent", &program, &arguments)?)
        .await
}
