//! What the configuration file says about VMs: the tables `[vm]`, `[qemu]`, `[images.NAME]` and `[external]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_shared::id::ImageName;
use serde::Deserialize;

use super::plan::Patience;

/// `[images.NAME]`: what instances of that image boot from. Either a kernel or a disk, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// A Linux kernel that QEMU loads by itself.
    pub kernel: Option<PathBuf>,
    /// Its initramfs.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
    /// A disk. Each instance writes into an overlay of its own, which ends with the instance; the disk is only
    /// read, and must stay as it is for as long as instances of it exist.
    pub disk: Option<PathBuf>,
    /// The disk's format.
    pub disk_format: DiskFormat,
    /// Firmware instead of QEMU's own, for UEFI.
    pub firmware: Option<PathBuf>,
    /// Arguments of QEMU for this image, after those of `[qemu]`; the same placeholders.
    pub arguments: Vec<String>,
}

impl Image {
    /// The files that it is made of, which the VM's processes read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.kernel, &self.initrd, &self.disk, &self.firmware];
        files.into_iter().flatten().map(PathBuf::as_path)
    }
}

/// How a disk is laid out in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's own.
    #[default]
    Qcow2,
    /// Byte by byte.
    Raw,
}

impl DiskFormat {
    /// As QEMU calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The images that this host can boot, by name.
pub type Images = BTreeMap<ImageName, Image>;

/// How guests are executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM, if a kernel of the images boots with it when the first VM is to start; else emulation. That
    /// `/dev/kvm` opens proves nothing: there are machines where it does and no guest ever runs.
    #[default]
    Auto,
    /// KVM. VMs fail to start where it can't be had.
    Kvm,
    /// Emulation, which needs nothing and is slow.
    Tcg,
}

/// Where guests get their vsock from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VsockDevice {
    /// The kernel's where `/dev/vhost-vsock` opens and the daemon listens on `AF_VSOCK`, else a process.
    #[default]
    Auto,
    /// The kernel's, with a CID that the daemon leases for each life.
    Vhost,
    /// A `vhost-device-vsock` process beside each VM.
    VhostUser,
}

/// What becomes of what a guest writes to its serial console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Console {
    /// QEMU keeps the last 64 KiB in memory.
    #[default]
    Ring,
    /// All of it goes to `console.log` in the VM's folder, without any bound: for a lab, not for guests of others.
    File,
}

/// `[qemu]`: how VMs are started.
///
/// In `arguments`, `{instance}` is replaced by the instance's id and `{folder}` by the folder in which its QEMU
/// works, which only the VMM's user can enter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QemuConfig {
    /// The emulator: a path, or a name to look for in `PATH`.
    pub binary: PathBuf,
    /// Makes the overlays of images with a disk.
    pub qemu_img: PathBuf,
    /// The machine type.
    pub machine: String,
    /// How guests are executed.
    pub accel: Accel,
    /// Where guests get their vsock from.
    pub vsock: VsockDevice,
    /// The vsock device for hosts without `/dev/vhost-vsock`.
    pub vsock_device: PathBuf,
    /// The lowest CID that is leased; 3 is the lowest that a guest can have.
    pub first_cid: u32,
    /// The guest's serial console.
    pub console: Console,
    /// More arguments of QEMU.
    pub arguments: Vec<String>,
    /// The first of 65,536 user ids without a name, of which each VM gets one; the daemon must run as root. Absent:
    /// VMs run as the daemon's user, and one that breaks out of its QEMU is where the daemon is.
    pub user_base: Option<u32>,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            qemu_img: "qemu-img".into(),
            machine: "q35".to_owned(),
            accel: Accel::default(),
            vsock: VsockDevice::default(),
            vsock_device: "vhost-device-vsock".into(),
            first_cid: 3,
            console: Console::default(),
            arguments: Vec::new(),
            user_base: None,
        }
    }
}

/// `[vm]`: what holds for all VMs that the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmConfig {
    /// How long a guest may take from its power button to its end, in seconds.
    pub stop_seconds: u32,
    /// How long its VMM may take after that, in seconds, before it is killed.
    pub quit_seconds: u32,
    /// The first pause after a failed start, in seconds; each further one is twice as long, up to five minutes.
    pub retry_seconds: u32,
    /// How many VMs are being started at once.
    pub starts_at_once: u32,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            stop_seconds: 10,
            quit_seconds: 5,
            retry_seconds: 1,
            starts_at_once: 4,
        }
    }
}

impl VmConfig {
    /// The deadlines of a stop.
    pub fn patience(&self) -> Patience {
        Patience {
            guest: Duration::from_secs(self.stop_seconds.into()),
            vmm: Duration::from_secs(self.quit_seconds.into()),
        }
    }
}

/// `[external]`: VMs that somebody else runs and registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExternalConfig {
    /// Hybrid vsock sockets must lie beneath one of these folders. Who may write there can offer a socket in a
    /// VM's place until that is registered, so they belong to the VM manager alone.
    pub directories: Vec<PathBuf>,
}

/// What of these tables can't be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// An image without anything to boot.
    #[error("images.{0}: give a kernel or a disk to boot from")]
    NothingToBoot(ImageName),
    /// A CID that no guest can have.
    #[error("qemu.first_cid is {0}: the lowest CID of a guest is 3, and the highest 4294967294")]
    FirstCid(u32),
    /// Nothing would ever be started.
    #[error("vm.starts_at_once is 0: it must be at least 1")]
    NoStarts,
    /// A folder by a relative path.
    #[error("{field} '{}' is not an absolute path", path.display())]
    Relative {
        /// The key.
        field: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// User ids that are others'.
    #[error("qemu.user_base is {0}: it must leave room for 65,536 ids above the 65,536 that have names")]
    UserBase(u32),
}

/// The four tables together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `[vm]`
    pub vm: VmConfig,
    /// `[qemu]`
    pub qemu: QemuConfig,
    /// `[images.NAME]`
    pub images: Images,
    /// `[external]`
    pub external: ExternalConfig,
}

impl Tables {
    /// Refuses what can't work, naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bare = |image: &Image| image.kernel.is_none() && image.disk.is_none();
        if let Some((name, _)) = self.images.iter().find(|(_, image)| bare(image)) {
            return Err(ConfigError::NothingToBoot(name.clone()));
        }
        if !(3..u32::MAX).contains(&self.qemu.first_cid) {
            return Err(ConfigError::FirstCid(self.qemu.first_cid));
        }
        if self.vm.starts_at_once == 0 {
            return Err(ConfigError::NoStarts);
        }
        if let Some(base) = self
            .qemu
            .user_base
            .filter(|base| !(65_536..u32::MAX - 65_536).contains(base))
        {
            return Err(ConfigError::UserBase(base));
        }
        let relative = self.external.directories.iter().find(|path| path.is_relative());
        relative.map_or(Ok(()), |path| {
            Err(ConfigError::Relative {
                field: "external.directories",
                path: path.clone(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Accel, ConfigError, Console, Image, QemuConfig, Tables};

    #[test]
    fn the_tables_parse() {
        let image: Image = toml::from_str("kernel = '/k'\ninitrd = '/i'\nappend = 'quiet'").unwrap();
        assert_eq!(image.kernel, Some("/k".into()));
        let qemu: QemuConfig = toml::from_str("accel = 'tcg'\nconsole = 'file'").unwrap();
        assert_eq!((qemu.accel, qemu.console), (Accel::Tcg, Console::File));
        assert!(toml::from_str::<QemuConfig>("acell = 'tcg'").is_err());
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let mut tables = Tables::default();
        assert_eq!(tables.check(), Ok(()));
        tables.qemu.first_cid = 2;
        assert_eq!(tables.check(), Err(ConfigError::FirstCid(2)));
        tables.images.insert("empty".parse().unwrap(), Image::default());
        assert_eq!(
            tables.check(),
            Err(ConfigError::NothingToBoot("empty".parse().unwrap()))
        );
    }
}
