//! Everything killed at random moments under load, again and again: in the end the control plane, the hosts' copies and the
//! mirrors agree, and every write that was acknowledged is there once.
//!
//! It takes [`USUALLY`] where nobody says it; `MOORLINE_KILL_SECONDS=1800 cargo lab test -- --test lab kills` makes it half
//! an hour.

use crate::agent::{Agent, Caller};
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use moorline_client::{Client, Terms};
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::process::{Frozen, memory};
use moorline_shared::api::data::{ListQuery, PutEntry};
use moorline_shared::{EntryPath, InstanceId, Revision};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long it takes where nobody says it.
const USUALLY: Duration = Duration::from_secs(30);
/// How many guests there are.
const GUESTS: usize = 4;
/// How many entries each writer goes round.
const ENTRIES: u64 = 8;
/// Between two tries of a write, and between two writes of a guest.
const BREATH: Duration = Duration::from_millis(100);
/// By how much a daemon may be larger than in its first life.
const GROWTH: u64 = 48 * 1024 * 1024;

/// What was acknowledged of an entry: the last value, and how many writes there were.
type Acknowledged = BTreeMap<(InstanceId, EntryPath), (String, u64)>;

/// Chances that need not be the same twice, nor secret.
struct Dice(u64);

impl Dice {
    fn new() -> Result<Self> {
        Ok(Self(getrandom::u64().context("chance")? | 1))
    }

    /// One of the numbers below `most`.
    fn below(&mut self, most: u64) -> u64 {
        // An xorshift generator.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Who writes.
enum Writer {
    User(Client),
    /// The guest itself, by its agent.
    Guest(Caller),
}

impl Writer {
    /// What its entries lie below, which are its own.
    fn folder(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Guest(_) => "guest",
        }
    }

    /// Writes one entry after the other, each until it is acknowledged, until `done`.
    async fn write_on(self, instance: InstanceId, done: CancellationToken) -> Result<Acknowledged> {
        let mut acknowledged = Acknowledged::new();
        for n in 0_u64.. {
            if done.is_cancelled() {
                break;
            }
            let at = path(&format!("{}/{}", self.folder(), n % ENTRIES));
            let value = n.to_string();
            match &self {
                Self::User(client) => put(client, instance, &at, &value).await?,
                Self::Guest(agent) => set(agent, &at, &value).await,
            }
            let (last, times) = acknowledged.entry((instance, at)).or_default();
            (*last, *times) = (value, *times + 1);
        }
        Ok(acknowledged)
    }
}

async fn put(client: &Client, instance: InstanceId, at: &EntryPath, value: &str) -> Result<()> {
    let (body, terms) = (PutEntry::value(value.into()), Terms::fresh());
    while let Err(error) = client.put_instance_data(instance, at, &body, &terms).await {
        ensure!(
            error.may_have_happened() || error.is_silence(),
            "a write was refused: {error}"
        );
        sleep(BREATH).await;
    }
    Ok(())
}

async fn set(agent: &Caller, at: &EntryPath, value: &str) {
    let key = format!("guest-{value}");
    let set = ["set", at.as_str(), value, "--idempotency-key", &key];
    // Whatever went wrong, the same under the same key does it once.
    while agent.ask(&set).await.is_err() {
        sleep(BREATH).await;
    }
    sleep(BREATH).await;
}

/// A deployment whose parts are killed.
struct Victims {
    deployment: Deployment,
    guests: Vec<(External, Agent)>,
    dice: Dice,
    /// How often each thing was done to them.
    done: BTreeMap<&'static str, u32>,
}

impl Victims {
    async fn new() -> Result<Self> {
        let deployment = Plan::new(Programs::build().await?).start().await?;
        let mut guests = Vec::new();
        for n in 0..GUESTS {
            let name = format!("guest-{n}");
            let external = deployment.attach(&name, &[("name", &name)]).await?;
            let agent = Agent::start(&deployment, &name, external.socket()).await?;
            guests.push((external, agent));
        }
        Ok(Self {
            deployment,
            guests,
            dice: Dice::new()?,
            done: BTreeMap::new(),
        })
    }

    /// Two writers for each guest, until `done`.
    fn writers(&self, done: &CancellationToken) -> JoinSet<Result<Acknowledged>> {
        let mut writers = JoinSet::new();
        for (external, agent) in &self.guests {
            let client = self.deployment.client().clone();
            writers.spawn(Writer::User(client).write_on(external.id, done.clone()));
            let agent = agent.caller().clone();
            writers.spawn(Writer::Guest(agent).write_on(external.id, done.clone()));
        }
        writers
    }

    /// Does something to one of them, and waits until it runs again.
    async fn strike(&mut self) -> Result<()> {
        let what = match self.dice.below(6) {
            0 => {
                self.deployment.control_mut().kill().await?;
                self.a_while(500).await;
                self.deployment.control_mut().restart().await?;
                "control plane killed"
            }
            1 => {
                self.deployment.kill_host().await?;
                self.a_while(500).await;
                self.deployment.launch_host()?;
                "host daemon killed"
            }
            2 => {
                self.deployment.kill_host().await?;
                self.deployment.control_mut().kill().await?;
                self.deployment.launch_host()?;
                self.a_while(500).await;
                self.deployment.control_mut().restart().await?;
                "both daemons killed"
            }
            3 => {
                let frozen = Frozen::new(self.deployment.host_pid().context("the host daemon")?)?;
                self.a_while(2_000).await;
                drop(frozen);
                "host daemon frozen"
            }
            4 => {
                let frozen = self.deployment.control().freeze()?;
                self.a_while(2_000).await;
                drop(frozen);
                "control plane frozen"
            }
            _ => {
                let one = self.dice.below(GUESTS as u64);
                let (_, agent) = &mut self.guests[usize::try_from(one)?];
                agent.kill().await?;
                self.a_while(300).await;
                let (_, agent) = &mut self.guests[usize::try_from(one)?];
                agent.launch()?;
                "agent killed"
            }
        };
        *self.done.entry(what).or_default() += 1;
        Ok(())
    }

    async fn a_while(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.dice.below(most_ms))).await;
    }

    fn memory(&self) -> Result<[u64; 2]> {
        let (control, host) = (self.deployment.control_pid(), self.deployment.host_pid());
        let of = |pid: Option<u32>| memory(pid.context("a daemon has ended")?, "Anonymous:");
        Ok([of(control)?, of(host)?])
    }

    /// Everybody's copy is the master's. The mirrors are looked at twice: as they are, and anew from what the host has on its
    /// disk while the control plane is away, which is how its copy is seen.
    async fn agree(&mut self, acknowledged: &Acknowledged) -> Result<()> {
        let mut here = BTreeMap::new();
        for (external, agent) in &self.guests {
            let wanted = self.master_copy(external.id).await?;
            agent.mirrors(&wanted).await?;
            here.insert(external.id, wanted);
        }
        for ((instance, at), (value, times)) in acknowledged {
            let entry = here[instance].get(at.as_str());
            let (revision, text) = entry.with_context(|| format!("{at} was acknowledged and is lost"))?;
            ensure!(
                text == value,
                "{at} is {text} at {revision}, and {value} was acknowledged last"
            );
            let entry = self.deployment.client().get_instance_data(*instance, at).await?;
            ensure!(
                entry.version == *times,
                "{at} was written {times} times, and it is version {}",
                entry.version
            );
        }
        self.deployment.on_disk().await?;
        self.deployment.kill_host().await?;
        self.deployment.control_mut().kill().await?;
        self.deployment.launch_host()?;
        for (external, agent) in &mut self.guests {
            agent.kill().await?;
            agent.launch()?;
            agent
                .mirrors(&here[&external.id])
                .await
                .context("from the host's disk")?;
        }
        Ok(())
    }

    async fn master_copy(&self, id: InstanceId) -> Result<BTreeMap<String, (Revision, String)>> {
        let query = ListQuery {
            values: true,
            limit: Some(1_000),
            ..ListQuery::default()
        };
        let page = self.deployment.client().list_instance_data(id, &query).await?;
        let entries = page.entries.into_iter().map(|entry| {
            let text = entry
                .value
                .as_ref()
                .and_then(|value| value.text())
                .unwrap_or_default();
            (entry.path.to_string(), (entry.revision, text.to_owned()))
        });
        Ok(entries.collect())
    }
}

fn how_long() -> Result<Duration> {
    match std::env::var("MOORLINE_KILL_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(
            seconds.parse().context("MOORLINE_KILL_SECONDS")?,
        )),
        Err(_) => Ok(USUALLY),
    }
}

#[tokio::test]
async fn kills_at_random_moments_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut victims = Victims::new().await?;
    let until = Instant::now() + how_long()?;
    let done = CancellationToken::new();
    let mut writers = victims.writers(&done);
    victims.a_while(2_000).await;
    let before = victims.memory()?;
    while Instant::now() < until {
        victims.strike().await?;
        victims.a_while(1_500).await;
    }
    done.cancel();
    let mut acknowledged = Acknowledged::new();
    let all = async {
        while let Some(written) = writers.join_next().await {
            acknowledged.extend(written??);
        }
        Ok::<_, anyhow::Error>(())
    };
    let finished = tokio::time::timeout(PATIENCE, all).await;
    finished
        .context("a write is never acknowledged")
        .and_then(|all| all)?;
    let total: u64 = acknowledged.values().map(|(_, times)| times).sum();
    eprintln!("{total} writes acknowledged; {:?}", victims.done);
    let after = victims.memory()?;
    for (daemon, (before, after)) in ["control plane", "host daemon"]
        .into_iter()
        .zip(before.into_iter().zip(after))
    {
        ensure!(
            after < before + GROWTH,
            "the {daemon} grew from {before} to {after} bytes"
        );
    }
    ensure!(total > 100, "only {total} writes were acknowledged");
    victims.agree(&acknowledged).await
}
