//! The main job, shown: two real guests without a NIC get their data and see changes the moment they commit, and
//! [`trust`] shows who may do what. With [`kills`] everything is killed in turn meanwhile.
//!
//! Each step is something that was observed, with how long it took; a step that isn't observed ends the demo with an
//! error. The same steps are an integration test.

mod kills;
mod trust;

use crate::deployment::{Deployment, IMAGE, PATIENCE, Plan, Programs, STOP, state_folder};
use crate::guest::{Control, Lines, Seats, seats};
use crate::image::Busybox;
use crate::setup::{self, tools};
use crate::wait;
use anyhow::{Context, Result, ensure};
use kills::Kills;
use moorline_client::{Terms, fresh_key};
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::{PutEntry, SetAccess};
use moorline_shared::api::instances::{InstanceIds, InstanceState, RunInstances};
use moorline_shared::{EntryPath, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What became of a step, for whoever watches.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was observed.
    pub what: String,
    /// How long it took.
    pub took: Duration,
}

/// Shows steps as they are observed.
#[derive(Debug, Default)]
pub struct Show {
    steps: Vec<Step>,
}

impl Show {
    /// Notes that `what` was observed, `took` after it was asked for.
    fn seen(&mut self, what: impl Into<String>, took: Duration) {
        let step = Step {
            what: what.into(),
            took,
        };
        println!("{:>9}  {}", shown(step.took), step.what);
        self.steps.push(step);
    }
}

fn shown(took: Duration) -> String {
    if took >= Duration::from_secs(1) {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{:.1} ms", took.as_secs_f64() * 1_000.0)
    }
}

/// Two guests and what they run on.
#[derive(Debug)]
pub struct Scene {
    deployment: Deployment,
    a: Actor,
    b: Actor,
    kills: Option<Kills>,
    _seats: Seats,
    /// Where the source of the role's credentials lies.
    _source: TempDir,
}

/// A guest, as the demo knows it.
#[derive(Debug)]
struct Actor {
    id: InstanceId,
    control: Control,
}

/// What happens before each of the demo's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing.
    None,
    /// Another process of the deployment is killed, one after the other in turn, and comes back.
    Kill,
}

/// Runs the whole of it and answers with what was observed. Nothing is left running, whatever happens.
pub async fn run(mishap: Mishap) -> Result<Vec<Step>> {
    let mut show = Show::default();
    let mut scene = Scene::open(&mut show, mishap).await?;
    scene.read_own(&mut show).await?;
    scene.mishap().await?;
    scene.see_a_change(&mut show).await?;
    scene.mishap().await?;
    scene.read_anothers(&mut show).await?;
    scene.mishap().await?;
    scene.have_credentials(&mut show).await?;
    scene.mishap().await?;
    scene.change_own(&mut show).await?;
    scene.mishap().await?;
    scene.change_anothers(&mut show).await?;
    scene.mishap().await?;
    scene.refuse_the_unprivileged(&mut show).await?;
    scene.mishap().await?;
    scene.restart_the_host(&mut show).await?;
    scene.mishap().await?;
    scene.stop_and_terminate(&mut show).await?;
    Ok(show.steps)
}

/// Sets everything up and leaves it running until the process is interrupted; prints how to play with it.
pub async fn keep() -> Result<()> {
    let mut show = Show::default();
    let scene = Scene::open(&mut show, Mishap::None).await?;
    scene.read_own(&mut show).await?;
    println!("\n{}", scene.how_to_play());
    tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
    scene.deployment.terminate(&[scene.a.id, scene.b.id]).await
}

fn path(text: &str) -> EntryPath {
    text.parse().expect("the demo's paths are paths")
}

impl Scene {
    async fn open(show: &mut Show, mishap: Mishap) -> Result<Self> {
        let tools = setup::ready().await?;
        let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
        let image = Busybox::new().agent(agent).build(tools).await?;
        let programs = Programs::build().await?;
        let begun = Instant::now();
        let source = state_folder()?;
        let deployment = Plan::new(programs)
            .machines(tools, &image)
            .host(trust::ROLE_TABLE, trust::source(source.path())?)
            .start()
            .await?;
        show.seen(
            "control plane and host daemon serve, and the host has registered",
            begun.elapsed(),
        );
        let seats = seats(2).await;
        let begun = Instant::now();
        let ids = deployment.run(&seats, &request()).await?;
        show.seen("two instances are reported running", begun.elapsed());
        let (a, b) = tokio::try_join!(Actor::new(&deployment, ids[0]), Actor::new(&deployment, ids[1]))?;
        show.seen(
            "both guests are up and their agents have their data",
            begun.elapsed(),
        );
        let begun = Instant::now();
        for actor in [&a, &b] {
            let interfaces = actor.control.run("ls /sys/class/net").await?.text()?;
            ensure!(interfaces == "lo", "a guest has interfaces: {interfaces}");
        }
        show.seen("neither guest has a network interface but lo", begun.elapsed());
        Ok(Self {
            deployment,
            a,
            b,
            kills: (mishap == Mishap::Kill).then(Kills::default),
            _seats: seats,
            _source: source,
        })
    }

    /// A guest reads what the provider and its user gave it.
    async fn read_own(&self, show: &mut Show) -> Result<()> {
        let begun = Instant::now();
        let id = self.a.agent("get meta/instance-id").await?;
        ensure!(id == self.a.id.to_string(), "the guest takes itself for {id}");
        let greeting = self.a.agent("get config/greeting").await?;
        ensure!(greeting == "hello", "the guest reads '{greeting}'");
        show.seen(
            format!("guest A reads its own data: {id}, greeting '{greeting}'"),
            begun.elapsed(),
        );
        Ok(())
    }

    /// A user changes an entry while a program in the guest watches.
    async fn see_a_change(&self, show: &mut Show) -> Result<()> {
        let mut watch = self.a.watch("config").await?;
        for value in ["bonjour", "salut"] {
            let begun = Instant::now();
            self.put(self.a.id, "config/greeting", value).await?;
            let committed = begun.elapsed();
            let line = watch
                .wait_for("the change", PATIENCE, |line| line.contains(value))
                .await?;
            ensure!(line.contains("config/greeting"), "the watch shows: {line}");
            let seen = begun.elapsed();
            show.seen(
                format!(
                    "a user's change to '{value}' is in guest A's watch ({} of it the commit)",
                    shown(committed)
                ),
                seen,
            );
        }
        Ok(())
    }

    /// Guest A reads an entry of guest B that the entry's access list grants, and no other.
    async fn read_anothers(&self, show: &mut Show) -> Result<()> {
        self.put(self.b.id, "shared/address", "10.0.0.7").await?;
        self.put(self.b.id, "private/key", "not for A").await?;
        let granted = SetAccess {
            access: granted_to(self.a.id),
        };
        let client = self.deployment.client();
        client
            .set_entry_access(self.b.id, &path("shared/address"), &granted, &Terms::fresh())
            .await?;
        let begun = Instant::now();
        let address = self
            .a
            .agent(&format!("get --instance {} shared/address", self.b.id))
            .await?;
        ensure!(address == "10.0.0.7", "guest A reads '{address}'");
        show.seen(
            "guest A reads the entry of guest B whose access list names A",
            begun.elapsed(),
        );
        let begun = Instant::now();
        let refused = self
            .a
            .control
            .run(format!("moorline-agent get --instance {} private/key", self.b.id))
            .await?;
        let said = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
        ensure!(
            !refused.succeeded() && refused.stdout.is_empty(),
            "guest A read what it may not"
        );
        show.seen(
            format!("guest A doesn't get B's other entry, nor learns that there is one: {said}"),
            begun.elapsed(),
        );
        Ok(())
    }

    /// The host daemon is killed and started again: the guests run on, and catch up with what changed meanwhile.
    async fn restart_the_host(&mut self, show: &mut Show) -> Result<()> {
        let before = self.boot_ids().await?;
        let mut watch = self.a.watch("config").await?;
        let begun = Instant::now();
        self.deployment.kill_host().await?;
        self.put(self.a.id, "config/greeting", "while you were away")
            .await?;
        let stale = self.a.agent("get config/greeting").await?;
        ensure!(stale == "salut", "without its host the guest reads '{stale}'");
        show.seen(
            "the host daemon is killed; guest A still reads what it mirrored",
            begun.elapsed(),
        );
        let begun = Instant::now();
        self.deployment.start_host().await?;
        watch
            .wait_for("the change", PATIENCE, |line| {
                line.contains("while you were away")
            })
            .await?;
        show.seen(
            "the host daemon is back, and guest A has caught up with the change made meanwhile (a dial while the daemon \
             was away is given up after half a second or more: this vsock device refuses none)",
            begun.elapsed(),
        );
        let begun = Instant::now();
        ensure!(self.boot_ids().await? == before, "a guest was booted anew");
        for id in [self.a.id, self.b.id] {
            let instance = self.deployment.instance(id).await?;
            ensure!(
                instance.incarnation == 1,
                "instance {id} has begun {} times",
                instance.incarnation
            );
        }
        show.seen(
            "both guests ran on: the same boot, the same incarnation",
            begun.elapsed(),
        );
        Ok(())
    }

    /// A stop and a terminate end the VMs and leave nothing behind.
    async fn stop_and_terminate(self, show: &mut Show) -> Result<()> {
        let client = self.deployment.client();
        let processes = self.deployment.vm_processes();
        ensure!(processes.len() == 4, "two VMs have {} processes", processes.len());
        let begun = Instant::now();
        client
            .stop_instances(
                &InstanceIds {
                    instances: vec![self.a.id],
                },
                &fresh_key(),
            )
            .await?;
        self.deployment.reaches(self.a.id, InstanceState::Stopped).await?;
        let took = begun.elapsed();
        ensure!(took < STOP, "guest A didn't heed its power button");
        show.seen(
            "guest A is stopped: it powered itself off at the press of its button",
            took,
        );
        let begun = Instant::now();
        self.deployment.terminate(&[self.a.id, self.b.id]).await?;
        show.seen("both instances are terminated", begun.elapsed());
        let gone = async || processes.iter().all(|pid| !is_running(*pid)).then_some(());
        wait::until("the VMs' processes to be gone", PATIENCE, gone).await?;
        let folders = async || (!self.deployment.vm_folder(self.b.id).exists()).then_some(());
        wait::until("the VMs' folders to be gone", PATIENCE, folders).await?;
        show.seen("no process and no folder of theirs is left", begun.elapsed());
        Ok(())
    }

    async fn boot_ids(&self) -> Result<(String, String)> {
        tokio::try_join!(self.a.boot_id(), self.b.boot_id())
    }

    async fn put(&self, instance: InstanceId, name: &str, value: &str) -> Result<()> {
        let body = PutEntry::value(value.into());
        self.deployment
            .client()
            .put_instance_data(instance, &path(name), &body, &Terms::fresh())
            .await?;
        Ok(())
    }

    fn how_to_play(&self) -> String {
        let folder = self.deployment.folder().display();
        let moorline = self.deployment.programs().path("moorline");
        format!(
            "All of it runs until you press Ctrl-C. In another terminal:\n\
             \x20 export MOORLINE_URL={} MOORLINE_TOKEN_FILE={folder}/control/admin.token\n\
             \x20 {cli} instance list\n\
             \x20 {cli} data set {a} config/greeting 'hello again'\n\
             \x20 {cli} data watch {a}\n\
             \x20 {cli} operation list\n\
             The guests' consoles: {folder}/host/vms/*/run/console.log",
            self.deployment.url(),
            cli = moorline.display(),
            a = self.a.id,
        )
    }
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A process that ended and that nobody has waited for shows as Z.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn request() -> RunInstances {
    let image = IMAGE.parse().expect("this is a name");
    let instance_type = "micro".parse().expect("this is a name");
    RunInstances {
        count: 2,
        name: Some("demo".into()),
        roles: BTreeSet::from([trust::ROLE.parse().expect("this is a name")]),
        data: BTreeMap::from([(path("config/greeting"), PutEntry::value("hello".into()))]),
        ..RunInstances::of(image, instance_type)
    }
}

/// The instance itself reads, and so does the other one.
fn granted_to(instance: InstanceId) -> AccessList {
    let read = Rights::only(Right::Read);
    let clauses = [Subject::Owner, Subject::Instance(instance)].map(|subject| Clause {
        subject,
        rights: read,
    });
    AccessList::try_from(clauses.to_vec()).expect("two clauses are within the bound")
}

impl Actor {
    /// Waits until the guest is up and its agent has its data.
    async fn new(deployment: &Deployment, id: InstanceId) -> Result<Self> {
        let control = deployment
            .guest(id)
            .await
            .with_context(|| deployment.last_words())?;
        control
            .wait_for("moorline-agent get meta/instance-id", PATIENCE)
            .await
            .with_context(|| deployment.last_words())?;
        Ok(Self { id, control })
    }

    /// What a command of the agent writes.
    async fn agent(&self, command: &str) -> Result<String> {
        self.control
            .run(format!("moorline-agent {command}"))
            .await?
            .text()
    }

    /// A watch in the guest that has begun.
    async fn watch(&self, prefix: &str) -> Result<Lines> {
        let mut lines = self
            .control
            .lines(format!("moorline-agent watch --json {prefix}"))?;
        lines
            .wait_for("its begin", PATIENCE, |line| line.contains("bookmark"))
            .await?;
        Ok(lines)
    }

    async fn boot_id(&self) -> Result<String> {
        self.control
            .run("cat /proc/sys/kernel/random/boot_id")
            .await?
            .text()
    }
}
