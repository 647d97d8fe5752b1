//! A guest with a real system: Debian, as the lab's own machine has it, with systemd, on a disk.
//!
//! The disk holds Debian's packages and nothing of ours, so that it is made once and shared. What else there is lies in the
//! initramfs, whose first process, the script `debian-init` beside this file, lays files over the disk and installs our
//! packages before systemd starts. The disk stays as it is: QEMU keeps what a guest writes for as long as it runs.

use super::cpio::Archive;
use super::{Image, Parts, busybox, modules};
use crate::setup::{Tools, packages};
use crate::{process, progress};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// What makes the disk.
const MAKERS: &[&str] = &["mmdebstrap", "e2fsprogs"];

/// What every guest of this kind has beside Debian's essential packages.
const PACKAGES: &[&str] = &["systemd-sysv", "udev", "kmod", "curl"];

/// What the initramfs needs to find the disk; systemd's udev finds everything else.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 systemd.show_status=0";

/// Much more than the packages need; the file has holes where nothing is.
const DISK_SIZE: &str = "4G";

/// Runs the lab's helper in the guest.
const HELPER_UNIT: &str = "etc/systemd/system/lab-guest.service";
const HELPER_WANTED: &str = "etc/systemd/system/multi-user.target.wants/lab-guest.service";

/// What goes into a Debian image besides the base system.
#[derive(Debug, Clone, Default)]
pub struct Debian {
    packages: BTreeSet<&'static str>,
    installed: Vec<PathBuf>,
    files: Vec<Placed>,
}

/// A file of the guest.
#[derive(Debug, Clone)]
struct Placed {
    path: String,
    mode: u32,
    contents: Contents,
}

#[derive(Debug, Clone)]
enum Contents {
    Bytes(Vec<u8>),
    CopyOf(PathBuf),
    LinkTo(String),
}

impl Debian {
    /// The base system: systemd, udev and curl.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a package with all that it depends on.
    #[must_use]
    pub fn package(mut self, name: &'static str) -> Self {
        self.packages.insert(name);
        self
    }

    /// Has a package in this file installed before anything of the system runs, as `dpkg --install` does.
    ///
    /// What it depends on must be there. Where it is installed already, as in a guest that keeps its disk, nothing is done.
    #[must_use]
    pub fn installed(mut self, package: impl Into<PathBuf>) -> Self {
        self.installed.push(package.into());
        self
    }

    /// Puts `program` at `path` in the guest (without the leading slash).
    #[must_use]
    pub fn program(self, path: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        self.placed(path, 0o755, Contents::CopyOf(program.into()))
    }

    /// Puts a file of root's with these bytes at `path` in the guest (without the leading slash).
    #[must_use]
    pub fn file(self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.placed(path, 0o644, Contents::Bytes(bytes.into()))
    }

    /// Puts a symbolic link at `path` in the guest (without the leading slash).
    #[must_use]
    pub fn link(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.placed(path, 0o777, Contents::LinkTo(target.into()))
    }

    /// Has a unit of a package's started with this target, as `systemctl enable` does.
    #[must_use]
    pub fn enabled(self, unit: &str, with: &str) -> Self {
        self.link(
            format!("etc/systemd/system/{with}.wants/{unit}.service"),
            format!("/lib/systemd/system/{unit}.service"),
        )
    }

    fn placed(mut self, path: impl Into<String>, mode: u32, contents: Contents) -> Self {
        self.files.push(Placed {
            path: path.into(),
            mode,
            contents,
        });
        self
    }

    /// Builds the image, or finds it built. The first time it takes a minute to make the disk.
    ///
    /// Fails without root, when a package can't be had, or when the cache can't be written.
    pub async fn build(&self, tools: &Tools) -> Result<Image> {
        let kernel = modules::Kernel::open(&tools.kernel)?;
        let disk = self.disk(tools, &kernel).await?;
        let parts = Parts {
            kind: "debian",
            kernel: &kernel.image,
            initrd: &self.initramfs(tools, &kernel).await?,
            command_line: COMMAND_LINE,
        };
        let image = parts.keep(tools)?;
        Ok(Image {
            disk: Some(disk),
            ..image
        })
    }

    async fn initramfs(&self, tools: &Tools, kernel: &modules::Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::new();
        for folder in ["dev", "disk", "proc", "sys", "lib/modules", "files", "packages"] {
            archive.folder(folder, 0o755, 0);
        }
        archive.console();
        archive.file("init", 0o755, include_bytes!("debian-init"));
        busybox::applets(&mut archive, &tools.busybox).await?;
        kernel.add(&mut archive, MODULES.iter().copied())?;
        add_helper(&mut archive, &tools.guest_helper)?;
        for package in &self.installed {
            let name = package.file_name().and_then(|name| name.to_str());
            let name = name.context("a package's file has a name")?;
            archive.file(&format!("packages/{name}"), 0o644, &read(package)?);
        }
        for Placed { path, mode, contents } in &self.files {
            let path = format!("files/{path}");
            match contents {
                Contents::Bytes(bytes) => archive.file(&path, *mode, bytes),
                Contents::CopyOf(file) => archive.file(&path, *mode, &read(file)?),
                Contents::LinkTo(target) => archive.link(&path, target),
            }
        }
        Ok(archive.finish())
    }

    /// The disk, from the cache if it is there.
    async fn disk(&self, tools: &Tools, kernel: &modules::Kernel) -> Result<PathBuf> {
        let packages: BTreeSet<_> = self.packages.iter().chain(PACKAGES).copied().collect();
        let packages: Vec<_> = packages.into_iter().collect();
        let packages = packages.join(",");
        let release = Release::of_this_machine().await?;
        let recipe = Sha256::new()
            .chain_update(&packages)
            .chain_update(&release.name)
            .chain_update(kernel.folder.as_os_str().as_encoded_bytes())
            .finalize();
        let name = Path::new("disks").join(format!("debian-{:.16}", format!("{recipe:x}")));
        let _lock = tools.cache.lock().await?;
        let folder = tools.cache.path(&name);
        if !folder.is_dir() {
            packages::installed(MAKERS).await?;
            let workshop = tools.cache.workshop()?;
            let step = format!("make a {} disk with {packages}", release.name);
            progress::step(&step, make_disk(workshop.path(), &release, &packages, kernel)).await?;
            workshop.keep_as(&name)?;
        }
        Ok(folder.join("disk.ext4"))
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// The lab's helper, started by systemd once udev has found its port.
fn add_helper(archive: &mut Archive, helper: &Path) -> Result<()> {
    archive.file("files/usr/bin/lab-guest", 0o755, &read(helper)?);
    archive.file(
        &format!("files/{HELPER_UNIT}"),
        0o644,
        include_bytes!("lab-guest.service"),
    );
    archive.link(&format!("files/{HELPER_WANTED}"), &format!("/{HELPER_UNIT}"));
    // The helper runs what the guest's ordinary user runs in that user's home.
    archive.file("files/home/user/.hushlogin", 0o644, b"");
    Ok(())
}

/// A release of Debian, and where its packages come from.
struct Release {
    name: String,
    /// Lines for apt, each of which names a source.
    sources: String,
}

impl Release {
    /// What this machine is, and where it gets Debian's packages from; other sources it has don't count.
    async fn of_this_machine() -> Result<Self> {
        let about = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let name = about
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("/etc/os-release names no release; the lab's set-up needs Debian")?;
        let listing = [
            "indextargets",
            "--format",
            "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)",
        ];
        let mut apt_get = Command::new("apt-get");
        let targets = process::finish(apt_get.args(listing).arg("Created-By: Packages")).await?;
        let debian = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
        let sources = debian.fold(String::new(), |sources, line| sources + "deb " + line + "\n");
        ensure!(
            !sources.is_empty(),
            "apt knows no packages of Debian's; run: apt-get update"
        );
        Ok(Self {
            name: name.to_owned(),
            sources,
        })
    }
}

/// Makes `disk.ext4` in the folder.
async fn make_disk(folder: &Path, release: &Release, packages: &str, kernel: &modules::Kernel) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can make the disk of a Debian guest; run the lab as root");
    }
    let sources = folder.join("debian.list");
    fs::write(&sources, &release.sources).context("write the list of sources")?;
    let root = folder.join("root");
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
        ])
        .arg(format!("--include={packages}"))
        .arg(&release.name)
        .args([&root, &sources]);
    process::finish(&mut bootstrap).await?;
    add_modules(&root, kernel).await?;
    // There, and empty: the guest makes itself an identity without taking this for the first boot of a new machine.
    fs::write(root.join("etc/machine-id"), "").context("empty the machine's identity")?;
    fs::write(root.join("etc/hostname"), "guest\n").context("name the machine")?;
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"])
        .args([&root, &folder.join("disk.ext4")])
        .arg(DISK_SIZE);
    process::finish(&mut make).await?;
    fs::remove_dir_all(&root).context("remove what the disk was made from")
}

/// The kernel comes from outside of the disk; its modules must be on it all the same.
async fn add_modules(root: &Path, kernel: &modules::Kernel) -> Result<()> {
    let modules = root.join("usr/lib/modules");
    fs::create_dir_all(&modules).context("create the folder of the modules")?;
    process::finish(Command::new("cp").arg("-a").args([&kernel.folder, &modules])).await?;
    let version = kernel.folder.file_name().context("the kernel has a version")?;
    process::finish(Command::new("chroot").arg(root).arg("depmod").arg(version)).await?;
    Ok(())
}
