//! Guests and their host: reads over the link and at the agent, and changes on their way into a guest.

use super::load::{Loader, faster, processor, rates, turns};
use super::peers::Peer;
use super::programs::Programs;
use super::report::{Goal, Row};
use super::servers::{Agent, ControlPlane, Cores, ENTRY, Guest, Host, VALUE_BYTES, entry};
use super::spread::{against, quantile};
use super::{LOAD_CORE, SERVER_CORE, TURNS};
use crate::cache::Cache;
use crate::{process, progress};
use anyhow::{Context as _, Result};
use moorline_lab_load::plan::{Changes, HOLD, Hold, Load, Place, Round, Seen, Speaks, Target};
use std::path::{Path, PathBuf};

/// How many guests the host has; the first is the agent's.
const GUESTS: usize = 1_000;
/// How many connections put load on a server at once.
const CONNECTIONS: usize = 64;
/// How many changes each turn has.
const CHANGES: u32 = 500;
/// For how long a turn runs before it counts, and for how long it counts, in milliseconds.
const WARM_UP_MS: u64 = 100;
const MEASURE_MS: u64 = 600;

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let scene = progress::step(&format!("register {GUESTS} guests"), Scene::set(programs)).await?;
    let mut rows = progress::step("read from the host", Box::pin(scene.host_reads())).await?;
    let agent = Agent::start(programs, scene.first(), scene.folder()).await?;
    rows.extend(progress::step("read from the agent", Box::pin(scene.agent_reads(&agent))).await?);
    rows.extend(progress::step("change entries", scene.changes(&agent)).await?);
    Ok(rows)
}

/// Everything that runs. What a row doesn't need is idle meanwhile.
struct Scene {
    host: Host,
    control: ControlPlane,
    loader: Loader,
    cache: Cache,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn set(programs: &Programs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("moorline-bench-")
            .tempdir()
            .context("create a folder")?;
        let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Any).await?;
        let host = Host::start(programs, &control, folder.path(), GUESTS).await?;
        Ok(Self {
            host,
            control,
            loader: Loader::new(programs, folder.path()),
            cache: Cache::open()?,
            folder,
        })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The agent's guest.
    fn first(&self) -> &Guest {
        &self.host.guests()[0]
    }

    /// The sockets of the others.
    fn others(&self) -> impl Iterator<Item = PathBuf> {
        self.host.guests()[1..].iter().map(|guest| guest.socket.clone())
    }

    async fn host_reads(&self) -> Result<Vec<Row>> {
        let echo = Peer::echo(&self.loader, self.folder()).await?;
        let redis = Peer::redis(&self.cache, self.folder()).await?;
        let many = Among::Many(CONNECTIONS);
        let targets = vec![
            self.host_target(many)?,
            echo_target(&echo, many),
            redis_target(&redis),
        ];
        let crowd = self.loader.drive(&load(targets)).await?;
        let targets = vec![
            self.host_target(Among::PingPong)?,
            echo_target(&echo, Among::PingPong),
        ];
        let alone = self.loader.drive(&load(targets)).await?;
        let [host, echo, redis] = [HOST, ECHO, REDIS].map(|name| turns(&crowd, name));
        let (host, echo, redis) = (host?, echo?, redis?);
        let (host_alone, echo_alone) = (turns(&alone, HOST)?, turns(&alone, ECHO)?);
        let times = |one: &Round, other: &Round| one.p50_us / other.p50_us;
        Ok(vec![
            Row::new("host_read_c64_vs_echo", RATIO, against(host, echo, faster))?.with(Goal::AtLeast(0.85)),
            Row::new("host_read_c64_vs_redis", RATIO, against(host, redis, faster))?.with(Goal::AtLeast(1.1)),
            Row::new(
                "host_read_pingpong_vs_echo",
                RATIO,
                against(host_alone, echo_alone, times),
            )?
            .with(Goal::AtMost(2.0)),
            Row::new("host_read_c64", RATE, rates(host))?,
            Row::new("echo_c64", RATE, rates(echo))?,
            Row::new("redis_get_c64", RATE, rates(redis))?,
            Row::new("host_read_c64_cpu", PROCESSOR, processor(host))?,
            Row::new("echo_c64_cpu", PROCESSOR, processor(echo))?,
            Row::new("redis_get_c64_cpu", PROCESSOR, processor(redis))?,
            Row::new("host_read_pingpong_p50", MICROSECONDS, p50(host_alone))?,
            Row::new("echo_pingpong_p50", MICROSECONDS, p50(echo_alone))?,
        ])
    }

    fn host_target(&self, among: Among) -> Result<Target> {
        let connections = self.others().take(among.connections()).map(Place::Unix);
        Ok(Target {
            name: HOST.into(),
            core: among.core(),
            server: self.host.process()?,
            speaks: Speaks::Link { path: entry() },
            connections: connections.collect(),
        })
    }

    async fn agent_reads(&self, agent: &Agent) -> Result<Vec<Row>> {
        let nginx = Peer::nginx(&self.cache, self.folder(), VALUE_BYTES).await?;
        let place = Place::Unix(agent.socket().to_owned());
        let targets = vec![
            http_target(AGENT, agent.process()?, place, &format!("/v1/data/{ENTRY}")),
            http_target(NGINX, nginx.server(), nginx.place(), Peer::FILE),
        ];
        let measured = self.loader.drive(&load(targets)).await?;
        let (agent, nginx) = (turns(&measured, AGENT)?, turns(&measured, NGINX)?);
        Ok(vec![
            Row::new("agent_read_c64_vs_nginx", RATIO, against(agent, nginx, faster))?
                .with(Goal::AtLeast(1.4)),
            Row::new("agent_read_c64", RATE, rates(agent))?,
            Row::new("nginx_static_c64", RATE, rates(nginx))?,
            Row::new("agent_read_c64_cpu", PROCESSOR, processor(agent))?,
            Row::new("nginx_static_c64_cpu", PROCESSOR, processor(nginx))?,
        ])
    }

    async fn changes(&self, agent: &Agent) -> Result<Vec<Row>> {
        let plan = self.changes_plan(agent).await?;
        let hold = Hold {
            guests: self.others().collect(),
        };
        let (mut one, mut thousand) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            one.push(self.loader.changes(&plan).await?);
            let mut idle = self
                .loader
                .stay(HOLD, process::tied(self.loader.program()), &hold)
                .await?;
            thousand.push(self.loader.changes(&plan).await?);
            idle.kill().await?;
        }
        change_rows(&one, &thousand)
    }

    async fn changes_plan(&self, agent: &Agent) -> Result<Changes> {
        let bare = self.control.instances_elsewhere(1).await?;
        let target = |instance| format!("/v1/instances/{instance}/data/{ENTRY}");
        Ok(Changes {
            count: CHANGES,
            core: LOAD_CORE,
            control: self.control.place(),
            token: self.control.token()?,
            entry: target(self.first().instance),
            bare: target(bare[0]),
            agent: agent.socket().to_owned(),
            watch: get("/v1/watch?prefix=bench"),
        })
    }
}

/// How many are connected.
#[derive(Clone, Copy, Debug)]
enum Among {
    /// So many, with the load on a core of its own.
    Many(usize),
    /// One, on the server's core.
    PingPong,
}

impl Among {
    fn connections(self) -> usize {
        match self {
            Self::Many(count) => count,
            Self::PingPong => 1,
        }
    }

    fn core(self) -> usize {
        match self {
            Self::Many(_) => LOAD_CORE,
            Self::PingPong => SERVER_CORE,
        }
    }
}

const HOST: &str = "host";
const ECHO: &str = "echo";
const REDIS: &str = "redis";
const AGENT: &str = "agent";
const NGINX: &str = "nginx";
const RATIO: &str = "ratio";
const RATE: &str = "requests/s";
const PROCESSOR: &str = "us of cpu/req";
const MICROSECONDS: &str = "us";
const MILLISECONDS: &str = "ms";

fn load(targets: Vec<Target>) -> Load {
    Load {
        rounds: TURNS,
        warm_up_ms: WARM_UP_MS,
        measure_ms: MEASURE_MS,
        targets,
    }
}

fn echo_target(echo: &Peer, among: Among) -> Target {
    Target {
        name: ECHO.into(),
        core: among.core(),
        server: echo.server(),
        speaks: Speaks::Echo { like: HOST.into() },
        connections: vec![echo.place(); among.connections()],
    }
}

fn redis_target(redis: &Peer) -> Target {
    Target {
        name: REDIS.into(),
        core: LOAD_CORE,
        server: redis.server(),
        speaks: Speaks::Redis { length: VALUE_BYTES },
        connections: vec![redis.place(); CONNECTIONS],
    }
}

fn http_target(name: &str, server: u32, place: Place, target: &str) -> Target {
    Target {
        name: name.into(),
        core: LOAD_CORE,
        server,
        speaks: Speaks::Http {
            requests: vec![vec![get(target)]],
        },
        connections: vec![place; CONNECTIONS],
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n")
}

fn p50(turns: &[Round]) -> Vec<f64> {
    turns.iter().map(|round| round.p50_us).collect()
}

/// What the turns with one guest and those with a thousand came to.
fn change_rows(one: &[Seen], thousand: &[Seen]) -> Result<Vec<Row>> {
    let each = |turns: &[Seen], of: fn(&Seen) -> &Vec<f64>, percent| -> Vec<f64> {
        let quantiles = turns.iter().map(|seen| quantile(of(seen).clone(), percent));
        quantiles.flatten().collect()
    };
    let (guest, bare) = (
        each(one, |seen| &seen.guest_ms, 50),
        each(one, |seen| &seen.bare_ms, 50),
    );
    let (p99_one, p99_thousand) = (
        each(one, |seen| &seen.guest_ms, 99),
        each(thousand, |seen| &seen.guest_ms, 99),
    );
    let beyond = against(&guest, &bare, |guest, bare| guest - bare);
    let ratio = against(&p99_thousand, &p99_one, |thousand, one| thousand / one);
    Ok(vec![
        Row::new("change_to_guest_minus_commit_p50_ms", MILLISECONDS, beyond)?.with(Goal::AtMost(2.0)),
        Row::new("change_p99_1000_guests_vs_1", RATIO, ratio)?.with(Goal::AtMost(3.0)),
        Row::new("bare_commit_p50", MILLISECONDS, bare)?,
        Row::new(
            "change_reply_p50",
            MILLISECONDS,
            each(one, |seen| &seen.reply_ms, 50),
        )?,
        Row::new("change_to_guest_p50", MILLISECONDS, guest)?,
        Row::new("change_to_guest_p99", MILLISECONDS, p99_one)?,
        Row::new(
            "change_to_guest_1000_p50",
            MILLISECONDS,
            each(thousand, |seen| &seen.guest_ms, 50),
        )?,
        Row::new("change_to_guest_1000_p99", MILLISECONDS, p99_thousand)?,
    ])
}
