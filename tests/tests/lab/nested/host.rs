//! The lab guest that is the host, and what is said to it.

use super::{PATIENCE, host_image};
use anyhow::{Context, Result};
use moorline_lab::guest::{Guest, GuestOptions, Seats};
use moorline_lab::setup::Tools;
use serde_json::Value;
use std::time::Instant;

/// A system, the daemons, QEMU and two guests.
const MEMORY_MIB: u32 = 1536;

/// The host, and when it was up.
pub(super) struct Host {
    pub(super) guest: Guest,
    begun: Instant,
}

/// What is known of an instance's VM.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vm {
    pub(super) pid: u64,
    pub(super) cid: u64,
    /// The host's boot in which it runs.
    pub(super) boot: String,
}

impl Host {
    pub(super) async fn boot(seats: &Seats, tools: &Tools) -> Result<Self> {
        let options = GuestOptions::new(&host_image(tools).await?).memory_mib(MEMORY_MIB);
        let guest = Guest::boot(seats, tools, options.rebooting()).await?;
        println!("the host was up after {:.1?}", guest.boot_time());
        let begun = Instant::now();
        Ok(Self { guest, begun })
    }

    /// Has the host reboot, and waits until it takes commands again.
    pub(super) async fn reboot(self) -> Result<Self> {
        let guest = self.guest.reboot(PATIENCE).await?;
        Ok(Self { guest, ..self })
    }

    /// Says how far it has come.
    pub(super) fn has_come_to(&self, what: &str) {
        println!("{what} after {:.1?}", self.begun.elapsed());
    }

    /// Instances whose VMs run, by their ids.
    pub(super) async fn run_instances(&self, count: u32) -> Result<Vec<String>> {
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
    pub(super) async fn wait_until_connected(&self, id: &str) -> Result<()> {
        let status =
            format!("curl -s --unix-socket /run/moorline/host/admin.sock http://host/v1/instances/{id}");
        self.wait_for(&format!("{status} | grep '\"applied\"'")).await
    }

    /// The instance's VM, by the daemon's record.
    pub(super) async fn vm(&self, id: &str) -> Result<Vm> {
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
            boot: record["life"]["boot"].as_str().context("a boot")?.to_owned(),
        })
    }

    /// What a command of root's says in an instance's guest.
    pub(super) async fn in_guest(&self, id: &str, command: &str) -> Result<String> {
        self.answer(&asking_guest(id, command)).await
    }

    /// Runs it there again and again until it succeeds.
    pub(super) async fn wait_in_guest(&self, id: &str, command: &str) -> Result<()> {
        self.wait_for(&asking_guest(id, command)).await
    }

    /// The number of the session that the instance's guest has.
    pub(super) async fn session(&self, id: &str) -> Result<u64> {
        let status =
            format!("curl -s --unix-socket /run/moorline/host/admin.sock http://host/v1/instances/{id}");
        let status: Value =
            serde_json::from_str(&self.answer(&status).await?).context("the guest's status")?;
        let session = status
            .pointer("/guest/connection/session")
            .and_then(Value::as_u64);
        session.with_context(|| format!("no session in {status}"))
    }

    pub(super) async fn answer(&self, command: &str) -> Result<String> {
        let output = self.guest.run(with_environment(command)).await?;
        output.text()
    }

    pub(super) async fn sh(&self, command: &str) -> Result<()> {
        self.answer(command).await.map(drop)
    }

    pub(super) async fn wait_for(&self, command: &str) -> Result<()> {
        let came = self.guest.wait_for(with_environment(command), PATIENCE).await;
        match came {
            Ok(_) => Ok(()),
            Err(error) => {
                let logs = self
                    .guest
                    .run("journalctl --no-pager -n 40 -u 'moorline-*'")
                    .await?;
                Err(error.context(String::from_utf8_lossy(&logs.stdout).into_owned()))
            }
        }
    }
}

/// The host's command that has root run another, without single quotes, in an instance's guest.
fn asking_guest(id: &str, command: &str) -> String {
    let control = format!("/var/lib/moorline/host/vms/{id}/run/control.sock");
    format!("lab-guest ask {control} 0 '{command}'")
}

fn with_environment(command: &str) -> String {
    let environment =
        "MOORLINE_URL=https://127.0.0.1:8471 MOORLINE_TOKEN_FILE=/var/lib/moorline/control/admin.token";
    format!("export {environment}\n{command}")
}
