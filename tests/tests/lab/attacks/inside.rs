//! What a user of a real guest who isn't root tries with the agent: its process, its files, its socket, and what it keeps
//! from others. (`privileged` has what such a user tries with the host.)

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::{Control, Output, Shell, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_shared::agent::DEFAULT_SOCKET;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::RunInstances;
use std::collections::BTreeMap;

const SECRET: &str = "a-secret-of-the-guest-4b1d";
const STATE: &str = "/var/lib/moorline/agent";

/// What root can look at, and nobody else. `PID` is the agent's, `ADDRESS` one that it has memory at, `STATE` its folder.
const LOOKS: &[&str] = &[
    // Its memory, which to read is to trace it; what it was started with; what it has open.
    "dd if=/proc/PID/mem bs=1 count=1 skip=ADDRESS",
    "cat /proc/PID/environ",
    "cat /proc/PID/maps",
    "cat /proc/PID/auxv",
    "cat /proc/PID/syscall",
    "cat /proc/PID/stack",
    "ls /proc/PID/fd/",
    "ls /proc/PID/map_files/",
    "cat /proc/PID/root/etc/passwd",
    "kill -0 PID",
    // What it keeps, and what the VMM passed to the guest.
    "ls STATE",
    "cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.moorline.link-key/raw",
    "cat /sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw",
    // What it says to root.
    "moorline-agent get db/password",
    "moorline-agent identity-token --audience anybody",
];

/// What would end the agent, or take its place. `SOCKET` is its socket.
const GRABS: &[&str] = &[
    "kill -STOP PID",
    "kill -KILL PID",
    "touch STATE/mine",
    "mv STATE /tmp/state",
    "rm -r STATE",
    "rm -f SOCKET && ! test -S SOCKET",
    "mv SOCKET /tmp/taken.sock",
    "ln -sf /tmp/mine.sock SOCKET",
    "moorline-agent run --socket SOCKET --state /tmp/mine",
];
/// What there is for those to grab.
const GRABBED: &str = "kill -0 PID && test -d STATE && test -S SOCKET";

/// What root can change of the guest's data, and nobody else, in this order.
const WRITES: &[&str] = &[
    "moorline-agent set own/mode red",
    "moorline-agent append own/mode red",
    "moorline-agent delete own/mode",
];

async fn guest(deployment: &Deployment, seats: &moorline_lab::guest::Seats) -> Result<Control> {
    let data = BTreeMap::from([
        ("app/mode".parse()?, PutEntry::value("blue".into())),
        ("db/password".parse()?, PutEntry::secret(SECRET.into())),
    ]);
    let request = RunInstances {
        data,
        ..RunInstances::of(IMAGE.parse()?, "micro".parse()?)
    };
    let ids = deployment.run(seats, &request).await?;
    let control = deployment.guest(ids[0]).await?;
    control
        .wait_for("moorline-agent get db/password", PATIENCE)
        .await?;
    Ok(control)
}

async fn pid(guest: &Control) -> Result<String> {
    guest
        .wait_for("pidof moorline-agent", PATIENCE)
        .await
        .context("the agent's process")
}

/// The guest, and what the commands above mean in it.
struct Target {
    guest: Control,
    pid: String,
    address: u64,
}

impl Target {
    async fn of(guest: Control) -> Result<Self> {
        let pid = pid(&guest).await?;
        let first = guest.run(format!("head -n 1 /proc/{pid}/maps")).await?.text()?;
        let (address, _) = first.split_once('-').context("a line of maps")?;
        let address = u64::from_str_radix(address, 16).context("an address")?;
        Ok(Self { guest, pid, address })
    }

    fn meant(&self, command: &str) -> String {
        command
            .replace("PID", &self.pid)
            .replace("ADDRESS", &self.address.to_string())
            .replace("STATE", STATE)
            .replace("SOCKET", DEFAULT_SOCKET)
    }

    /// Everybody tries in the same words, so that nobody fails for words that don't work here.
    async fn tries(&self, by: fn(String) -> Shell, command: &str) -> Result<Output> {
        let command = format!("timeout 10 {}", self.meant(command));
        self.guest.run(by(command)).await
    }

    /// What root can: without that, nothing is shown by others' failing at it.
    async fn root_can(&self, command: &str) -> Result<()> {
        let done = self.tries(Shell::root, command).await?;
        done.text().map(drop).context("root can't do it either")
    }

    async fn a_user_can(&self, command: &str) -> Result<String> {
        self.tries(Shell::ordinary, command).await?.text()
    }

    async fn a_user_cannot(&self, command: &str) -> Result<()> {
        let tried = self.tries(Shell::ordinary, command).await?;
        let said = String::from_utf8_lossy(&tried.stdout);
        ensure!(
            !tried.succeeded() && !said.contains(SECRET),
            "{command} did it: {said}"
        );
        Ok(())
    }
}

#[tokio::test]
async fn a_user_of_a_guest_gets_at_nothing_of_the_agents() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let seats = seats(1).await;
    let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let target = Target::of(guest(&deployment, &seats).await?).await?;
    only_root_is_shown_a_session(&target.guest).await?;
    for look in LOOKS {
        target.root_can(look).await?;
        target.a_user_cannot(look).await?;
    }
    target.root_can(GRABBED).await?;
    for change in GRABS.iter().chain(WRITES) {
        target.a_user_cannot(change).await?;
    }
    // What is everybody's is still there, from the same agent.
    let mode = target.a_user_can("moorline-agent get app/mode").await?;
    ensure!(mode == "blue" && pid(&target.guest).await? == target.pid);
    nothing_lies_about(&target.guest).await?;
    for write in WRITES {
        target.root_can(write).await?;
    }
    a_crash_leaves_no_core(&target.guest).await
}

/// Everybody may ask what credentials there are, and is told of those that are for him.
async fn only_root_is_shown_a_session(guest: &Control) -> Result<()> {
    const ASK: &str = "moorline-agent credentials --json";
    let session = format!("{ASK} | grep expires");
    guest.wait_for(session, PATIENCE).await?;
    let shown = guest.run(Shell::ordinary(ASK)).await?.text()?;
    ensure!(!shown.contains("expires"), "a user is shown {shown}");
    Ok(())
}

/// Nor does the agent leave it where somebody finds it.
async fn nothing_lies_about(guest: &Control) -> Result<()> {
    // One that the search must find, so that it is a search.
    let planted = "/tmp/planted";
    guest.run(format!("echo {SECRET} >{planted}")).await?.text()?;
    let found = format!("grep -rl {SECRET} /var/log /run /tmp {STATE} /home");
    let found = guest.run(found).await?;
    let found = String::from_utf8_lossy(&found.stdout);
    ensure!(found.trim() == planted, "it lies in {found}");
    Ok(())
}

/// An agent that crashes leaves no core, where the kernel writes them into files and where it hands them to a program
/// without regard to limits. Another process's crash shows each time that cores are kept.
async fn a_crash_leaves_no_core(guest: &Control) -> Result<()> {
    guest.run("mkdir /tmp/cores").await?.text()?;
    for pattern in ["/tmp/cores/%e", "|/bin/dd of=/tmp/cores/%e"] {
        let agent = pid(guest).await?;
        let crash = format!("echo '{pattern}' > /proc/sys/kernel/core_pattern && kill -ABRT {agent}");
        guest.run(crash).await?.text()?;
        guest.wait_for(format!("! kill -0 {agent}"), PATIENCE).await?;
        let other = guest.run("ulimit -c unlimited; sh -c 'kill -ABRT $$'").await?;
        ensure!(!other.succeeded(), "another process goes on: {other:?}");
        guest.wait_for("test -s /tmp/cores/sh", PATIENCE).await?;
        let kept = guest.run("ls /tmp/cores && rm /tmp/cores/*").await?.text()?;
        ensure!(kept == "sh", "by {pattern} these cores are kept: {kept}");
    }
    Ok(())
}
