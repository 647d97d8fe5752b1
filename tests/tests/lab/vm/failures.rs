//! What goes wrong is cleaned up and said, and goes no further than a VM's own user.

use super::{Daemon, FIRST_USER, Host, INSTANCE, PATIENCE};
use anyhow::{Context, Result};
use moorline_host::uplink::SpecChange;
use moorline_host::vm::record::{Life, Record, Records};
use moorline_lab::wait;
use moorline_shared::api::instances::{Desired, InstanceState};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt as _};
use tokio::time::timeout;

#[tokio::test]
async fn what_a_supervisor_left_half_done_is_cleaned_up() -> Result<()> {
    let host = Host::new().await?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    daemon.end().await?;

    // As if the daemon had died between the start of the processes and their entry into the record.
    let records = Records::open(host.folder.path())?;
    let record = Record::new(INSTANCE, report.incarnation, 0, Life::Beginning);
    records.keep(record).await?;
    let before = host.processes();
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let again = daemon.reports(InstanceState::Running).await?;
    assert_eq!(again.incarnation, report.incarnation + 1);
    assert!(before.iter().all(|pid| !host.processes().contains(pid)));
    daemon.end().await?;

    // A record that nobody can read ends the VM, and the file stays for a person to look at.
    std::fs::write(host.vm_folder().join("vm.json"), "{")?;
    let daemon = Daemon::start(&host)?;
    host.nothing_runs().await?;
    assert!(host.vm_folder().join("vm.json.corrupt-1").exists());

    // Once all instances are known, a VM of none of them is removed.
    daemon.tell(SpecChange::Complete).await?;
    let removed = async || (!host.vm_folder().exists()).then_some(());
    wait::until("the folder to be gone", PATIENCE, removed).await?;
    daemon.end().await
}

#[tokio::test]
async fn a_vm_that_cannot_start_says_why() -> Result<()> {
    let mut host = Host::new().await?;
    host.tables.qemu.arguments.push("-no-such-argument".to_owned());
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Failed).await?;
    let reason = report.reason.context("a reason")?;
    assert!(reason.contains("-no-such-argument: invalid option"), "{reason}");
    host.nothing_runs().await?;
    // It is tried again, as another life.
    let again = daemon.reports(InstanceState::Failed).await?;
    assert_eq!(again.incarnation, report.incarnation + 1);

    daemon.spec.image = Some("unheard-of".parse()?);
    daemon.want(Desired::Running, 0).await?;
    let report = loop {
        let report = daemon.reports(InstanceState::Failed).await?;
        if report.reason.as_ref() != Some(&reason) {
            break report;
        }
    };
    let reason = report.reason.context("a reason")?;
    assert!(reason.contains("images.unheard-of"), "{reason}");
    daemon.want(Desired::Stopped, 0).await?;
    daemon.reports(InstanceState::Stopped).await?;
    daemon.end().await
}

/// An own user for each VM takes root, and files that other users can reach.
#[tokio::test]
async fn vms_run_as_users_of_their_own() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing to test here");
        return Ok(());
    }
    let host = Host::with_users().await?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let processes = host.processes();
    assert_eq!(processes.len(), 2, "QEMU and its vsock device");
    for pid in processes {
        let owner = std::fs::metadata(format!("/proc/{}", pid.as_raw_nonzero()))?.uid();
        assert_eq!(owner, FIRST_USER);
    }
    // What its guest says arrives: nonsense, so the shard counts it as the guest's fault.
    let guest = host.guest().await?;
    guest.run("lab-guest vsock-echo 8470 4096").await?;
    let at_fault = async || {
        let guests = daemon.shards.handle().status().await.ok()?;
        guests
            .iter()
            .any(|guest| guest.instance == INSTANCE && guest.requests.faults > 0)
            .then_some(())
    };
    wait::until("the guest's nonsense to arrive", PATIENCE, at_fault).await?;
    daemon.want(Desired::Terminated, 0).await?;
    daemon.reports(InstanceState::Terminated).await?;
    daemon.end().await
}

/// What its image is made of must be open to a VM's own user, and whoever forgot that is told.
#[tokio::test]
async fn a_vm_whose_user_cannot_read_its_image_says_so() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing to test here");
        return Ok(());
    }
    let host = Host::with_users().await?;
    let image = host.tables.images.values().next().context("an image")?;
    let kernel = image.kernel.clone().context("a kernel")?;
    std::fs::set_permissions(&kernel, Permissions::from_mode(0o600))?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let reason = daemon.reports(InstanceState::Failed).await?.reason;
    let reason = reason.context("a reason")?;
    let told = format!("{} can't be read by user {FIRST_USER}", kernel.display());
    assert!(reason.contains(&told), "{reason}");

    // The next try finds what was put right.
    std::fs::set_permissions(&kernel, Permissions::from_mode(0o644))?;
    loop {
        let report = timeout(PATIENCE, daemon.reports.recv())
            .await?
            .context("a report")?;
        if report.state == InstanceState::Running {
            break;
        }
    }
    daemon.want(Desired::Terminated, 0).await?;
    daemon.reports(InstanceState::Terminated).await?;
    daemon.end().await
}
