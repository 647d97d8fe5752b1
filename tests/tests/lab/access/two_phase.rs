//! A guest's change whose answer is lost on its way: the agent or the host daemon is killed meanwhile. In the end the
//! master and the mirror are equal, the change is made once, and the guest can find out.

use super::{Guest, Scene};
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::PATIENCE;
use moorline_lab::guest::Lines;
use moorline_lab::wait;
use std::collections::BTreeMap;

/// Where the agent keeps what must outlast it.
const MARKS: &str = "/var/lib/moorline/agent/writes";

#[tokio::test]
async fn a_change_is_made_at_both_ends_or_neither_whoever_is_killed_meanwhile() -> Result<()> {
    let mut scene = Scene::open(1, BTreeMap::new()).await?;
    let guest = scene.guests.pop().context("one guest")?;
    // The first change is made as soon as the guest has its token: from then on it can prove who asks.
    let sets = ["log/a", "log/b", "log/c"].map(|at| format!("moorline-agent set {at} +"));
    let first = guest.control.wait_for(sets.join(" && "), PATIENCE);
    first.await.context("the first changes")?;
    the_agent_is_killed(&scene, &guest)
        .await
        .context("the agent was killed")?;
    the_host_daemon_is_killed(&mut scene, &guest)
        .await
        .context("the host daemon was killed")?;
    both_are_killed(&mut scene, &guest)
        .await
        .context("both were killed")
}

impl Guest {
    /// A program that changes an entry under a key, and waits for the answer; its request has come to the host.
    async fn appends(&self, scene: &Scene, at: &str, value: &str, key: &str) -> Result<Lines> {
        let before = relays(scene, self).await?;
        let command =
            format!("moorline-agent append {at} {value} --idempotency-key {key} 2>&1; echo it ended with $?");
        let waiting = self.control.lines(command)?;
        let sent = async || (relays(scene, self).await.ok()? > before).then_some(());
        wait::until("the request to come to the host", PATIENCE, sent).await?;
        let marked = format!("[ -n \"$(ls {MARKS})\" ]");
        self.control.wait_for(marked, PATIENCE).await?;
        Ok(waiting)
    }

    /// Kills the agent without a word. The guest's first process starts it again.
    async fn kill_agent(&self) -> Result<()> {
        self.shell("kill -9 $(pidof moorline-agent | tr ' ' '\\n' | sort -n | head -n 1)")
            .await
            .map(drop)
    }

    /// Waits until the agent says so of the change with this key, and has no mark of it.
    async fn finds_out(&self, key: &str, state: &str) -> Result<()> {
        let told = format!(
            "moorline-agent write-status {key} | grep -q '^{key} {state}' && [ -z \"$(ls {MARKS})\" ]"
        );
        let found = self.control.wait_for(told, PATIENCE).await;
        found
            .map(drop)
            .with_context(|| format!("{key} was to be {state}"))
    }
}

/// How many requests for the control plane the guest has sent.
async fn relays(scene: &Scene, guest: &Guest) -> Result<u64> {
    let status = scene.deployment.guest_status(guest.id).await;
    Ok(status.context("the guest's status")?.requests.relays)
}

/// Between the request and the answer: the control plane stands still.
async fn the_agent_is_killed(scene: &Scene, guest: &Guest) -> Result<()> {
    let frozen = scene.deployment.control().freeze()?;
    let _waiting = guest.appends(scene, "log/a", "once", "agent-1").await?;
    guest.kill_agent().await?;
    drop(frozen);
    guest.finds_out("agent-1", "made").await?;
    is_equal(scene, guest, "log/a", "+once").await?;
    // The program that got no answer asks again under its key.
    guest
        .shell("moorline-agent append log/a once --idempotency-key agent-1")
        .await?;
    is_equal(scene, guest, "log/a", "+once").await
}

/// The agent and the program live on, and the answer is had in the end.
async fn the_host_daemon_is_killed(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let frozen = scene.deployment.control().freeze()?;
    let mut waiting = guest.appends(scene, "log/b", "once", "host-1").await?;
    scene.deployment.kill_host().await?;
    drop(frozen);
    scene.deployment.start_host().await?;
    waiting
        .wait_for("the answer", PATIENCE, |line| line == "it ended with 0")
        .await?;
    guest.finds_out("host-1", "made").await?;
    is_equal(scene, guest, "log/b", "+once").await
}

async fn both_are_killed(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let frozen = scene.deployment.control().freeze()?;
    let _waiting = guest.appends(scene, "log/c", "once", "both-1").await?;
    let (host, agent) = tokio::join!(scene.deployment.kill_host(), guest.kill_agent());
    host?;
    agent?;
    drop(frozen);
    scene.deployment.start_host().await?;
    // Whether the request was on its way when they died is nobody's to say; asked for again, it is made once.
    let again = "moorline-agent append log/c once --idempotency-key both-1";
    guest.control.wait_for(again, PATIENCE).await?;
    guest.finds_out("both-1", "made").await?;
    is_equal(scene, guest, "log/c", "+once").await
}

/// The master and the mirror have this value, of the same revision.
async fn is_equal(scene: &Scene, guest: &Guest, at: &str, value: &str) -> Result<()> {
    guest.own().reads(at, value).await?;
    let equal = async || {
        let (revision, text) = scene.master(guest.id, at).await.ok()??;
        let entry = guest
            .shell(format!("moorline-agent get {at} --json"))
            .await
            .ok()?;
        (text == value && entry.contains(&format!("\"{revision}\""))).then_some(())
    };
    wait::until("the master and the mirror to be equal", PATIENCE, equal).await?;
    let (_, text) = scene.master(guest.id, at).await?.context("the master's copy")?;
    ensure!(text == value, "the master has {text}");
    Ok(())
}
