//! VMs begin, run, and end as they are wanted to, by themselves, or by an accident.

use super::{Daemon, Host, INSTANCE, power_off, record, send, waits_for_notice};
use anyhow::{Context, Result, bail};
use moorline_host::vm::record::{Life, Vsock};
use moorline_shared::api::instances::{Desired, InstanceState};
use rustix::process::Signal;

#[tokio::test]
async fn a_vm_outlives_its_supervisor_and_ends_as_wanted() -> Result<()> {
    let host = Host::new().await?;

    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!(
        (report.incarnation, report.reboots),
        (5, 0),
        "higher than what was reported last"
    );
    let guest = host.guest().await?;
    assert_eq!(guest.run("ls /sys/class/net").await?.text()?, "lo");
    let uuid = guest.run("cat /sys/class/dmi/id/product_serial").await?.text()?;
    assert_eq!(uuid, INSTANCE.to_string());
    let processes = host.processes();
    assert_eq!(processes.len(), 2, "QEMU and its vsock device");
    daemon.end().await?;

    // The next one finds the same VM in the same life, before anybody says what is wanted of it.
    assert_eq!(host.processes(), processes);
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!(report.incarnation, 5);
    assert_eq!(host.processes(), processes);
    guest.run("true").await?.text()?;
    drop(guest);

    // A reboot is another life with other processes; a reboot that was done is not done again.
    daemon.want(Desired::Running, 1).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!((report.incarnation, report.reboots), (6, 1));
    assert!(processes.iter().all(|pid| !host.processes().contains(pid)));

    daemon.want(Desired::Stopped, 1).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!((report.incarnation, report.reason), (6, None));
    host.nothing_runs().await?;
    daemon.want(Desired::Running, 1).await?;
    assert_eq!(daemon.reports(InstanceState::Running).await?.incarnation, 7);

    daemon.want(Desired::Terminated, 1).await?;
    daemon.reports(InstanceState::Terminated).await?;
    host.nothing_runs().await?;
    assert!(!host.vm_folder().exists());
    daemon.end().await
}

#[tokio::test]
async fn a_vm_that_ends_by_itself_stays_off_until_it_is_wanted_again() -> Result<()> {
    let host = Host::new().await?;
    let mut daemon = Daemon::start(&host)?;

    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let _off = power_off(&host).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!(report.reason.as_deref(), Some("the guest powered off"));
    host.nothing_runs().await?;

    // A start is a wish with a higher number, and a guest that is off while no daemon runs is off.
    daemon.want(Desired::Running, 1).await?;
    daemon.reports(InstanceState::Running).await?;
    daemon.end().await?;
    let _off = power_off(&host).await?;
    waits_for_notice(&host).await?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 1).await?;
    let report = loop {
        let report = daemon.reports.recv().await.context("the supervisor has ended")?;
        if report.state != InstanceState::Running {
            break report;
        }
    };
    assert_eq!(report.reason.as_deref(), Some("the guest powered off"));
    host.nothing_runs().await?;

    // A QEMU that is killed is a failure, and not started again in a circle.
    daemon.want(Desired::Running, 2).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    let Some(Life::Running(processes)) = record(&host)?.map(|record| record.life) else {
        bail!("the record says nothing of a VM that runs");
    };
    let Vsock::Process { process: device } = processes.vsock else {
        bail!("the VM has no vsock device of its own");
    };
    send(device, Signal::KILL)?;
    let cut_off = daemon.reports(InstanceState::Running).await?;
    let reason = cut_off.reason.context("a reason")?;
    assert!(
        reason.starts_with("its vsock device was ended by signal 9"),
        "{reason}"
    );
    send(processes.vmm, Signal::KILL)?;
    let lost = daemon.reports(InstanceState::Failed).await?;
    assert_eq!(lost.incarnation, report.incarnation);
    assert_eq!(lost.reason.as_deref(), Some("its QEMU was ended by signal 9"));
    host.nothing_runs().await?;
    daemon.end().await
}

#[tokio::test]
async fn a_qemu_that_does_not_answer_is_killed_in_the_end() -> Result<()> {
    let host = Host::new().await?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let Some(Life::Running(processes)) = record(&host)?.map(|record| record.life) else {
        bail!("the record says nothing of a VM that runs");
    };
    send(processes.vmm, Signal::STOP)?;
    daemon.want(Desired::Stopped, 0).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!(report.reason, None);
    host.nothing_runs().await?;
    daemon.end().await
}
