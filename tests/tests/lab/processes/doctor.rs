//! `moorline doctor` on a host whose daemon and control plane are real ones.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use serde_json::Value;

/// What doesn't depend on the machine that the lab runs on.
const WELL: [&str; 9] = [
    "configuration",
    "daemon",
    "release",
    "certificate",
    "feed",
    "cache",
    "control plane",
    "clock",
    "identity",
];

#[tokio::test]
async fn a_host_that_serves_is_found_well() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    let well = in_step(&deployment).await?;
    for name in WELL {
        ensure!(verdict(&well, name)? == "ok", "{name}: {well:#}");
    }
    deployment.kill_host().await?;
    let ill = examine(&deployment).await?;
    ensure!(verdict(&ill, "daemon")? == "fail", "{ill:#}");
    ensure!(verdict(&ill, "control plane")? == "ok", "{ill:#}");
    Ok(())
}

/// The report once the host is in step with the control plane, which takes a moment after its start.
async fn in_step(deployment: &Deployment) -> Result<Value> {
    let look = async || {
        let report = examine(deployment).await.ok()?;
        (verdict(&report, "feed").ok()? == "ok").then_some(report)
    };
    wait::until("a feed that is well", PATIENCE, look).await
}

/// The report, whatever the exit status says of it.
async fn examine(deployment: &Deployment) -> Result<Value> {
    let config = deployment.folder().join("host.toml");
    let mut doctor = deployment.cli();
    doctor
        .args(["doctor", "--output", "json", "--config"])
        .arg(config);
    let output = doctor.output().await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn verdict<'r>(report: &'r Value, name: &str) -> Result<&'r str> {
    let mut checks = report["checks"].as_array().into_iter().flatten();
    let check = checks.find(|check| check["name"] == name);
    check
        .and_then(|check| check["verdict"].as_str())
        .with_context(|| format!("{name} was not looked at: {report:#}"))
}
