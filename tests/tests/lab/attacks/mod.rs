//! Attacks on what guests, hosts and their operators are known by, with real daemons and real guests.

mod certificates;
mod clones;
mod inside;
mod relays;
mod second_host;

use anyhow::{Context, Result, ensure};
use moorline_client::ClientError;
use moorline_lab::deployment::{ControlPlane, PATIENCE};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_shared::api::hosts::{HostPage, HostStanding};

/// Fails unless a request was refused as a problem of this kind, and answers with what was told.
fn refused<T>(what: &str, kind: &str, outcome: Result<T, ClientError>) -> Result<String> {
    let error = outcome
        .err()
        .with_context(|| format!("{what} was to be refused"))?;
    let problem = error
        .problem()
        .with_context(|| format!("{what} failed: {error:?}"))?;
    ensure!(
        problem.kind == kind,
        "{what} was refused as {}: {}",
        problem.kind,
        problem.detail
    );
    Ok(problem.detail.clone())
}

/// How a host stands, as `moorline host list` shows it to programs.
async fn standing(control: &ControlPlane, host: &str) -> Result<Option<HostStanding>> {
    let listed = finish(control.cli().args(["host", "list", "--output", "json"])).await?;
    let page: HostPage = serde_json::from_str(&listed).context("the list of hosts")?;
    let found = page.hosts.into_iter().find(|found| found.id.as_str() == host);
    Ok(found.and_then(|host| host.standing))
}

async fn stands(control: &ControlPlane, host: &str, as_what: HostStanding) -> Result<()> {
    let look = async || {
        let found = standing(control, host).await.ok()?;
        (found == Some(as_what)).then_some(())
    };
    wait::until(&format!("{host} to be {as_what:?}"), PATIENCE, look).await
}
