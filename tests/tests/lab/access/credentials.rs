//! A role's credentials in real guests: there, replaced in time, another's never, and through a restart of the host.

use super::Guest;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Plan, Programs};
use moorline_lab::guest::seats;
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::api::instances::RunInstances;
use serde_json::Value;
use std::path::Path;

/// Prints credentials that are good for half a minute, with whose they are and a number that rises.
fn source(folder: &Path) -> String {
    let script = format!(
        "echo >>{count}; n=$(wc -l <{count}); until=$(date -u -d +30seconds +%FT%TZ); printf \
         '{{\"Version\":1,\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"sesame-%s-%s\",\"Expiration\":\"%s\"}}' \
         \"$n\" \"$MOORLINE_INSTANCE\" \"$n\" \"$until\"",
        count = folder.join("count").display()
    );
    format!("source = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", {script:?}]")
}

/// Runs an instance that is given these roles.
pub(super) async fn run(
    deployment: &Deployment,
    seats: &moorline_lab::guest::Seats,
    roles: &[&str],
) -> Result<Guest> {
    let roles = roles.iter().map(|role| role.parse());
    let request = RunInstances {
        roles: roles.collect::<Result<_, _>>()?,
        ..RunInstances::of(IMAGE.parse()?, "micro".parse()?)
    };
    let ids = deployment.run(seats, &request).await?;
    Guest::up(deployment, *ids.first().context("an instance")?).await
}

/// The number of the credentials that a guest has, which are whole and its own.
async fn number(guest: &Guest) -> Result<u64> {
    let text = guest
        .shell("moorline-agent credentials backup --format process")
        .await?;
    let process: Value = serde_json::from_str(&text)?;
    let text = |name: &str| {
        process[name]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{name} in {process}"))
    };
    let (n, secret) = (text("AccessKeyId")?, text("SecretAccessKey")?);
    ensure!(
        secret == format!("sesame-{}-{n}", guest.id),
        "of two makings, or another's: {process}"
    );
    Ok(n.parse()?)
}

/// Reads again and again, which never fails, until there are newer ones.
async fn newer(guest: &Guest, than: u64) -> Result<u64> {
    let reading = async || match number(guest).await {
        Ok(n) if n <= than => None,
        settled => Some(settled),
    };
    wait::until("newer credentials", PATIENCE, reading).await?
}

#[tokio::test]
async fn a_guest_has_its_roles_credentials_through_rotation_and_restart() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let seats = seats(2).await;
    let folder = tempfile::tempdir()?;
    let plan = Plan::new(Programs::build().await?).machines(tools, &image);
    let mut deployment = plan.host("roles.backup", source(folder.path())).start().await?;
    let one = run(&deployment, &seats, &["backup"]).await?;
    let other = run(&deployment, &seats, &[]).await?;

    let first = number(&one).await.with_context(|| deployment.last_words())?;
    let refused = other
        .shell("moorline-agent credentials backup 2>&1; echo exit $?")
        .await?;
    ensure!(
        refused.contains("no credentials of a role 'backup'") && refused.contains("exit 3"),
        "{refused}"
    );
    let second = newer(&one, first).await?;

    deployment.kill_host().await?;
    ensure!(number(&one).await? >= second);
    deployment.start_host().await?;
    newer(&one, second)
        .await
        .with_context(|| deployment.last_words())?;

    shows_no_secret(&deployment, one.id)
}

/// Neither what the daemon says nor what it keeps on disk has a secret in it.
fn shows_no_secret(deployment: &Deployment, id: InstanceId) -> Result<()> {
    ensure!(!deployment.host_said().contains("sesame-"), "a secret was logged");
    // One that the search must find, so that it is a search.
    let (secret, planted) = (format!("sesame-{id}"), deployment.folder().join("planted"));
    std::fs::write(&planted, &secret).context("write what must be found")?;
    let found = std::process::Command::new("grep")
        .args(["-rlaF", &secret])
        .arg(deployment.folder())
        .output()?;
    let found = String::from_utf8_lossy(&found.stdout);
    ensure!(Path::new(found.trim()) == planted, "a secret is in {found}");
    Ok(())
}
