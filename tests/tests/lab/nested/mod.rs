//! A hypervisor host as operators run it: Debian with systemd, our packages, and the kernel's own vsock. It is a lab guest,
//! and the guests of its daemon are nested in it. Nothing here connects over `AF_VSOCK` outside of a guest.
//!
//! CIDs are leased and passed to QEMU, the agent in a guest is known by the CID that its VM was given, each VM has a
//! scope and a user of its own, a user of a guest can't speak for it, a daemon that was killed or restarted finds VMs
//! and channels again, and so does the next one after an upgrade, clocks that are set disturb nobody, a later VM doesn't
//! get an earlier one's CID, a daemon that crashes leaves no core, and after a reboot everything is back by itself. At the
//! end the packages are purged.

mod clocks;
mod host;
mod identity;
mod lives;

use crate::packages;
use anyhow::{Result, ensure};
use host::Host;
use moorline_lab::guest::{control_arguments, seats};
use moorline_lab::image::{Busybox, Debian, Image};
use moorline_lab::setup::{self, Tools, tools};
use std::path::Path;
use std::time::Duration;

/// Everything here is emulated, and what is nested more than once.
const PATIENCE: Duration = Duration::from_mins(3);

const HOST_CONFIG: &str = include_str!("../../../../packaging/config/host.toml");

/// What the operator of this host adds to the sample configuration.
const HOST_IMAGE: &str = r#"
[images.busybox]
kernel = "/srv/vmlinuz"
initrd = "/srv/initrd"
append = "console=ttyS0 quiet panic=-1"
"#;

#[tokio::test]
async fn a_host_by_the_book_knows_its_guests_by_their_cids() -> Result<()> {
    let tools = setup::ready().await?;
    // It takes the place of a host and of two guests.
    let seats = seats(3).await;
    let host = Host::boot(&seats, tools).await?;
    install(&host).await?;
    let (made, vms) = identity::two_guests(&host).await?;
    let [first, second] = &made;
    host.lets_nobody_but_root_in(first).await?;
    host.has_come_to("a user of a guest was refused");
    lives::daemons_end(&host, &made, &vms).await?;
    lives::an_upgrade(&host, &made, &vms).await?;
    clocks::are_set(&host, second).await?;
    let third = identity::a_later_vm(&host, first, &vms).await?;
    host.keeps_no_core_of_ours().await?;
    let left = [second.clone(), third.clone()];
    let host = lives::the_host_reboots(host, &left).await?;
    let vm = host.vm(&third).await?;
    packages::remove_and_purge_host(host.guest.control(), vm.pid).await?;
    host.has_come_to("purged");
    Ok(())
}

/// Installs the packages and begins by the README's lines.
async fn install(host: &Host) -> Result<()> {
    packages::install_host(host.guest.control(), 1).await?;
    host.has_come_to("its packages");
    host.sh("cp /srv/host.toml /etc/moorline/").await?;
    for line in packages::lines_of_host()?.1 {
        host.sh(line).await?;
    }
    host.wait_for("moorline host list | grep host-1").await?;
    host.has_come_to("its daemons");
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
