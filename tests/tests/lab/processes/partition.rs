//! A host whose packets vanish on their way to the control plane: no connection ends, and nobody is told anything.

use crate::agent::Agent;
use crate::cutter::Cutter;
use anyhow::{Context, Result, ensure};
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs, free_port};
use moorline_lab::namespace::Namespace;
use moorline_lab::wait;
use moorline_shared::Principal;
use moorline_shared::api::identity::SessionQuery;
use std::time::{Duration, Instant};

/// By when at most nothing of a session is taken once that was ended, whatever is broken.
const BOUND: Duration = Duration::from_secs(5);

/// A host in a network of its own, which a test can break, and the agent of a guest whose role hangs on its session.
struct Scene {
    network: Namespace,
    deployment: Deployment,
    external: External,
    /// The only way out of the host's network.
    _way: Cutter,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let network = Namespace::new(&folder.path().join("namespace.log")).await?;
        network.ip("link set lo up").await?;
        let listener = network.listen(([127, 0, 0, 1], 0).into())?;
        let (at, port) = (listener.local_addr()?, free_port()?);
        let way = Cutter::at(listener, port)?;
        let plan = Plan::new(Programs::build().await?)
            .control_port(port)
            .control_by_way_of(format!("https://{at}"))
            .host_within(&network)
            .host("roles.own", "source = 'moorline'");
        let deployment = plan.start().await?;
        let external = deployment.attach_with_roles("web", &["own"]).await?;
        Ok(Self {
            network,
            deployment,
            external,
            _way: way,
            _folder: folder,
        })
    }

    async fn agent(&self) -> Result<Agent> {
        Agent::start(&self.deployment, "web", self.external.socket()).await
    }

    async fn end_session(&self) -> Result<()> {
        let client = self.deployment.client();
        let principal = Some(Principal::Instance(self.external.id));
        let page = client.describe_sessions(&SessionQuery { principal }).await?;
        let session = page.sessions.first().context("the instance has a session")?;
        client.end_session(&session.session, &fresh_key()).await?;
        Ok(())
    }

    /// Waits until the host's daemon has said this.
    async fn host_says(&self, what: &str) -> Result<()> {
        let said = async || self.deployment.host_said().contains(what).then_some(());
        let said = wait::until(&format!("'{what}'"), PATIENCE, said).await;
        said.with_context(|| self.deployment.last_words())
    }

    /// Whether the host has anything for the guest that hangs on its session.
    async fn holds_anything(&self) -> Option<bool> {
        let admin = self.deployment.admin_socket().ok()?;
        let status = admin.instance_status(self.external.id).await.ok()?;
        Some(status.credentials.iter().any(|held| held.kind.is_some()))
    }

    /// The entry that the guest changes, in the master copy.
    async fn master(&self) -> Result<Option<String>> {
        let (client, id) = (self.deployment.client(), self.external.id);
        let entry = client.get_instance_data(id, &"own/state".parse()?).await?;
        let value = entry.value.context("an entry that is got has a value")?;
        Ok(value.text().map(str::to_owned))
    }
}

/// What a command is told that fails.
async fn refused(agent: &Agent, arguments: &[&str]) -> Result<String> {
    match agent.ask(arguments).await {
        Ok(told) => anyhow::bail!("{arguments:?} was answered: {told}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[tokio::test]
async fn a_session_is_dead_within_five_seconds_where_packets_vanish() -> Result<()> {
    let scene = Scene::open().await?;
    let agent = scene.agent().await?;
    // An agent that begins anew has it too: what it lacks below it lacks for the packets.
    drop(agent);
    let agent = scene.agent().await?;
    agent
        .until("its credentials", &["credentials", "own"], |_| true)
        .await?;
    agent.ask(&["set", "own/state", "before"]).await?;

    scene.network.lose_packets().await?;
    let began = Instant::now();
    scene.end_session().await?;
    scene.host_says("the feed is silent").await?;
    let took = began.elapsed();
    println!("the host vouched for nothing after {took:?}");
    ensure!(took <= BOUND, "the host vouched for the session for {took:?}");
    ensure!(
        !scene.deployment.host_said().contains("the feed is lost"),
        "a connection ended: {}",
        scene.deployment.last_words()
    );

    let said = refused(&agent, &["set", "own/state", "after"]).await?;
    ensure!(
        said.contains("whether the instance's session still stands"),
        "{said}"
    );
    drop(agent);
    let agent = scene.agent().await?;
    let said = refused(&agent, &["credentials", "own"]).await?;
    ensure!(!said.contains("mli_"), "it was given a token: {said}");

    scene.network.mend().await?;
    let gone = async || scene.holds_anything().await.filter(|any| !any).map(drop);
    wait::until("the host to hear of it", PATIENCE, gone)
        .await
        .with_context(|| scene.deployment.last_words())?;
    refused(&agent, &["credentials", "own"]).await?;
    // What was on its way when the packets vanished arrives now, and is refused there.
    ensure!(
        scene.master().await?.as_deref() == Some("before"),
        "a dead session changed something"
    );
    Ok(())
}
