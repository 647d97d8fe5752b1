//! Everything killed and frozen at random moments under load, again and again: in the end the control plane, the hosts'
//! copies and the mirrors have equal digests, every write that was acknowledged is there once, and memory is flat.
//!
//! It takes [`USUALLY`] where nobody says it; `MOORLINE_KILL_SECONDS=1800 cargo lab test -- --test lab kills_at_random`
//! makes it half an hour. A run that fails says its seed, and `MOORLINE_KILL_SEED` has the same done in the same order again.
//!
//! In the last third of the time the daemons and one agent live on, so that what they have in memory can be compared: they are
//! frozen, and the other agents are killed.

mod agreement;
mod dice;
mod flat;
mod strikes;
mod writers;

use crate::agent::Agent;
use agreement::all_agree;
use anyhow::{Context, Result, ensure};
use dice::Dice;
use flat::Footprint;
use moorline_lab::deployment::{Deployment, External, Plan, Programs};
use moorline_shared::{EntryPath, InstanceId};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};
use strikes::{SPARING, STRIKES, Strike};
use tokio::time::sleep;
use writers::Writers;

/// How long it takes where nobody says it.
const USUALLY: Duration = Duration::from_secs(30);
/// How many guests there are.
const GUESTS: u64 = 4;

/// What was acknowledged of an entry: the last value, and how many writes there were.
type Acknowledged = BTreeMap<(InstanceId, EntryPath), (String, u64)>;

/// A deployment whose parts are killed.
struct Victims {
    deployment: Deployment,
    guests: Vec<(External, Agent)>,
    dice: Dice,
    /// How often each thing was done to them.
    done: BTreeMap<Strike, u32>,
}

impl Victims {
    async fn new(dice: Dice) -> Result<Self> {
        let plan = Plan::new(Programs::build().await?);
        // Whoever is compared all the time is found out.
        let plan = plan
            .host("control", "sync_seconds = 1")
            .host("link", "sync_seconds = 1");
        let deployment = plan.start().await?;
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
            dice,
            done: BTreeMap::new(),
        })
    }

    /// Strikes again and again until `end`.
    async fn suffer(&mut self, strikes: &[Strike], end: Instant) -> Result<()> {
        while Instant::now() < end {
            let strike = self.dice.one_of(strikes);
            self.strike(strike).await.with_context(|| format!("{strike:?}"))?;
            *self.done.entry(strike).or_default() += 1;
            self.a_while(1_500).await;
        }
        Ok(())
    }

    async fn a_while(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.dice.below(most_ms))).await;
    }

    /// Waits until every mirror is kept in step, through all that was done.
    async fn recover(&self) -> Result<()> {
        for (_, agent) in &self.guests {
            agent.is_in_step().await?;
        }
        Ok(())
    }

    /// The whole of it, for so long; tells what was acknowledged, and what was in memory before the last sixth of it and
    /// after.
    async fn live_through(&mut self, time: Duration) -> Result<(Acknowledged, [Footprint; 2])> {
        let writers = Writers::start(self);
        let begun = Instant::now();
        self.suffer(&STRIKES, begun + time * 2 / 3).await?;
        // What a process takes into memory after its start is no growth.
        self.suffer(&SPARING, begun + time * 5 / 6).await?;
        self.recover().await?;
        let before = Footprint::of(self)?;
        self.suffer(&SPARING, begun + time).await?;
        self.recover().await?;
        let after = Footprint::of(self)?;
        Ok((writers.finish().await?, [before, after]))
    }
}

/// A setting of the environment, or else what is usual.
fn setting<T>(name: &str, usually: T) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(usually),
    }
}

async fn kill_everything(dice: Dice, time: Duration) -> Result<()> {
    let mut victims = Victims::new(dice).await?;
    let lived = victims.live_through(time).await;
    let (acknowledged, [before, after]) = lived.with_context(|| victims.deployment.last_words())?;
    let total: u64 = acknowledged.values().map(|(_, times)| times).sum();
    eprintln!("{total} writes acknowledged; {:?}", victims.done);
    ensure!(total > 100, "only {total} writes were acknowledged");
    all_agree(&mut victims, &acknowledged).await?;
    after.is_no_more_than(&before)
}

#[tokio::test]
async fn kills_at_random_moments_lose_nothing_that_was_acknowledged() -> Result<()> {
    let time = Duration::from_secs(setting("MOORLINE_KILL_SECONDS", USUALLY.as_secs())?);
    let seed = setting("MOORLINE_KILL_SEED", getrandom::u64().context("chance")?)?;
    let all = kill_everything(Dice::new(seed), time).await;
    all.with_context(|| format!("MOORLINE_KILL_SEED={seed} does the same again"))
}
