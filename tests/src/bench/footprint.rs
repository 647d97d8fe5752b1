//! What Moorline takes while nobody asks it anything: the agent in a guest, the daemons beside their guests, and the time
//! until one process is up.

use super::load::Loader;
use super::programs::Programs;
use super::report::{Goal, Row};
use super::servers::{Agent, ControlPlane, Cores, Host, free_address};
use crate::process::{Running, memory, tied};
use crate::{progress, wait};
use anyhow::{Context as _, Result};
use moorline_lab_load::plan::{HOLD, Hold};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// How many guests the host has, connected and idle.
const GUESTS: usize = 1_000;
/// How many programs of the agent's machine watch its data.
const WATCHERS: usize = 100;
/// How often the agent is looked at, and for how long each time.
const LOOKS: usize = 5;
const LOOK: Duration = Duration::from_secs(20);
/// How long it is left alone before: what it did to begin with is not what it does.
const REST: Duration = Duration::from_secs(10);
/// How often a deployment is brought up from nothing.
const STARTS: usize = 5;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

const MEGABYTES: &str = "MB";

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let mut rows = vec![binary(programs)?];
    rows.extend(progress::step("leave an agent alone", agent(programs)).await?);
    let what = format!("leave a host with {GUESTS} guests alone");
    rows.extend(progress::step(&what, Box::pin(daemons(programs))).await?);
    rows.push(progress::step("bring up a deployment from nothing", up(programs)).await?);
    Ok(rows)
}

fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("moorline-bench-").tempdir();
    folder.context("create a folder")
}

/// The agent as it is packaged.
fn binary(programs: &Programs) -> Result<Row> {
    let bytes = fs::metadata(programs.agent()).context("look at the agent")?.len();
    Ok(Row::new("agent_base_binary_mb", MEGABYTES, vec![megabytes(bytes)])?.with(Goal::AtMost(3.0)))
}

/// An agent with every surface on, which many watch and nobody asks.
async fn agent(programs: &Programs) -> Result<Vec<Row>> {
    let folder = folder()?;
    let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Any).await?;
    let host = Host::start(programs, &control, folder.path(), 1).await?;
    let guest = host.guests().first().context("there is no guest")?;
    let agent = Agent::with_imds(programs, guest, folder.path(), free_address()?).await?;
    let _watchers = watchers(agent.socket()).await?;
    sleep(REST).await;
    let pid = agent.process()?;
    let (mut resident, mut processor, mut switches) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let before = Taken::by(pid)?;
        sleep(LOOK).await;
        let after = Taken::by(pid)?;
        let per_minute = 60.0 / LOOK.as_secs_f64();
        processor.push((after.processor_ms - before.processor_ms) * per_minute);
        switches.push((after.switches - before.switches) * per_minute);
        resident.push(megabytes(memory(pid, "Rss:")?));
    }
    Ok(vec![
        Row::new("agent_rss_mb", MEGABYTES, resident)?.with(Goal::AtMost(4.0)),
        Row::new("agent_idle_cpu_ms_per_min", "ms", processor)?.with(Goal::AtMost(5.0)),
        Row::new("agent_idle_switches_per_min", "switches", switches)?.with(Goal::AtMost(30.0)),
    ])
}

/// Programs that have asked to be told of every change, and have heard that their watch began.
async fn watchers(socket: &Path) -> Result<Vec<tokio::net::UnixStream>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut watchers = Vec::with_capacity(WATCHERS);
    for _ in 0..WATCHERS {
        let mut stream = tokio::net::UnixStream::connect(socket).await.context("watch")?;
        let request = b"GET /v1/watch HTTP/1.1\r\nHost: agent\r\n\r\n";
        stream.write_all(request).await.context("watch")?;
        let mut begun = Vec::new();
        while !begun.windows(8).any(|window| window == b"bookmark") {
            let count = stream.read_buf(&mut begun).await.context("watch")?;
            anyhow::ensure!(count > 0, "no watch: {}", String::from_utf8_lossy(&begun));
        }
        watchers.push(stream);
    }
    Ok(watchers)
}

/// A host with and without guests, and its control plane.
async fn daemons(programs: &Programs) -> Result<Vec<Row>> {
    let empty = folder()?;
    let control = ControlPlane::start(programs, &empty.path().join("control"), Cores::Any).await?;
    let host = Host::start(programs, &control, empty.path(), 0).await?;
    sleep(REST).await;
    let alone = memory(host.process()?, "Rss:")?;
    let idle = megabytes(memory(control.process()?, "Rss:")?);
    drop((host, control));

    let folder = folder()?;
    let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Any).await?;
    let host = Host::start(programs, &control, folder.path(), GUESTS).await?;
    let guests = host.guests().iter().map(|guest| guest.socket.clone()).collect();
    let loader = Loader::new(programs, folder.path());
    let hold = Hold { guests };
    let _held = loader.stay(HOLD, tied(loader.program()), &hold).await?;
    let mut per_guest = Vec::new();
    for _ in 0..LOOKS {
        sleep(REST / 2).await;
        let with_guests = memory(host.process()?, "Rss:")?;
        #[expect(clippy::cast_precision_loss, reason = "it is far less than 2^52")]
        per_guest.push(with_guests.saturating_sub(alone) as f64 / 1_024.0 / GUESTS as f64);
    }
    Ok(vec![
        Row::new("host_rss_per_idle_guest_kb", "KiB", per_guest)?.with(Goal::AtMost(32.0)),
        Row::new("control_rss_idle_mb", MEGABYTES, vec![idle])?.with(Goal::AtMost(40.0)),
    ])
}

/// From the start of the process on an empty folder until control plane and host are in step.
async fn up(programs: &Programs) -> Result<Row> {
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let folder = folder()?;
        let mut command: Command = tied(programs.path("moorline-up"));
        command
            .arg("--state")
            .arg(folder.path())
            .args(["--listen", &free_address()?.to_string()]);
        let begun = Instant::now();
        let running = Running::start("moorline-up", &mut command, folder.path().join("log"))?;
        let up = async || running.said().contains("Moorline is up").then_some(());
        let up = wait::until("the deployment to be up", PATIENCE, up).await;
        up.with_context(|| running.last_words())?;
        took.push(begun.elapsed().as_secs_f64());
    }
    Ok(Row::new("up_ready_s", "s", took)?.with(Goal::AtMost(2.0)))
}

/// What a process had taken at one moment.
struct Taken {
    processor_ms: f64,
    switches: f64,
}

impl Taken {
    fn by(pid: u32) -> Result<Self> {
        let mut taken = Self {
            processor_ms: 0.0,
            switches: 0.0,
        };
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("list a process's threads")?;
        for task in tasks {
            let task = task.context("list a process's threads")?.path();
            let schedule = fs::read_to_string(task.join("schedstat")).context("look at a thread")?;
            let nanoseconds = schedule.split_ascii_whitespace().next();
            let nanoseconds: f64 = nanoseconds.context("a thread's schedstat is empty")?.parse()?;
            taken.processor_ms += nanoseconds / 1e6;
            let status = fs::read_to_string(task.join("status")).context("look at a thread")?;
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let switches: f64 = switches.context("a thread has no switches")?.trim().parse()?;
            taken.switches += switches;
        }
        Ok(taken)
    }
}

/// A million bytes each.
fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is far less than 2^52")]
    let bytes = bytes as f64;
    bytes / 1e6
}
