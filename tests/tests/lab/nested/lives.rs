//! What ends and comes back: the daemons, by a crash, a restart and an upgrade, and the whole host.

use super::host::{Host, Vm};
use crate::packages;
use anyhow::{Result, ensure};

/// Daemons that were killed or restarted find VMs and channels again.
pub(super) async fn daemons_end(host: &Host, made: &[String], vms: &[Vm]) -> Result<()> {
    for end in [
        "systemctl kill --signal=KILL --kill-who=main moorline-host",
        "systemctl restart moorline-host",
    ] {
        host.sh(end).await?;
        host.finds_again(made, vms, end).await?;
        host.has_come_to("found again");
    }
    Ok(())
}

/// So do those of the next version, and a guest that reads all the time is never without.
pub(super) async fn an_upgrade(host: &Host, made: &[String], vms: &[Vm]) -> Result<()> {
    host.reads_without_end(&made[0]).await?;
    packages::install_host(host.guest.control(), 2).await?;
    host.finds_again(made, vms, "the upgrade").await?;
    host.has_read_without_end(&made[0]).await?;
    host.has_come_to("upgraded");
    for unit in ["moorline-control", "moorline-host"] {
        packages::is_confined(host.guest.control(), unit).await?;
    }
    Ok(())
}

/// The host reboots, and by itself has its daemons, its VMs and their guests' data again.
pub(super) async fn the_host_reboots(host: Host, made: &[String]) -> Result<Host> {
    for id in made {
        host.sh(&format!("moorline data set {id} config/kept {id}"))
            .await?;
        host.in_guest(id, "moorline-agent set own/kept before").await?;
    }
    let mut before = Vec::new();
    for id in made {
        before.push(host.vm(id).await?);
    }
    let host = host.reboot().await?;
    host.has_come_to("rebooted");
    host.wait_for("systemctl is-active moorline-control moorline-host")
        .await?;
    for (id, before) in made.iter().zip(before) {
        host.wait_until_connected(id).await?;
        let vm = host.vm(id).await?;
        ensure!(
            vm.boot != before.boot,
            "the VM of {id} is an earlier boot's: {vm:?}"
        );
        for (entry, value) in [("config/kept", &**id), ("own/kept", "before")] {
            let read = host.in_guest(id, &format!("moorline-agent get {entry}")).await?;
            ensure!(read == value, "after the reboot {entry} of {id} is {read:?}");
        }
        host.in_guest(id, "moorline-agent set own/kept after").await?;
    }
    host.has_come_to("its guests were back");
    Ok(host)
}

impl Host {
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

    /// Makes sure that a daemon which crashes leaves no core, where the kernel writes them into files and where it hands
    /// them to a program without regard to limits. Another process's crash shows each time that cores are kept.
    pub(super) async fn keeps_no_core_of_ours(&self) -> Result<()> {
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
}
