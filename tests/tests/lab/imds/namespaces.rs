//! Who is served: programs of the agent's own network namespace, each by its user, and nobody else.

use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, External, Plan, Programs};
use moorline_lab::namespace::Namespace;
use moorline_lab::process::{Running, finish};
use moorline_lab::wait;
use moorline_shared::api::data::PutEntry;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "http://169.254.169.254";
const RULES: &str = "# What the administrators' scripts say is theirs.\nuser-data root\n";
const SECRET: &str = "#!/bin/sh\n";

/// An agent in a namespace of its own, and another namespace with a way to it.
struct Scene {
    here: Namespace,
    elsewhere: Namespace,
    agent: Running,
    socket: PathBuf,
    instance: String,
    other: External,
    folder: tempfile::TempDir,
    deployment: Deployment,
}

impl Scene {
    async fn set() -> Result<Self> {
        Self::ruled(RULES, PutEntry::value(SECRET.into())).await
    }

    /// One whose administrators have these rules.
    async fn ruled(access: &str, user_data: PutEntry) -> Result<Self> {
        let deployment = Plan::new(Programs::build().await?).start().await?;
        let other = deployment.attach("other", &[("name", "other")]).await?;
        let data = BTreeMap::from([("user-data".parse()?, user_data)]);
        let external = deployment.register(None, "web", data).await?;
        let folder = tempfile::tempdir()?;
        // Other users look for the socket in it.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).context("open the folder")?;
        let here = Namespace::new(&folder.path().join("here.log")).await?;
        let elsewhere = Namespace::new(&folder.path().join("elsewhere.log")).await?;
        connect(&here, &elsewhere).await?;
        let rules = folder.path().join("agent.access");
        fs::write(&rules, access).context("write the rules")?;
        let socket = folder.path().join("run/agent.sock");
        let mut command = here.command(deployment.programs().agent().await?);
        command
            .args(["run", "--imds", "v2", "--link"])
            .arg(format!("unix:{}", external.socket().display()))
            .arg("--socket")
            .arg(&socket)
            .arg("--access")
            .arg(&rules)
            .arg("--state")
            .arg(folder.path().join("state"));
        let agent = Running::start("moorline-agent", &mut command, folder.path().join("agent.log"))?;
        Ok(Self {
            here,
            elsewhere,
            agent,
            socket,
            instance: external.id.to_string(),
            other,
            folder,
            deployment,
        })
    }

    /// A token, once the service listens.
    async fn token(&self) -> Result<String> {
        let put = format!("{SERVICE}/latest/api/token");
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60";
        let arguments = ["-X", "PUT", "-H", ttl, &put];
        let listens = async || curl(&self.here, Who::Root, &arguments).await.ok();
        let (status, token) = wait::until("a token", PATIENCE, listens)
            .await
            .with_context(|| self.agent.last_words())?;
        ensure!(status == "200", "there is no token: {status} {token}");
        Ok(token)
    }

    async fn get(&self, who: Who, token: &str, path: &str) -> Result<(String, String)> {
        let token = format!("X-aws-ec2-metadata-token: {token}");
        curl(&self.here, who, &["-H", &token, &format!("{SERVICE}{path}")]).await
    }

    async fn get_native(&self, who: Who, path: &str) -> Result<String> {
        let socket = self.socket.display().to_string();
        let url = format!("http://agent/v1/data/{path}");
        let (status, _) = curl(&self.here, who, &["--unix-socket", &socket, &url]).await?;
        Ok(status)
    }
}

/// Whose program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Ordinary,
}

/// What curl is answered in a namespace, by its status and body. Fails when there is no answer.
async fn curl(within: &Namespace, who: Who, arguments: &[&str]) -> Result<(String, String)> {
    let mut command = within.command("setpriv");
    match who {
        Who::Root => command.arg("--"),
        Who::Ordinary => command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--"]),
    };
    command
        .args(["curl", "--silent", "--show-error", "--max-time", "10"])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments);
    let said = finish(&mut command).await?;
    let (body, status) = said.rsplit_once('\n').context("curl says no status")?;
    Ok((status.to_owned(), body.to_owned()))
}

/// Joins the two by a cable, and leads what is for the service through it.
async fn connect(here: &Namespace, elsewhere: &Namespace) -> Result<()> {
    let cable = format!(
        "link add cable type veth peer name cable netns {}",
        elsewhere.pid()?
    );
    here.ip(&cable).await?;
    for (namespace, address) in [(here, "10.9.0.1/24"), (elsewhere, "10.9.0.2/24")] {
        namespace.ip(&format!("addr add {address} dev cable")).await?;
        namespace.ip("link set cable up").await?;
    }
    elsewhere.ip("route add 169.254.169.254 via 10.9.0.1").await?;
    Ok(())
}

#[tokio::test]
async fn only_programs_of_the_machine_are_served_and_each_by_its_user() -> Result<()> {
    let mut scene = Scene::set().await?;
    let token = scene.token().await?;
    for who in [Who::Root, Who::Ordinary] {
        let (status, id) = scene.get(who, &token, "/latest/meta-data/instance-id").await?;
        ensure!(
            status == "200" && id == scene.instance,
            "{who:?}: {status} {id:?}"
        );
    }
    for (who, expected) in [(Who::Root, "200"), (Who::Ordinary, "404")] {
        let (status, _) = scene.get(who, &token, "/latest/user-data").await?;
        ensure!(status == expected, "{who:?} gets {status} for what is root's");
        let native = scene.get_native(who, "user-data").await?;
        ensure!(native == expected, "{who:?} gets {native} on the native surface");
        let (_, listing) = scene.get(who, &token, "/latest/").await?;
        ensure!(
            listing.contains("user-data") == (who == Who::Root),
            "{who:?} sees {listing:?}"
        );
    }
    what_no_client_of_ours_asks_is_refused(&scene, &token).await?;
    the_answer_goes_no_further_than_the_machine(&scene).await?;
    let url = format!("{SERVICE}/latest/meta-data/instance-id");
    let header = format!("X-aws-ec2-metadata-token: {token}");
    let foreign = curl(&scene.elsewhere, Who::Root, &["-H", &header, &url]).await;
    let refused = foreign.err().context("a stranger was served")?.to_string();
    // Its connection was taken, so that there is a way, and cut.
    let cut = ["Empty reply", "reset by peer"];
    ensure!(
        cut.iter().any(|word| refused.contains(word)),
        "not refused but: {refused}"
    );
    ends_without_a_trace(&mut scene).await
}

/// Requests that were passed on or are for another name, and tokens of every other kind, or broken, or far too long.
async fn what_no_client_of_ours_asks_is_refused(scene: &Scene, token: &str) -> Result<()> {
    let url = format!("{SERVICE}/latest/meta-data/instance-id");
    let put = format!("{SERVICE}/latest/api/token");
    let good = format!("X-aws-ec2-metadata-token: {token}");
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60";
    for header in [
        "X-Forwarded-For: 10.0.0.1",
        "x-forwarded-for: 10.0.0.1",
        "X-FORWARDED-FOR;",
        "Host: evil.example",
        "Host: 169.254.169.254.evil.example",
        "Host: localhost",
    ] {
        let (asked, _) = curl(
            &scene.here,
            Who::Root,
            &["-X", "PUT", "-H", ttl, "-H", header, &put],
        )
        .await?;
        let (read, _) = curl(&scene.here, Who::Root, &["-H", &good, "-H", header, &url]).await?;
        ensure!((&*asked, &*read) == ("403", "403"), "{header}: {asked}, {read}");
    }
    let session = Talker::begin(&scene.other.socket()).await?.session().await?;
    let administrator = fs::read_to_string(scene.deployment.control().token_file())?;
    let long = "A".repeat(10_000);
    let (longer, cut) = (format!("{token}A"), &token[1..]);
    for token in [
        "",
        &long,
        &longer,
        cut,
        session.token.expose(),
        administrator.trim(),
    ] {
        let header = format!("X-aws-ec2-metadata-token: {token}");
        let (status, said) = curl(&scene.here, Who::Root, &["-H", &header, &url]).await?;
        ensure!(
            ["401", "431"].contains(&&*status) && !said.contains(&scene.instance),
            "a token: {status} {said}"
        );
    }
    let flood = format!("X-aws-ec2-metadata-token: {}", "A".repeat(100_000));
    if let Ok((status, _)) = curl(&scene.here, Who::Root, &["-H", &flood, &url]).await {
        ensure!(status.starts_with('4'), "100 kB of a token: {status}");
    }
    let (status, _) = curl(&scene.here, Who::Root, &["-H", &good, &url]).await?;
    ensure!(status == "200", "then it answers with {status}");
    Ok(())
}

/// The first router drops it, whoever asked.
async fn the_answer_goes_no_further_than_the_machine(scene: &Scene) -> Result<()> {
    let script = scene.folder.path().join("wire.py");
    fs::write(&script, include_str!("wire.py"))?;
    let ttls = finish(scene.here.command("python3").arg(&script)).await?;
    ensure!(ttls.trim() == "1", "the answer's packets have the TTLs {ttls}");
    Ok(())
}

#[tokio::test]
async fn a_secret_entry_is_shown_to_those_alone_whom_a_rule_names() -> Result<()> {
    for (rules, expected) in [
        ("", "404"),
        ("user-data all\n", "404"),
        ("user-data 1000\n", "200"),
    ] {
        let scene = Scene::ruled(rules, PutEntry::secret(SECRET.into())).await?;
        let token = scene.token().await?;
        for (who, expected) in [(Who::Root, "200"), (Who::Ordinary, expected)] {
            let (status, said) = scene.get(who, &token, "/latest/user-data").await?;
            ensure!(
                status == expected && (status == "200" || !said.contains(SECRET)),
                "{who:?}: {status}"
            );
            let native = scene.get_native(who, "user-data").await?;
            ensure!(native == expected, "{who:?} gets {native} on the native surface");
        }
    }
    Ok(())
}

/// The address is the machine's only for as long as the agent runs.
async fn ends_without_a_trace(scene: &mut Scene) -> Result<()> {
    let addresses = "-oneline addr show dev lo";
    let before = scene.here.ip(addresses).await?;
    ensure!(before.contains("169.254.169.254/32"), "lo has {before}");
    let pid = scene.agent.pid().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).context("the agent has ended")?;
    kill_process(pid, Signal::TERM).context("stop the agent")?;
    let ended = tokio::time::timeout(PATIENCE, scene.agent.ended()).await;
    ended.context("the agent doesn't end")??;
    let after = scene.here.ip(addresses).await?;
    ensure!(!after.contains("169.254.169.254"), "lo still has {after}");
    Ok(())
}
