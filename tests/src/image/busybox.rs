//! A guest that is nothing but an initramfs: busybox, and what the caller puts in.
//!
//! Its first process is the script `busybox-init` beside this file. It has busybox's applets, curl with its shared
//! libraries, and the lab's helper.

use super::cpio::Archive;
use super::{Image, Parts, libraries, modules};
use crate::process;
use crate::setup::Tools;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Devices of a guest: its PCI bus, its vsock, the port of the lab's helper, what a VM manager passes in, and its
/// power button with the events of it.
const MODULES: &[&str] = &[
    "virtio_pci",
    "vmw_vsock_virtio_transport",
    "virtio_console",
    "qemu_fw_cfg",
    "evdev",
    "button",
];

/// Words for the kernel: the console goes to a file, and a guest that can't go on ends.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// Where the agent lies in the guest; `init` keeps it running.
const AGENT: &str = "usr/bin/moorline-agent";

/// What busybox's `acpid` runs when the power button was pressed.
const POWER_BUTTON: &str = "etc/acpi/PWRF/00000080";

/// What goes into a busybox image besides busybox.
#[derive(Debug, Clone, Default)]
pub struct Busybox {
    programs: Vec<(String, PathBuf)>,
    modules: Vec<String>,
}

impl Busybox {
    /// An image without an agent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in the agent, a statically linked program; the guest starts it and starts it again when it ends.
    ///
    /// With it comes the kernel's module by which its metadata service knows whose a connection is.
    #[must_use]
    pub fn agent(self, program: impl Into<PathBuf>) -> Self {
        self.program(AGENT, program).module("tcp_diag")
    }

    /// Puts `program` at `path` in the guest (without the leading slash), with the libraries it needs.
    #[must_use]
    pub fn program(mut self, path: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        self.programs.push((path.into(), program.into()));
        self
    }

    /// Has the guest load one more of the kernel's modules, and those that it needs.
    #[must_use]
    pub fn module(mut self, name: impl Into<String>) -> Self {
        self.modules.push(name.into());
        self
    }

    /// Builds the image, or finds it built.
    ///
    /// Fails when a program or module is missing, or the cache can't be written.
    pub async fn build(&self, tools: &Tools) -> Result<Image> {
        let kernel = modules::Kernel::open(&tools.kernel)?;
        let parts = Parts {
            kind: "busybox",
            kernel: &kernel.image,
            initrd: &self.initramfs(tools, &kernel).await?,
            command_line: COMMAND_LINE,
        };
        parts.keep(tools)
    }

    async fn initramfs(&self, tools: &Tools, kernel: &modules::Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        skeleton(&mut archive);
        applets(&mut archive, &tools.busybox).await?;
        let more = self.modules.iter().map(String::as_str);
        kernel.add(&mut archive, MODULES.iter().copied().chain(more))?;
        let helper = ("usr/bin/lab-guest".to_owned(), tools.guest_helper.clone());
        let curl = ("usr/bin/curl".to_owned(), PathBuf::from("/usr/bin/curl"));
        for (path, program) in [helper, curl].iter().chain(&self.programs) {
            let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
            archive.file(path, 0o755, &bytes);
        }
        let programs = self.programs.iter().map(|(_, program)| program.as_path());
        libraries::add(&mut archive, programs.chain([Path::new("/usr/bin/curl")])).await?;
        Ok(archive.finish())
    }
}

/// Folders, the console that the kernel gives to `init`, accounts, and `init` itself.
fn skeleton(archive: &mut Archive) {
    for folder in [
        "dev",
        "proc",
        "sys",
        "run",
        "etc",
        "lib/modules",
        "var/log",
        "var/lib",
    ] {
        archive.folder(folder, 0o755, 0);
    }
    archive.folder("root", 0o700, 0);
    archive.folder("tmp", 0o1777, 0);
    archive.folder("home/user", 0o755, moorline_lab_guest::ORDINARY_UID);
    archive.console();
    archive.file("init", 0o755, include_bytes!("busybox-init"));
    archive.file(POWER_BUTTON, 0o755, include_bytes!("power-button"));
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
}

/// Busybox under the names of all that it can be.
pub(super) async fn applets(archive: &mut Archive, program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    archive.file("bin/busybox", 0o755, &bytes);
    for applet in process::finish(Command::new(program).arg("--list-full"))
        .await?
        .lines()
    {
        if applet != "bin/busybox" && applet != "init" {
            archive.link(applet, "/bin/busybox");
        }
    }
    Ok(())
}
