//! A second host as the README has it: enrolled, listed, revoked, refused.

use super::{refused, standing};
use crate::alone::Alone;
use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, Further, PATIENCE, Plan, Programs};
use moorline_lab::process::{finish, finish_reading};
use moorline_lab::wait;
use moorline_shared::api::feed::OpenFeed;
use moorline_shared::api::hosts::HostStanding;
use moorline_shared::api::instances::RunInstances;
use moorline_shared::{HostId, Timestamp};
use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file that the token goes through.
const TOKEN: &str = "host-2.token";

/// Whoever follows the README.
struct Reader {
    host: Further,
    deployment: Deployment,
    token: String,
}

impl Reader {
    /// Runs a command as it stands there: in this deployment, and on this new host.
    async fn runs(&mut self, command: &str) -> Result<String> {
        let words: Vec<_> = command
            .split_whitespace()
            .map(|word| match word {
                "https://CONTROL:8471" => self.deployment.url(),
                word => word,
            })
            .collect();
        match words[..] {
            ["moorline", ref rest @ .., ">", TOKEN] | ["moorline", ref rest @ ..] => {
                finish(self.deployment.cli().args(rest)).await
            }
            ["moorline-host", "--config", "/etc/moorline/host.toml"] => {
                self.host.launch().map(|()| String::new())
            }
            ["moorline-host", ref rest @ .., "<", TOKEN] => {
                let file = self.host.folder().join(TOKEN);
                std::fs::write(&file, &self.token)?;
                let mut command = self.host.command();
                command.args(rest).arg("--state").arg(self.host.state());
                finish_reading(&mut command, File::open(file)?).await
            }
            _ => bail!("the README has another command: {command}"),
        }
    }

    /// Enrols the host and starts it, and waits until it is listed and has what concerns it.
    async fn enrols(&mut self, [token, enrol, start, list]: [&str; 4]) -> Result<()> {
        self.runs(token).await?.trim().clone_into(&mut self.token);
        let said = self.runs(enrol).await?;
        ensure!(said.contains("this machine is host host-2"), "{said}");
        self.runs(start).await?;
        let in_step = async || self.host.status().await?.feed.in_step.then_some(());
        wait::until("the host to be in step", PATIENCE, in_step)
            .await
            .with_context(|| self.host.said())?;
        let listed = self.line_of(list).await?;
        ensure!(listed.contains(" enrolled "), "it is listed as {listed:?}");
        Ok(())
    }

    async fn line_of(&mut self, list: &str) -> Result<String> {
        let listed = self.runs(list).await?;
        let line = listed.lines().find(|line| line.starts_with("host-2 "));
        Ok(line.context(listed.clone())?.to_owned())
    }

    /// Has the host revoked, under its open connections.
    async fn revokes(&mut self, revoke: &str, list: &str) -> Result<()> {
        let host: HostId = "host-2".parse()?;
        let client = self.host.client(&self.deployment)?;
        let mut feed = client.open_feed(&host, &OpenFeed::default()).await?;
        feed.next().await.context("the feed's hello")??;
        self.runs(revoke).await?;
        let ended = async { while let Some(Ok(_)) = feed.next().await {} };
        tokio::time::timeout(PATIENCE, ended)
            .await
            .context("an open feed goes on")?;
        let told = refused("a request", "host-revoked", client.describe_hosts().await)?;
        ensure!(told.contains("moorline host enroll-token host-2"), "{told}");
        let said = async || {
            let out = !self.host.status().await?.feed.in_step;
            (out && self.host.said().contains("moorline host enroll-token host-2")).then_some(())
        };
        wait::until("the daemon to say that it is refused", PATIENCE, said)
            .await
            .with_context(|| self.host.said())?;
        let listed = self.line_of(list).await?;
        ensure!(listed.contains(" revoked "), "it is listed as {listed:?}");
        ensure!(standing(self.deployment.control(), "host-2").await? == Some(HostStanding::Revoked));
        ensure!(standing(self.deployment.control(), "host-1").await? == Some(HostStanding::Enrolled));
        self.host.kill().await
    }

    /// What another machine is told that shows the token of now.
    async fn another_machine(&mut self, enrol: &str, called: &str) -> Result<String> {
        let other = self.deployment.further_host(&"host-2".parse()?, called)?;
        let own = std::mem::replace(&mut self.host, other);
        let told = self.runs(enrol).await;
        self.host = own;
        Ok(format!(
            "{:?}",
            told.err().context("another machine is the host")?
        ))
    }
}

#[tokio::test]
async fn a_second_host_is_enrolled_by_the_readmes_commands_and_refused_once_revoked() -> Result<()> {
    let blocks = readme::commands("### A second host")?;
    let [block] = &blocks[..] else {
        bail!("the section has other blocks: {blocks:?}")
    };
    let [token, enrol, start, list, revoke] = block[..] else {
        bail!("there are other commands: {block:?}")
    };
    // The test puts what runs on into the background by itself.
    let start = start.trim_end_matches(" &");
    let deployment = Plan::new(Programs::build().await?).start().await?;
    let mut reader = Reader {
        host: deployment.further_host(&"host-2".parse()?, "second")?,
        deployment,
        token: String::new(),
    };
    reader.enrols([token, enrol, start, list]).await?;
    reader.revokes(revoke, list).await?;

    let told = reader.another_machine(enrol, "thief").await?;
    ensure!(
        told.contains("used before") && told.contains("moorline host revoke host-2"),
        "{told}"
    );
    let short = token.replace(" > ", " --ttl 1s > ");
    reader.token = reader.runs(&short).await?.trim().to_owned();
    let over = now()?.plus_seconds(1);
    let passed = async || (now().ok()? >= over).then_some(());
    wait::until("the token's end", PATIENCE, passed).await?;
    let told = reader.another_machine(enrol, "late").await?;
    ensure!(
        told.contains("expired at") && told.contains("moorline host enroll-token host-2"),
        "{told}"
    );
    reader.enrols([token, enrol, start, list]).await
}

fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Timestamp::from_millis(i64::try_from(since.as_millis())?).context("the present")
}

#[tokio::test]
async fn nothing_is_started_on_a_host_that_was_revoked() -> Result<()> {
    let alone = Alone::start().await?;
    let run = |count, host: Option<&str>| -> Result<_> {
        Ok(RunInstances {
            count,
            host: host.map(str::parse).transpose()?,
            ..RunInstances::of("busybox".parse()?, "micro".parse()?)
        })
    };
    for host in ["h1", "h2"] {
        alone.host(host).await?;
    }
    let client = alone.client();
    client.revoke_host(&"h2".parse()?, &fresh_key()).await?;
    let made = client.run_instances(&run(10, None)?, &fresh_key()).await?;
    ensure!(made.instances.iter().all(|made| made.host.as_str() == "h1"));
    let there = client.run_instances(&run(1, Some("h2"))?, &fresh_key()).await;
    let told = refused("an instance there", "host-refused", there)?;
    ensure!(told.contains("moorline host enroll-token h2"), "{told}");
    client.revoke_host(&"h1".parse()?, &fresh_key()).await?;
    let nowhere = client.run_instances(&run(1, None)?, &fresh_key()).await;
    refused("an instance anywhere", "no-room", nowhere).map(drop)
}
