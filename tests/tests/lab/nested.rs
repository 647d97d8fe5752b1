//! A hypervisor host as operators run it: Debian with systemd, our packages, and the kernel's own vsock. It is a lab
//! guest, and the guests of its daemon are nested in it. Nothing here connects over `AF_VSOCK` outside of a guest.
//!
//! CIDs are leased and passed to QEMU, the agent in a guest is known by the CID that its VM was given, each VM has a
//! scope and a user of its own, a user of a guest can't speak for it, a daemon that was killed or restarted finds VMs
//! and channels again, and so does the next one after an upgrade, a later VM doesn't get an earlier one's CID, and a daemon
//! that crashes leaves no core. At the end the packages are purged.

use crate::packages;
use anyhow::{Context, Result, bail, ensure};
use moorline_lab::guest::{Guest, GuestOptions, control_arguments, seats};
use moorline_lab::image::{Busybox, Debian, Image};
use moorline_lab::setup::{self, Tools, tools};
use moorline_lab_guest::ORDINARY_UID;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything here is emulated, and what is nested more than once.
const PATIENCE: Duration = Duration::from_mins(3);
/// A system, the daemons, QEMU and two guests.
const HOST_MEMORY_MIB: u32 = 1536;

const HOST_CONFIG: &str = include_str!("../../../packaging/config/host.toml");

/// What the operator of this host adds to the sample configuration.
const HOST_IMAGE: &str = r#"
[images.busybox]
kernel = "/srv/vmlinuz"
initrd = "/srv/initrd"
append = "console=ttyS0 quiet panic=-1"
"#;

/// The first of the users of VMs, as the sample configuration has it.
const USER_BASE: u32 = 2_000_000;

#[tokio::test]
async fn a_host_by_the_book_knows_its_guests_by_their_cids() -> Result<()> {
    let tools = setup::ready().await?;
    let image = host_image(tools).await?;
    // It takes the place of a host and of two guests.
    let seats = seats(3).await;
    let options = GuestOptions::new(&image).memory_mib(HOST_MEMORY_MIB);
    let host = Host(Guest::boot(&seats, tools, options).await?);
    println!("the host was up after {:.1?}", host.0.boot_time());
    let begun = Instant::now();
    packages::install_host(host.0.control(), 1).await?;
    println!("its packages after {:.1?}", begun.elapsed());
    host.sh("cp /srv/host.toml /etc/moorline/").await?;
    for line in packages::lines_of_host()?.1 {
        host.sh(line).await?;
    }
    host.wait_for("moorline host list | grep host-1").await?;
    println!("its daemons after {:.1?}", begun.elapsed());

    let made = host.run_instances(2).await?;
    let [first, second] = &made[..] else {
        bail!("two instances were asked for and {made:?} made");
    };
    host.wait_until_connected(first).await?;
    host.wait_until_connected(second).await?;
    println!("two guests in it after {:.1?}", begun.elapsed());
    let vms = [host.vm(first).await?, host.vm(second).await?];
    ensure!(
        vms[0].cid != vms[1].cid,
        "two guests at once have one CID: {vms:?}"
    );
    for (id, vm) in made.iter().zip(&vms) {
        host.is_alone(id, vm).await?;
    }
    host.lets_nobody_but_root_in(first).await?;
    println!("a user of a guest was refused after {:.1?}", begun.elapsed());

    for end in [
        "systemctl kill --signal=KILL --kill-who=main moorline-host",
        "systemctl restart moorline-host",
    ] {
        host.sh(end).await?;
        host.finds_again(&made, &vms, end).await?;
        println!("found again after {:.1?}", begun.elapsed());
    }
    host.reads_without_end(first).await?;
    packages::install_host(host.0.control(), 2).await?;
    host.finds_again(&made, &vms, "the upgrade").await?;
    host.has_read_without_end(first).await?;
    println!("upgraded after {:.1?}", begun.elapsed());
    for unit in ["moorline-control", "moorline-host"] {
        packages::is_confined(host.0.control(), unit).await?;
    }

    host.sh(&format!("moorline instance terminate {first}")).await?;
    host.wait_for(&format!("! test -e /var/lib/moorline/host/vms/{first}"))
        .await?;
    host.wait_for(&format!("! systemctl list-units --type=scope | grep {first}"))
        .await?;
    let third = host.run_instances(1).await?;
    let third = host.vm(&third[0]).await?;
    ensure!(
        vms.iter().all(|vm| vm.cid != third.cid),
        "CID {} means another guest by now",
        third.cid
    );
    host.keeps_no_core_of_ours().await?;
    packages::remove_and_purge_host(host.0.control(), third.pid).await?;
    println!("purged after {:.1?}", begun.elapsed());
    Ok(())
}

/// A machine with QEMU, our packages to install, and an image for its guests.
async fn host_image(tools: &Tools) -> Result<Image> {
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let guests = Busybox::new().agent(agent).build(tools).await?;
    let mut image = Debian::new()
        .package("qemu-system-x86")
        .package("qemu-utils")
        .program("srv/vmlinuz", guests.kernel)
        .program("srv/initrd", guests.initrd)
        .file("srv/host.toml", host_config()?);
    for revision in [1, 2] {
        image = packages::beside(image, revision, &packages::host(revision).await?)?;
    }
    image.build(tools).await
}

/// The sample, as an operator would change it. That KVM works needn't be found out, which takes long in an emulation.
fn host_config() -> Result<String> {
    let auto = "accel = \"auto\"";
    ensure!(HOST_CONFIG.contains(auto), "the sample has no line `{auto}`");
    let more = "\narguments = []\n";
    ensure!(
        HOST_CONFIG.contains(more),
        "the sample names other arguments of QEMU"
    );
    let control = control_arguments(Path::new("{folder}/control.sock"));
    let config = HOST_CONFIG.replace(auto, "accel = \"kvm\"");
    Ok(config.replace(more, &format!("\narguments = {control:?}\n")) + HOST_IMAGE)
}

/// The lab guest that is the host.
struct Host(Guest);

/// What is known of an instance's VM.
#[derive(Debug, PartialEq, Eq)]
struct Vm {
    pid: u64,
    cid: u64,
}

impl Host {
    /// Instances whose VMs run, by their ids.
    async fn run_instances(&self, count: u32) -> Result<Vec<String>> {
        let run = format!("moorline instance run --image busybox --type micro --count {count} --output json");
        let made: Value = serde_json::from_str(&self.answer(&run).await?).context("what was made")?;
        let made = made["instances"].as_array().context("instances were made")?;
        let ids: Vec<_> = made
            .iter()
            .filter_map(|one| Some(one["id"].as_str()?.to_owned()))
            .collect();
        for id in &ids {
            let runs = format!("moorline instance show {id} --output json | grep '\"state\": *\"running\"'");
            self.wait_for(&runs).await?;
        }
        Ok(ids)
    }

    /// Waits until the agent in the instance's guest has all of its data.
    async fn wait_until_connected(&self, id: &str) -> Result<()> {
        let status =
            format!("curl -s --unix-socket /run/moorline/host/admin.sock http://host/v1/instances/{id}");
        self.wait_for(&format!("{status} | grep '\"applied\"'")).await
    }

    /// The instance's VM, by the daemon's record.
    async fn vm(&self, id: &str) -> Result<Vm> {
        let path = format!("/var/lib/moorline/host/vms/{id}/vm.json");
        let record = self.answer(&format!("cat {path}")).await?;
        let record: Value = serde_json::from_str(&record).context("the record of the VM")?;
        let number = |at: &str| {
            let found = record.pointer(at).and_then(Value::as_u64);
            found.with_context(|| format!("no {at} in {record}"))
        };
        Ok(Vm {
            pid: number("/life/vmm/pid")?,
            cid: number("/life/vsock/cid")?,
        })
    }

    /// Makes sure that the daemon is back and serves the guests of the VMs that there were.
    async fn finds_again(&self, made: &[String], vms: &[Vm], after: &str) -> Result<()> {
        self.wait_for("systemctl is-active moorline-host").await?;
        for (id, vm) in made.iter().zip(vms) {
            self.wait_until_connected(id).await?;
            let now = self.vm(id).await?;
            ensure!(
                *vm == now,
                "after {after} the VM of {id} is another: {vm:?}, {now:?}"
            );
        }
        Ok(())
    }

    /// Has a program of the guest's read its data again and again, and note each time that it got none.
    async fn reads_without_end(&self, id: &str) -> Result<()> {
        let read =
            "moorline-agent get meta/instance-id && echo read >>/tmp/reads || echo failed >>/tmp/reads";
        let reads = format!("setsid sh -c \"while sleep 0.2; do {read}; done\" >/dev/null 2>&1 &");
        self.in_guest(id, &reads).await.map(drop)
    }

    /// Makes sure that it did, and has never been without.
    async fn has_read_without_end(&self, id: &str) -> Result<()> {
        self.in_guest(id, "grep -q read /tmp/reads && ! grep failed /tmp/reads")
            .await
            .map(drop)
    }

    /// What a command of root's says in an instance's guest.
    async fn in_guest(&self, id: &str, command: &str) -> Result<String> {
        let control = format!("/var/lib/moorline/host/vms/{id}/run/control.sock");
        self.answer(&format!("lab-guest ask {control} 0 '{command}'"))
            .await
    }

    /// Makes sure that the VM is in a scope of its own, not in the daemon's service, and runs as a user of its own.
    async fn is_alone(&self, id: &str, vm: &Vm) -> Result<()> {
        let group = self.answer(&format!("cat /proc/{}/cgroup", vm.pid)).await?;
        ensure!(
            group.contains("moorline.slice") && group.contains(id) && group.contains(".scope"),
            "the VM of {id} is in {group}"
        );
        let user: u32 = self
            .answer(&format!("stat -c %u /proc/{}", vm.pid))
            .await?
            .trim()
            .parse()
            .context("a user's number")?;
        ensure!(
            (USER_BASE..USER_BASE + 65_536).contains(&user),
            "the VM of {id} runs as user {user}"
        );
        Ok(())
    }

    /// Makes sure that a process of the guest that isn't root gets nothing over `AF_VSOCK`, and that the agent goes on.
    async fn lets_nobody_but_root_in(&self, id: &str) -> Result<()> {
        let before = self.session(id).await?;
        let control = format!("/var/lib/moorline/host/vms/{id}/run/control.sock");
        let intrude = format!("lab-guest ask {control} {ORDINARY_UID} 'lab-guest intrude'");
        println!("{}", self.answer(&intrude).await?);
        ensure!(
            self.session(id).await? == before,
            "the agent of {id} has lost its session"
        );
        let told = self.in_guest(id, "moorline-agent get meta/instance-id").await?;
        ensure!(told == id, "the agent of {id} says that it is {told}");
        Ok(())
    }

    /// Makes sure that a daemon which crashes leaves no core, where the kernel writes them into files and where it hands
    /// them to a program without regard to limits. Another process's crash shows each time that cores are kept.
    async fn keeps_no_core_of_ours(&self) -> Result<()> {
        // Both daemons can write there, so that nothing but themselves keeps them from it.
        const CORES: &str = "/var/lib/moorline/control";
        for (nth, by) in [(1, ""), (2, "|/usr/bin/dd of=")] {
            let pattern = format!("echo '{by}{CORES}/%e.core' > /proc/sys/kernel/core_pattern");
            self.sh(&pattern).await?;
            for unit in ["moorline-control", "moorline-host"] {
                self.crash(unit, nth).await?;
            }
            self.sh("ulimit -c unlimited; ! sh -c 'kill -ABRT $$'").await?;
            self.wait_for(&format!("test -s {CORES}/sh.core")).await?;
            let kept = format!("cd {CORES} && ls *.core && rm *.core");
            let kept = self.answer(&kept).await?;
            ensure!(kept == "sh.core", "by '{by}' these cores are kept: {kept}");
        }
        Ok(())
    }

    /// Has a daemon end as a defect of its own would, for the `nth` time, and waits until it is back.
    async fn crash(&self, unit: &str, nth: u32) -> Result<()> {
        self.sh(&format!("systemctl kill --signal=ABRT --kill-who=main {unit}"))
            .await?;
        // Of a process that left a core systemd says `code=dumped` instead.
        let crashes = format!("journalctl -u {unit} | grep -c 'code=killed, status=6/ABRT'");
        self.wait_for(&format!("test $({crashes}) = {nth}")).await?;
        self.wait_for(&format!("systemctl is-active {unit}")).await
    }

    /// The number of the session that the instance's guest has.
    async fn session(&self, id: &str) -> Result<u64> {
        let status =
            format!("curl -s --unix-socket /run/moorline/host/admin.sock http://host/v1/instances/{id}");
        let status: Value =
            serde_json::from_str(&self.answer(&status).await?).context("the guest's status")?;
        let session = status
            .pointer("/guest/connection/session")
            .and_then(Value::as_u64);
        session.with_context(|| format!("no session in {status}"))
    }

    async fn answer(&self, command: &str) -> Result<String> {
        let output = self.0.run(with_environment(command)).await?;
        output.text()
    }

    async fn sh(&self, command: &str) -> Result<()> {
        self.answer(command).await.map(drop)
    }

    async fn wait_for(&self, command: &str) -> Result<()> {
        let came = self.0.wait_for(with_environment(command), PATIENCE).await;
        match came {
            Ok(_) => Ok(()),
            Err(error) => {
                let logs = self.0.run("journalctl --no-pager -n 40 -u 'moorline-*'").await?;
                Err(error.context(String::from_utf8_lossy(&logs.stdout).into_owned()))
            }
        }
    }
}

fn with_environment(command: &str) -> String {
    let environment =
        "MOORLINE_URL=https://127.0.0.1:8471 MOORLINE_TOKEN_FILE=/var/lib/moorline/control/admin.token";
    format!("export {environment}\n{command}")
}
