//! Very many hosts at one control plane: what each costs, how soon it hears of a change, and what happens when all come back
//! at once. Ten thousand feeds are in one process with nothing around them, a thousand over TLS with a real control plane.

use super::load::Loader;
use super::programs::{Programs, pinned};
use super::report::{Goal, Row};
use super::servers::{ControlPlane, Cores};
use super::spread::quantile;
use super::{LOAD_CORE, SERVER_CORE, hosts, more_files};
use crate::setup::tools;
use crate::{process, progress};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::path::Path;

/// How many feeds there are in one process.
const IN_PROCESS: usize = 10_000;
/// How many changes are told there one by one.
const TOLD: usize = 2_000;
/// How many hosts have feeds over connections.
const CONNECTED: usize = 1_000;
/// How many changes are followed into them.
const CHANGES: usize = 1_000;
/// How often all of them are cut off at once.
const STORMS: usize = 5;
/// The descriptors that a thousand connections take at each end, and what a process has beside them.
const DESCRIPTORS: u64 = 4 * CONNECTED as u64;

const KIB: &str = "KiB";

/// What `lab-store fanout` prints.
#[derive(Debug, Deserialize)]
struct InProcess {
    kib_per_feed: f64,
    dispatch_us: Vec<f64>,
}

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    more_files(DESCRIPTORS)?;
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(tools::target_folder())
        .context("make a folder")?;
    let what = format!("tell {IN_PROCESS} hosts of changes in one process");
    let near = progress::step(&what, in_process(programs, folder.path())).await?;
    let what = format!("connect {CONNECTED} hosts and cut them off");
    let far = progress::step(&what, connected(programs, folder.path())).await?;
    let p99 = |times: Vec<f64>| quantile(times, 99).context("nothing was measured");
    Ok(vec![
        Row::new("queue_and_index_kb_per_feed", KIB, vec![near.kib_per_feed])?.with(Goal::AtMost(4.0)),
        Row::new("dispatch_p99_us", "us", vec![p99(near.dispatch_us)?])?,
        Row::new("connection_kb_per_feed", KIB, vec![far.kib_per_feed])?.with(Goal::AtMost(64.0)),
        Row::new("change_p99_ms", "ms", vec![p99(far.change_ms.clone())?])?,
        Row::new("change_ms", "ms", far.change_ms)?,
        Row::new("reconnect_storm_s", "s", far.storm_s)?.with(Goal::AtMost(10.0)),
        Row::new("stampede_peak_vs_steady", "ratio", far.peak_vs_steady)?,
    ])
}

async fn in_process(programs: &Programs, folder: &Path) -> Result<InProcess> {
    let mut command = pinned(SERVER_CORE, &programs.path("lab-store"));
    // As the control plane's unit has it.
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    command
        .arg("--store")
        .arg(folder.join("feeds.db"))
        .args(["fanout", &format!("--hosts={IN_PROCESS}")])
        .arg(format!("--changes={TOLD}"));
    let said = process::finish(&mut command).await?;
    serde_json::from_str(&said).with_context(|| format!("understand '{said}'"))
}

async fn connected(programs: &Programs, folder: &Path) -> Result<hosts::Measured> {
    let state = folder.join("control");
    let control = ControlPlane::start(programs, &state, Cores::Servers).await?;
    let plan = hosts::Plan {
        address: control.address(),
        state,
        server: control.process()?,
        hosts: CONNECTED,
        changes: CHANGES,
        storms: STORMS,
    };
    let command = pinned(LOAD_CORE, &programs.path("lab"));
    Loader::new(programs, folder).hosts(command, &plan).await
}
