//! A session that somebody ends: everything of it is refused within a second, at the host and in the guest, and within
//! five where the host is cut off from the control plane.

use super::Guest;
use super::credentials::run;
use crate::alone::path;
use crate::cutter::Cutter;
use anyhow::{Context, Result, ensure};
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs, free_port};
use moorline_lab::guest::{Seats, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_lab::wait;
use moorline_shared::api::identity::SessionQuery;
use moorline_shared::{EntryPath, Principal};
use std::time::{Duration, Instant};

/// By when everything of a session is refused once that was ended.
const GOAL: Duration = Duration::from_secs(1);
/// By when at most, whatever is cut.
const BOUND: Duration = Duration::from_secs(5);

const OF_SESSION: &str = "moorline-agent credentials own";

/// A guest with a role that hangs on its session, and one that doesn't.
struct Scene {
    deployment: Deployment,
    guest: Guest,
    _seats: Seats,
}

impl Scene {
    async fn open(plan: impl FnOnce(Plan) -> Plan) -> Result<Self> {
        let tools = setup::ready().await?;
        let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
        let image = Busybox::new().agent(agent).build(tools).await?;
        let seats = seats(1).await;
        let command = "command = [\"/bin/echo\", '{\"Version\":1,\"AccessKeyId\":\"k\",\"SecretAccessKey\":\"s\",\"Expiration\":\"2099-01-01T00:00:00Z\"}']";
        let plan = plan(Plan::new(Programs::build().await?).machines(tools, &image))
            .host("roles.own", "source = \"moorline\"")
            .host("roles.theirs", format!("source = \"exec\"\n{command}"));
        let deployment = plan.start().await?;
        let guest = run(&deployment, &seats, &["own", "theirs"]).await?;
        for role in ["own", "theirs"] {
            let has = format!("moorline-agent credentials {role}");
            guest.control.wait_for(&*has, PATIENCE).await?;
        }
        Ok(Self {
            deployment,
            guest,
            _seats: seats,
        })
    }

    async fn session(&self) -> Result<String> {
        let principal = Some(Principal::Instance(self.guest.id));
        let page = self
            .deployment
            .client()
            .describe_sessions(&SessionQuery { principal })
            .await?;
        Ok(page
            .sessions
            .first()
            .context("the instance has a session")?
            .session
            .clone())
    }

    /// What the host has for the guest, by name; `session` for its own token.
    async fn held(&self) -> Option<Vec<String>> {
        let status = self
            .deployment
            .admin_socket()
            .ok()?
            .instance_status(self.guest.id)
            .await
            .ok()?;
        let held = status.credentials.into_iter().filter(|one| one.kind.is_some());
        Some(
            held.map(|one| one.role.map_or("session".to_owned(), |role| role.to_string()))
                .collect(),
        )
    }

    async fn master(&self, at: &EntryPath) -> Result<String> {
        let entry = self
            .deployment
            .client()
            .get_instance_data(self.guest.id, at)
            .await?;
        let value = entry.value.context("an entry that is got has a value")?;
        Ok(value.text().context("the tests' values are text")?.to_owned())
    }

    /// Runs a command in the guest again and again until it ends as wanted. It takes no longer than the guest does.
    async fn turns(&self, until: &str) -> Result<()> {
        let command = format!("n=0; until {until}; do n=$((n+1)); [ $n -lt 400 ] || exit 1; done");
        let ended = self.guest.control.run(command).await?;
        ensure!(ended.succeeded(), "{until} did not come about");
        Ok(())
    }
}

fn took(what: &str, began: Instant, most: Duration) -> Result<()> {
    let took = began.elapsed();
    println!("{what} after {took:?}");
    ensure!(took <= most, "{what} only after {took:?}");
    Ok(())
}

#[tokio::test]
async fn a_session_that_was_ended_is_dead_at_the_host_and_in_the_guest_within_a_second() -> Result<()> {
    let scene = Scene::open(|plan| plan).await?;
    let (guest, at) = (&scene.guest, path("own/state"));
    guest.shell("moorline-agent set own/state before").await?;
    ensure!(scene.master(&at).await? == "before");

    let session = scene.session().await?;
    let began = Instant::now();
    scene
        .deployment
        .client()
        .end_session(&session, &fresh_key())
        .await?;
    let host = async {
        let gone = async || scene.held().await.filter(|held| held == &["theirs"]).map(drop);
        wait::until("the host to drop the token", PATIENCE, gone).await?;
        took("the host has no token", began, GOAL)
    };
    let in_guest = async {
        scene.turns(&format!("! {OF_SESSION} >/dev/null 2>&1")).await?;
        took("the guest shows none", began, GOAL)
    };
    tokio::try_join!(host, in_guest).with_context(|| scene.deployment.last_words())?;

    let refused = guest
        .shell("moorline-agent set own/state after 2>&1; echo exit $?")
        .await?;
    ensure!(!refused.contains("exit 0"), "{refused}");
    ensure!(
        scene.master(&at).await? == "before",
        "a dead session changed something"
    );
    guest.shell("moorline-agent credentials theirs").await?;
    // The agent that begins anew is given nothing either.
    guest.shell("killall moorline-agent").await?;
    let theirs = "moorline-agent credentials theirs";
    guest.control.wait_for(theirs, PATIENCE).await?;
    let all = guest.shell("moorline-agent credentials").await?;
    ensure!(!all.contains("own"), "{all}");
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_cut_off_gives_nothing_of_a_session_out_after_five_seconds() -> Result<()> {
    let port = free_port()?;
    let (cutter, at) = Cutter::tcp(port)?;
    let by_way_of = |plan: Plan| {
        plan.control_port(port)
            .control_by_way_of(format!("https://127.0.0.1:{at}"))
    };
    let scene = Scene::open(by_way_of).await?;
    let guest = &scene.guest;
    guest.shell("moorline-agent set own/state before").await?;
    let session = scene.session().await?;

    cutter.cut_after(0);
    let began = Instant::now();
    scene
        .deployment
        .client()
        .end_session(&session, &fresh_key())
        .await?;
    let set = "moorline-agent set own/state after 2>&1";
    scene
        .turns(&format!(
            "{set} | grep -q 'whether the instance.s session still stands'"
        ))
        .await
        .with_context(|| scene.deployment.last_words())?;
    took("the host vouches for nothing", began, BOUND)?;

    // Who connects now is given nothing of the session, and what the operator's command gives.
    guest.shell("killall moorline-agent").await?;
    guest
        .control
        .wait_for("moorline-agent credentials theirs", PATIENCE)
        .await?;
    let all = guest
        .shell("moorline-agent credentials; moorline-agent credentials own 2>&1; echo exit $?")
        .await?;
    ensure!(!all.contains("exit 0") && !all.contains("mli_"), "{all}");

    cutter.mend();
    let gone = async || scene.held().await.filter(|held| held == &["theirs"]).map(drop);
    wait::until("the host to hear of it", PATIENCE, gone).await?;
    ensure!(
        scene.master(&path("own/state")).await? == "before",
        "a dead session changed something"
    );
    Ok(())
}
