//! Tokens: made, and checked among a million sessions, against the signatures that others check.

use super::programs::{Programs, pinned};
use super::report::{Goal, Row};
use super::spread::against;
use super::{SERVER_CORE, TURNS};
use crate::setup::tools;
use crate::{process, progress};
use anyhow::{Context as _, Result};
use serde::Deserialize;

/// Among how many sessions a token's is looked up.
const SESSIONS: u32 = 1_000_000;
/// For how long each turn runs, in milliseconds.
const TURN_MS: u64 = 400;

/// What `lab-store tokens` prints.
#[derive(Debug, Deserialize)]
struct Measured {
    validate: Vec<f64>,
    mint: Vec<f64>,
    es256: Vec<f64>,
    sessions_mib: f64,
    bytes_per_extra_token: f64,
}

/// All rows of the bench.
pub(super) async fn measure(programs: &Programs) -> Result<Vec<Row>> {
    let measured = progress::step(
        "make a million sessions, and make and check tokens",
        run(programs),
    )
    .await?;
    let Measured {
        validate,
        mint,
        es256,
        sessions_mib,
        bytes_per_extra_token,
    } = measured;
    let share = against(&validate, &es256, |ours, others| ours / others);
    Ok(vec![
        Row::new("validate_per_s_per_core", "tokens/s", validate)?.with(Goal::AtLeast(1_000_000.0)),
        Row::new("mint_per_s_per_core", "tokens/s", mint)?.with(Goal::AtLeast(600_000.0)),
        Row::new("validate_vs_es256", "ratio", share)?.with(Goal::AtLeast(40.0)),
        Row::new("sessions_1m_mb", "MiB", vec![sessions_mib])?.with(Goal::AtMost(512.0)),
        Row::new("bytes_per_extra_token", "bytes", vec![bytes_per_extra_token])?.with(Goal::AtMost(0.0)),
        Row::new("es256_per_s_per_core", "signatures/s", es256)?,
    ])
}

async fn run(programs: &Programs) -> Result<Measured> {
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(tools::target_folder())
        .context("make a folder")?;
    let mut command = pinned(SERVER_CORE, &programs.path("lab-store"));
    // As the control plane's unit has it.
    command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
    command
        .arg("--store")
        .arg(folder.path().join("store.db"))
        .args(["tokens", &format!("--sessions={SESSIONS}")])
        .args([format!("--turns={TURNS}"), format!("--milliseconds={TURN_MS}")]);
    let said = process::finish(&mut command).await?;
    serde_json::from_str(&said).with_context(|| format!("understand '{said}'"))
}
