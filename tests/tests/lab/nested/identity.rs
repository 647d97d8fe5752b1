//! Who a guest is, by the channel that its VM was given, and who can't be taken for it.

use super::host::{Host, Vm};
use anyhow::{Context, Result, bail, ensure};
use moorline_lab_guest::ORDINARY_UID;

/// The first of the users of VMs, as the sample configuration has it.
const USER_BASE: u32 = 2_000_000;

/// Two guests at once, each with a CID, a scope and a user of its own.
pub(super) async fn two_guests(host: &Host) -> Result<([String; 2], [Vm; 2])> {
    let made: Result<[String; 2], _> = host.run_instances(2).await?.try_into();
    let Ok(made) = made else {
        bail!("two instances were asked for");
    };
    for id in &made {
        host.wait_until_connected(id).await?;
    }
    host.has_come_to("two guests in it");
    let vms = [host.vm(&made[0]).await?, host.vm(&made[1]).await?];
    ensure!(
        vms[0].cid != vms[1].cid,
        "two guests at once have one CID: {vms:?}"
    );
    for (id, vm) in made.iter().zip(&vms) {
        host.is_alone(id, vm).await?;
    }
    Ok((made, vms))
}

/// An instance ends, and the VM of a later one has a CID that meant no other guest.
pub(super) async fn a_later_vm(host: &Host, ends: &str, vms: &[Vm]) -> Result<String> {
    host.sh(&format!("moorline instance terminate {ends}")).await?;
    host.wait_for(&format!("! test -e /var/lib/moorline/host/vms/{ends}"))
        .await?;
    host.wait_for(&format!("! systemctl list-units --type=scope | grep {ends}"))
        .await?;
    let later = host
        .run_instances(1)
        .await?
        .pop()
        .context("an instance is made")?;
    let vm = host.vm(&later).await?;
    ensure!(
        vms.iter().all(|earlier| earlier.cid != vm.cid),
        "CID {} means another guest by now",
        vm.cid
    );
    Ok(later)
}

impl Host {
    /// Makes sure that the VM is in a scope of its own, not in the daemon's service, and runs as a user of its own.
    pub(super) async fn is_alone(&self, id: &str, vm: &Vm) -> Result<()> {
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
    pub(super) async fn lets_nobody_but_root_in(&self, id: &str) -> Result<()> {
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
}
