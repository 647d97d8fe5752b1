//! The demo as a user runs it: every step is seen, and nothing is left.

use crate::leftovers::running_in;
use anyhow::{Context, Result, ensure};
use moorline_lab::guest::seats;
use moorline_lab::process::tied;
use moorline_lab::setup;
use std::time::Duration;
use tokio::time::timeout;

/// Longer than everything in it may take one after the other on a machine that builds meanwhile.
const PATIENCE: Duration = Duration::from_mins(4);

/// What must be seen, in this order, and nothing beside it.
const STEPS: [&str; 21] = [
    "control plane and host daemon serve, and the host has registered",
    "two instances are reported running",
    "both guests are up and their agents have their data",
    "neither guest has a network interface but lo",
    "guest A reads its own data",
    "a user's change to 'bonjour' is in guest A's watch",
    "a user's change to 'salut' is in guest A's watch",
    "guest A reads the entry of guest B whose access list names A",
    "guest A doesn't get B's other entry, nor learns that there is one",
    "guest A has the credentials of its role 'app'",
    "guest A changes its own data",
    "guest A changes the entry of guest B whose access list lets it",
    "guest A can't change B's other entry, and nothing has changed",
    "an ordinary user's process in guest A can't change anything",
    "nor does the host take it for the guest: an agent of its own gets nothing",
    "the host daemon is killed; guest A still reads what it mirrored",
    "the host daemon is back, and guest A has caught up with the change made meanwhile",
    "both guests ran on: the same boot, the same incarnation",
    "guest A is stopped: it powered itself off at the press of its button",
    "both instances are terminated",
    "no process and no folder of theirs is left",
];

#[tokio::test]
async fn the_demo_shows_every_step_and_leaves_nothing() -> Result<()> {
    demo(&[]).await
}

#[tokio::test]
async fn the_demo_ends_well_though_everything_is_killed_in_turn() -> Result<()> {
    demo(&["--kill"]).await
}

async fn demo(options: &[&str]) -> Result<()> {
    setup::ready().await?;
    // The demo's guests run in a process of their own, and count all the same.
    let _seats = seats(2).await;
    let folder = tempfile::tempdir()?;
    let mut command = tied(env!("CARGO_BIN_EXE_lab"));
    let output = command
        .arg("demo")
        .args(options)
        .env("TMPDIR", folder.path())
        .output();
    let output = timeout(PATIENCE, output)
        .await
        .context("the demo doesn't end")??;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(output.status.success(), "{}\n{stdout}{stderr}", output.status);

    let seen: Vec<_> = stdout.lines().collect();
    ensure!(
        seen.len() == STEPS.len(),
        "not the steps that are expected:\n{stdout}"
    );
    for (line, step) in seen.iter().zip(STEPS) {
        ensure!(line.contains(step), "'{step}' was to be seen instead of: {line}");
    }

    let running = running_in(folder.path());
    ensure!(running.is_empty(), "still running: {running:#?}");
    let left: Vec<_> = std::fs::read_dir(folder.path())?.collect();
    ensure!(left.is_empty(), "still there: {left:?}");
    Ok(())
}
