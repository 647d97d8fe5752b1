//! The control plane: durable changes through the API against the same transactions committed bare, and the rules alone.

use super::load::Loader;
use super::programs::{Programs, pinned};
use super::report::{Goal, Row};
use super::servers::{ControlPlane, Cores, entry, value};
use super::spread::against;
use super::{LOAD_CORE, SERVER_CORE, TURNS};
use crate::process;
use crate::progress;
use crate::setup::tools;
use anyhow::{Context as _, Result};
use moorline_client::Terms;
use moorline_lab_load::plan::{Load, Round, Speaks, Target};
use moorline_shared::InstanceId;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// How many clients change entries at once, each of an instance of its own.
const CLIENTS: usize = 32;
/// How many entries each client changes in turn.
const ENTRIES: usize = 16;
/// For how long a turn runs before it counts, and for how long it counts, in milliseconds.
const WARM_UP_MS: u64 = 200;
const MEASURE_MS: u64 = 1_000;
/// For how long a turn steps, in milliseconds.
const STEP_MS: u64 = 500;
const NAME: &str = "control";

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let mut turns = Vec::new();
    for nth in 1..=TURNS {
        let turn = Turn::take(programs);
        turns.push(progress::step(&format!("change entries, turn {nth} of {TURNS}"), turn).await?);
    }
    let of = |what: fn(&Turn) -> f64| turns.iter().map(what).collect::<Vec<_>>();
    let (puts, bare) = (of(|turn| turn.puts.rate()), of(|turn| turn.bare));
    let share = against(&puts, &bare, |puts, bare| puts / bare);
    Ok(vec![
        Row::new("durable_put_c32_vs_batches", "ratio", share)?.with(Goal::AtLeast(0.35)),
        Row::new("step_per_s", "steps/s", of(|turn| turn.steps))?,
        Row::new("durable_put_c32", "requests/s", puts)?,
        Row::new("batches_bare", "transactions/s", bare)?,
        Row::new("durable_put_c32_group", "put/fsync", of(|turn| turn.group))?,
        Row::new(
            "durable_put_c32_cpu",
            "us of cpu/req",
            of(|turn| turn.puts.server_us()),
        )?,
        Row::new("durable_put_c32_p50", "us", of(|turn| turn.puts.p50_us))?,
        Row::new("durable_put_c32_p99", "us", of(|turn| turn.puts.p99_us))?,
    ])
}

/// One control plane from its first commit to its end, and what it left behind.
struct Turn {
    puts: Round,
    /// How many changes shared an fsync, on average.
    group: f64,
    bare: f64,
    steps: f64,
}

/// A point in the store's life.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The newest transaction.
    n: u64,
    /// How many groups have been committed, counted from anywhere.
    groups: u32,
}

impl Turn {
    async fn take(programs: &Programs) -> Result<Self> {
        let folder = folder()?;
        let control = ControlPlane::start(programs, &folder.path().join("control"), Cores::Servers).await?;
        let instances = control.instances_elsewhere(CLIENTS).await?;
        let before = mark(programs, &control, instances[0]).await?;
        let plan = load(&control, &instances)?;
        let measured = Loader::new(programs, folder.path()).drive(&plan).await?;
        let after = mark(programs, &control, instances[0]).await?;
        let puts = measured
            .of(NAME)
            .and_then(<[Round]>::first)
            .context("nothing was measured")?;
        let (group, store) = (group(before, after), control.store());
        control.end().await?;
        let bare = bare(programs, &store, before.n, group, folder.path()).await?;
        let steps = steps(programs, &store, instances[0]).await?;
        Ok(Self {
            puts: *puts,
            group,
            bare,
            steps,
        })
    }
}

/// On the disk that the checkout is on: a folder in memory would make every fsync free.
fn folder() -> Result<TempDir> {
    let target = tools::target_folder();
    fs::create_dir_all(&target).context("make a folder")?;
    tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(target)
        .context("make a folder")
}

/// Commits once more, and looks where the store stands.
async fn mark(programs: &Programs, control: &ControlPlane, instance: InstanceId) -> Result<Mark> {
    let put = control
        .client()
        .put_instance_data(instance, &entry(), &value(), &Terms::fresh())
        .await?;
    let n = put.revision.n;
    let groups = lab_store(programs, &control.store(), &["groups".to_owned()]).await?;
    Ok(Mark { n, groups })
}

#[expect(clippy::cast_precision_loss, reason = "an average needs no 53 bits")]
fn group(before: Mark, after: Mark) -> f64 {
    let groups = after.groups.wrapping_sub(before.groups).max(1);
    (after.n - before.n) as f64 / f64::from(groups)
}

fn load(control: &ControlPlane, instances: &[InstanceId]) -> Result<Load> {
    let token = control.token()?;
    let requests = instances
        .iter()
        .map(|instance| puts(*instance, &token))
        .collect::<Result<_>>()?;
    let target = Target {
        name: NAME.into(),
        core: LOAD_CORE,
        server: control.process()?,
        speaks: Speaks::Http { requests },
        connections: vec![control.place(); instances.len()],
    };
    Ok(Load {
        rounds: 1,
        warm_up_ms: WARM_UP_MS,
        measure_ms: MEASURE_MS,
        targets: vec![target],
    })
}

fn puts(instance: InstanceId, token: &str) -> Result<Vec<String>> {
    let body = serde_json::to_string(&value()).context("write a request")?;
    let length = body.len();
    let put = |nth| {
        format!(
            "PUT /v1/instances/{instance}/data/bench/{nth} HTTP/1.1\r\nHost: control\r\n\
             Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    Ok((0..ENTRIES).map(put).collect())
}

/// The transactions of the load, committed again by themselves: how many per second.
async fn bare(programs: &Programs, store: &Path, after: u64, group: f64, folder: &Path) -> Result<f64> {
    let file = folder.join("bare.db").display().to_string();
    let arguments = [
        "commit".to_owned(),
        format!("--after={after}"),
        format!("--group={group}"),
        format!("--file={file}"),
    ];
    lab_store(programs, store, &arguments).await
}

/// The rules of one change, again and again: how many per second.
async fn steps(programs: &Programs, store: &Path, instance: InstanceId) -> Result<f64> {
    let arguments = [
        "step".to_owned(),
        format!("--instance={instance}"),
        "--path=bench/0".to_owned(),
        format!("--milliseconds={STEP_MS}"),
    ];
    lab_store(programs, store, &arguments).await
}

/// Runs `lab-store` on the servers' core, and understands the number that it prints.
async fn lab_store<T: serde::de::DeserializeOwned>(
    programs: &Programs,
    store: &Path,
    arguments: &[String],
) -> Result<T> {
    let mut command = pinned(SERVER_CORE, &programs.path("lab-store"));
    command.arg("--store").arg(store).args(arguments);
    let said = process::finish(&mut command).await?;
    serde_json::from_str(&said).with_context(|| format!("understand '{said}'"))
}

#[cfg(test)]
mod tests {
    use super::{Mark, group};

    #[test]
    fn groups_are_counted_over_the_edge_of_the_counter() {
        let before = Mark {
            n: 10,
            groups: u32::MAX - 1,
        };
        let after = Mark { n: 40, groups: 3 };
        assert!((group(before, after) - 6.0).abs() < 1e-9);
    }
}
