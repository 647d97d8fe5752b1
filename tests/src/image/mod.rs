//! Guest images: a stock Debian kernel and an initramfs with busybox.
//!
//! The initramfs is a `cpio` archive, made in memory from its parts: the `init` script beside this file,
//! busybox and its applets, the `modules` that the guest's devices need, `curl` with its shared
//! `libraries`, the lab's helper, and what the caller puts in. The image is named by the digest of the
//! archive and the kernel, so that the cache can't hold an outdated one.

mod cpio;
mod libraries;
mod modules;

use crate::process;
use crate::setup::Tools;
use anyhow::{Context, Result};
use cpio::Archive;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};
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

/// Images that nobody used for this long are removed when there are more than [`IMAGES_KEPT`].
const OUT_OF_USE: Duration = Duration::from_hours(1);
const IMAGES_KEPT: usize = 10;

/// What a guest boots from: three files in a folder of the lab's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The folder, named by the digest of what is in it.
    pub folder: PathBuf,
    /// The compressed kernel, for QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// The initramfs, for QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// The kernel's command line, for QEMU's `-append`; also in the file `cmdline` of the folder.
    pub command_line: String,
}

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
    #[must_use]
    pub fn agent(self, program: impl Into<PathBuf>) -> Self {
        self.program(AGENT, program)
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
        let initrd = self.initramfs(tools, &kernel).await?;
        let vmlinuz = fs::read(&kernel.image).with_context(|| format!("read {}", kernel.image.display()))?;
        let digest = Sha256::new()
            .chain_update(&vmlinuz)
            .chain_update(&initrd)
            .finalize();
        let name = Path::new("images").join(format!("busybox-{:.16}", format!("{digest:x}")));
        let folder = tools.cache.path(&name);
        if !folder.is_dir() {
            let workshop = tools.cache.workshop()?;
            write(workshop.path(), "vmlinuz", &vmlinuz)?;
            write(workshop.path(), "initrd", &initrd)?;
            write(workshop.path(), "cmdline", COMMAND_LINE.as_bytes())?;
            workshop.keep_as(&name)?;
        }
        mark_used_and_prune(&folder)?;
        Ok(Image {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            command_line: COMMAND_LINE.to_owned(),
            folder,
        })
    }

    async fn initramfs(&self, tools: &Tools, kernel: &modules::Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        skeleton(&mut archive);
        busybox(&mut archive, &tools.busybox).await?;
        self.add_modules(&mut archive, kernel)?;
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

    /// The modules, numbered in the order in which `init` has to load them.
    fn add_modules(&self, archive: &mut Archive, kernel: &modules::Kernel) -> Result<()> {
        let wanted = MODULES
            .iter()
            .copied()
            .chain(self.modules.iter().map(String::as_str));
        for (place, module) in kernel.load_order(wanted)?.iter().enumerate() {
            archive.file(
                &format!("lib/modules/{place:02}-{}.ko", module.name),
                0o644,
                &module.bytes,
            );
        }
        Ok(())
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
    archive.file("init", 0o755, include_bytes!("init"));
    archive.file(POWER_BUTTON, 0o755, include_bytes!("power-button"));
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
}

async fn busybox(archive: &mut Archive, program: &Path) -> Result<()> {
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

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Every build of the agent makes an image of its own; only the latest used ones are worth their space.
fn mark_used_and_prune(image: &Path) -> Result<()> {
    let images = image.parent().expect("an image lies in the folder of images");
    mark_used(image).with_context(|| format!("mark {} as used", image.display()))?;
    for outdated in out_of_use(images).with_context(|| format!("list {}", images.display()))? {
        // Another lab may have removed it just now.
        let _ = fs::remove_dir_all(outdated);
    }
    Ok(())
}

fn mark_used(image: &Path) -> io::Result<()> {
    fs::File::open(image)?.set_modified(SystemTime::now())
}

fn out_of_use(images: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let mut ages = Vec::new();
    for entry in images.read_dir()? {
        let path = entry?.path();
        ages.push((path.metadata()?.modified()?.elapsed().unwrap_or_default(), path));
    }
    ages.sort();
    let outdated = ages
        .into_iter()
        .skip(IMAGES_KEPT)
        .filter(|(age, _)| *age > OUT_OF_USE);
    Ok(outdated.map(|(_, path)| path))
}
