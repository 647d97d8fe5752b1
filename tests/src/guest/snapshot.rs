//! Guests that are saved to a file as they run, and go on from it in another QEMU, once or more often.
//!
//! A vhost-user device can't be saved. It is in a slot that it is taken out of before, as a VM manager does it, and the
//! guest that goes on is given another one.

use super::monitor::Monitor;
use super::{CONTROL, Control, Guest, GuestOptions, Seats, Start, start_qemu, start_vsock_device};
use crate::setup::Tools;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each step may take on a machine that builds meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// What QEMU calls the guest's vsock device.
const DEVICE: &str = "guest-vsock";
/// The slot that it is in.
const SLOT: &str = "vsock-slot";

/// QEMU's arguments for a slot, and for the id of the machine's generation.
pub(super) fn arguments() -> Vec<String> {
    let slot = format!("pcie-root-port,id={SLOT},chassis=1");
    ["-device", &slot, "-device", "vmgenid,guid=auto"]
        .map(str::to_owned)
        .to_vec()
}

/// QEMU's argument for a vsock device that can be taken out.
pub(super) fn device() -> String {
    format!("vhost-user-vsock-pci,chardev=vsock,bus={SLOT},id={DEVICE}")
}

impl Guest {
    /// Saves the guest as it is, and ends it. It must have been booted as one that [can be](GuestOptions::saveable).
    pub async fn save(mut self, to: &Path) -> Result<()> {
        let mut monitor = Monitor::connect(self.folder.path()).await?;
        monitor.ask("device_del", &json!({"id": DEVICE})).await?;
        let unplugged = |told: &Value| told["event"] == "DEVICE_DELETED" && told["data"]["device"] == DEVICE;
        monitor.until(unplugged, PATIENCE).await?;
        monitor.ask("stop", &json!({})).await?;
        let file = format!("exec:cat > '{}'", to.display());
        monitor.ask("migrate", &json!({"uri": file})).await?;
        let saved = async || {
            let told = monitor.ask("query-migrate", &json!({})).await.ok()?;
            let status = told["status"].as_str()?.to_owned();
            matches!(&*status, "completed" | "failed").then_some(status)
        };
        let status = wait::until("the guest to be saved", PATIENCE, saved).await?;
        ensure!(status == "completed", "the guest could not be saved");
        self.qemu.kill().await?;
        self.vsock_device.kill().await
    }

    /// A guest that goes on where one was saved that had been booted with the same options.
    pub async fn restore(_seats: &Seats, tools: &Tools, options: GuestOptions, from: &Path) -> Result<Self> {
        let begun = Instant::now();
        let folder = super::folder()?;
        let vsock = options.vsock_path(folder.path());
        let vsock_device = start_vsock_device(tools, folder.path(), &vsock).await?;
        let qemu = start_qemu(folder.path(), &options, Start::Saved(from))?;
        let goes_on = go_on(folder.path()).await;
        goes_on.with_context(|| format!("{}\n{}", qemu.last_words(), vsock_device.last_words()))?;
        let control = Control::connect(&folder.path().join(CONTROL), PATIENCE).await?;
        Ok(Self {
            control,
            qemu,
            vsock_device,
            vsock,
            boot_time: begun.elapsed(),
            folder,
        })
    }
}

/// Waits until QEMU has read all of the guest, lets it run, and gives it its vsock device.
async fn go_on(folder: &Path) -> Result<()> {
    let mut monitor = Monitor::connect(folder).await?;
    let read = async || {
        let told = monitor.ask("query-status", &json!({})).await.ok()?;
        (told["status"] == "paused").then_some(())
    };
    wait::until("the guest to be read", PATIENCE, read).await?;
    monitor.ask("cont", &json!({})).await?;
    let device = json!({"driver": "vhost-user-vsock-pci", "chardev": "vsock", "bus": SLOT, "id": DEVICE});
    monitor.ask("device_add", &device).await.map(drop)
}
