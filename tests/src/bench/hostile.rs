//! One guest that attacks its host among fifty that don't: how those fare, and how much memory the daemon takes.
//!
//! The daemon is alone on core 0. On core 1 are the honest guests' load and, in a control group with half of that core, the
//! attacker, or in its place a polite guest. Each attacker's rounds alternate with polite ones, and a ratio is that of two
//! rounds which followed each other. The honest guests ask and pause, so that their load and the attacker both find room on
//! their core: where an answer takes longer they ask less often, and that is their throughput.

use super::LOAD_CORE;
use super::group::HalfCore;
use super::load::Loader;
use super::programs::Programs;
use super::report::{Goal, Row};
use super::servers::{Allowed, ControlPlane, Cores, ENTRY, Guest, Host, entry};
use super::spread::{Spread, against};
use crate::progress;
use anyhow::{Context as _, Result};
use moorline_lab_load::belongings;
use moorline_lab_load::plan::{
    Attack, Cell, Conduct, Faced, Hostile, Load, Place, Round, Speaks, Stood, Target,
};
use moorline_shared::EntryPath;
use moorline_shared::api::data::PutEntry;
use std::collections::BTreeMap;

/// How many guests there are beside the one that attacks.
const HONEST: usize = 50;
/// How often each attacker has its turn.
const ROUNDS: u32 = 5;
/// How long each honest guest waits after an answer until it asks again, in microseconds.
const PACE_US: u64 = 2_000;
/// For how long a turn runs before it counts, and for how long it counts, in milliseconds.
const WARM_UP_MS: u64 = 200;
const MEASURE_MS: u64 = 600;
/// How much later an answer may come without anybody minding, whatever the ratio is, in milliseconds.
const NO_MATTER_MS: f64 = 2.0;

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let folder = tempfile::Builder::new()
        .prefix("moorline-bench-")
        .tempdir()
        .context("create a folder")?;
    let group = HalfCore::make()?;
    let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Any).await?;
    let mut host = Host::start_with(programs, &control, folder.path(), HONEST, Allowed::ByDefault).await?;
    let polite = host.add(attackers_data()?).await?;
    let mut attacks = Vec::new();
    for conduct in Conduct::ATTACKS {
        let guest = host.add(attackers_data()?).await?;
        attacks.push(attack(&guest, *conduct, &group));
    }
    let plan = Hostile {
        load: load(&host)?,
        pace_us: PACE_US,
        polite: attack(&polite, Conduct::Polite, &group),
        attacks,
    };
    let loader = Loader::new(programs, folder.path());
    let what = format!("attack a host in {} ways", plan.attacks.len());
    let stood = progress::step(&what, loader.hostile(&plan)).await?;
    rows(&stood)
}

/// What an attacker has, so that there is much to ask for.
fn attackers_data() -> Result<BTreeMap<EntryPath, PutEntry>> {
    let entry = |(path, value): (String, String)| {
        let path: EntryPath = path.parse().with_context(|| format!("the path '{path}'"))?;
        Ok((path, PutEntry::value(value.as_str().into())))
    };
    belongings().into_iter().map(entry).collect()
}

fn attack(guest: &Guest, conduct: Conduct, group: &HalfCore) -> Attack {
    Attack {
        guest: guest.socket.clone(),
        instance: guest.instance,
        conduct,
        within: Some(Cell {
            core: LOAD_CORE,
            group: group.entrance(),
        }),
    }
}

/// The honest guests, each with an entry of its own.
fn load(host: &Host) -> Result<Load> {
    let honest = host.guests().iter().take(HONEST);
    let target = Target {
        name: ENTRY.into(),
        core: LOAD_CORE,
        server: host.process()?,
        speaks: Speaks::Link { path: entry() },
        connections: honest.map(|guest| Place::Unix(guest.socket.clone())).collect(),
    };
    Ok(Load {
        rounds: ROUNDS,
        warm_up_ms: WARM_UP_MS,
        measure_ms: MEASURE_MS,
        targets: vec![target],
    })
}

fn rows(stood: &Stood) -> Result<Vec<Row>> {
    let quiet: Vec<f64> = stood
        .attacks
        .iter()
        .flat_map(|faced| &faced.quiet)
        .map(|round| round.p99_us)
        .collect();
    let mut rows = vec![Row::new("quiet_p99_us", "us", quiet)?];
    for faced in &stood.attacks {
        rows.extend(attack_rows(faced)?);
    }
    Ok(rows)
}

fn attack_rows(faced: &Faced) -> Result<Vec<Row>> {
    let each = |measure: fn(&Round, &Round) -> f64| against(&faced.attacked, &faced.quiet, measure);
    let (name, added) = (
        faced.conduct.name(),
        each(|one, other| (one.p99_us - other.p99_us) / 1e3),
    );
    let added = Spread::of(added).context("nothing was measured")?.median;
    let p99 = Goal::AtMostOr {
        bound: 2.0,
        added,
        most: NO_MATTER_MS,
    };
    #[expect(clippy::cast_precision_loss, reason = "it is far less than 2^52")]
    let grown = faced
        .grown_bytes
        .iter()
        .map(|bytes| *bytes as f64 / 1e6)
        .collect();
    let ratio = each(|one, other| one.p99_us / other.p99_us);
    let throughput = each(|one, other| one.rate() / other.rate());
    Ok(vec![
        Row::new(format!("{name}_p99_ratio"), "ratio", ratio)?.with(p99),
        Row::new(format!("{name}_honest_throughput_ratio"), "ratio", throughput)?.with(Goal::AtLeast(0.8)),
        Row::new(format!("{name}_daemon_rss_growth_mb"), "MB", grown)?
            .with(Goal::AtMost(Allowed::megabytes_per_guest())),
    ])
}
