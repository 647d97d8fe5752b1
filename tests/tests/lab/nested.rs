//! The production channel, `AF_VSOCK`, on a host that has the kernel's vsock: a lab guest is the host, and the guests of
//! its daemon are nested in it. Nothing here connects over `AF_VSOCK` outside of a guest.
//!
//! The host runs the real daemons. CIDs are leased and passed to QEMU, the agent in a guest is known by the CID that
//! its VM was given, a restarted daemon finds VMs and channels again, and a later VM doesn't get an earlier one's CID.

use anyhow::{Context, Result, bail, ensure};
use moorline_lab::deployment::Programs;
use moorline_lab::guest::{Guest, GuestOptions, seats};
use moorline_lab::image::{Busybox, Image};
use moorline_lab::setup::{self, Tools, tools};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Everything here is emulated, and what is nested more than once.
const PATIENCE: Duration = Duration::from_mins(3);
/// The daemons, QEMU and two guests, all in memory.
const HOST_MEMORY_MIB: u32 = 2048;

/// What a host's QEMU needs beside itself and its libraries.
const FIRMWARE: [&str; 3] = [
    "usr/share/seabios/bios-256k.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
];

const HOST_CONFIG: &str = r#"
host = "host-1"
zone = "zone-1"
state_dir = "/tmp/host"
[control]
url = "http://127.0.0.1:8471"
token_file = "/tmp/control/admin.token"
[capacity]
vcpus = 8
memory_mib = 2048
[sockets]
register = "/run/register.sock"
admin = "/run/admin.sock"
[link]
vsock = "on"
[vm]
stop_seconds = 1
[qemu]
accel = "kvm"
vsock = "vhost"
[images.busybox]
kernel = "/srv/vmlinuz"
initrd = "/srv/initrd"
append = "console=ttyS0 quiet panic=-1"
"#;

#[tokio::test]
async fn guests_are_known_by_the_cids_that_their_vms_were_given() -> Result<()> {
    let tools = setup::ready().await?;
    let image = host_image(tools).await?;
    // It takes the place of a host and of two guests.
    let seats = seats(3).await;
    let options = GuestOptions::new(&image).memory_mib(HOST_MEMORY_MIB);
    let host = Host(Guest::boot(&seats, tools, options).await?);
    println!("the host was up after {:.1?}", host.0.boot_time());
    let begun = Instant::now();
    host.start_control_plane().await?;
    host.start_daemon().await?;
    println!("its daemons after {:.1?}", begun.elapsed());

    let made = host.run_instances(2).await?;
    let [first, second] = &made[..] else {
        bail!("two instances were asked for and {made:?} made");
    };
    host.wait_until_connected(first).await?;
    host.wait_until_connected(second).await?;
    println!("two guests in it after {:.1?}", begun.elapsed());
    let cids = [host.cid(first).await?, host.cid(second).await?];
    ensure!(cids[0] != cids[1], "two guests at once have CID {}", cids[0]);

    host.sh("kill -9 $(cat /tmp/host.pid)").await?;
    host.start_daemon().await?;
    host.wait_until_connected(first).await?;
    host.wait_until_connected(second).await?;
    ensure!(
        cids == [host.cid(first).await?, host.cid(second).await?],
        "a VM is another one"
    );

    println!("found again after {:.1?}", begun.elapsed());
    host.sh(&format!("moorline instance terminate {first}")).await?;
    let gone = format!("! test -e /tmp/host/vms/{first}");
    host.0.wait_for(gone, PATIENCE).await?;
    let third = host.run_instances(1).await?;
    let cid = host.cid(&third[0]).await?;
    ensure!(!cids.contains(&cid), "CID {cid} means another guest by now");
    Ok(())
}

/// A machine with QEMU, our programs, and an image for its guests.
async fn host_image(tools: &Tools) -> Result<Image> {
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let guests = Busybox::new().agent(agent).build(tools).await?;
    let ours = Programs::build().await?;
    let mut image = Busybox::new()
        .module("vhost_vsock")
        .module("kvm_amd")
        .program("usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-x86_64")
        .program("srv/vmlinuz", guests.kernel)
        .program("srv/initrd", guests.initrd);
    for file in FIRMWARE {
        image = image.program(file, format!("/{file}"));
    }
    for program in ["moorline-control", "moorline-host", "moorline"] {
        image = image.program(format!("usr/bin/{program}"), ours.path(program));
    }
    image.build(tools).await
}

/// The lab guest that is the host.
struct Host(Guest);

impl Host {
    async fn start_control_plane(&self) -> Result<()> {
        let serve = "moorline-control --state /tmp/control --listen 127.0.0.1:8471";
        self.sh(&format!("setsid {serve} >/tmp/control.log 2>&1 </dev/null &"))
            .await?;
        self.wait_for("test -s /tmp/control/admin.token").await?;
        self.sh(&format!("cat >/tmp/host.toml <<'EOF'\n{HOST_CONFIG}\nEOF"))
            .await
    }

    /// Starts the daemon and waits until the control plane knows the host.
    async fn start_daemon(&self) -> Result<()> {
        let serve = "moorline-host --config /tmp/host.toml";
        let start = format!("setsid {serve} >>/tmp/host.log 2>&1 </dev/null & echo $! >/tmp/host.pid");
        self.sh(&start).await?;
        self.wait_for("moorline host list | grep host-1 && test -S /run/admin.sock")
            .await
    }

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
        let status = format!("curl -s --unix-socket /run/admin.sock http://host/v1/instances/{id}");
        self.wait_for(&format!("{status} | grep '\"applied\"'")).await
    }

    /// The CID of the instance's VM, by the daemon's record.
    async fn cid(&self, id: &str) -> Result<u64> {
        let record = self.answer(&format!("cat /tmp/host/vms/{id}/vm.json")).await?;
        let record: Value = serde_json::from_str(&record).context("the record of the VM")?;
        record["life"]["vsock"]["cid"]
            .as_u64()
            .with_context(|| format!("no CID in {record}"))
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
                let logs = self.0.run("tail -n 20 /tmp/control.log /tmp/host.log").await?;
                Err(error.context(String::from_utf8_lossy(&logs.stdout).into_owned()))
            }
        }
    }
}

fn with_environment(command: &str) -> String {
    let environment = "MOORLINE_URL=http://127.0.0.1:8471 MOORLINE_TOKEN_FILE=/tmp/control/admin.token";
    format!("export {environment}\n{command}")
}
