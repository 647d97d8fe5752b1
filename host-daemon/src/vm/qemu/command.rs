//! The command line of a VM's QEMU, as a pure function of what the VM is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use moorline_shared::link::proof::FW_CFG_NAME;

use crate::vm::config::{Console, Image, QemuConfig};

/// What QEMU refuses to do for whoever takes it over: no old system calls, no more rights than it has, no
/// programs, no change of its own priorities.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// For the guest's last words, in QEMU's memory.
const RING_BYTES: u32 = 64 * 1024;

/// Where a VM's QEMU finds its vsock device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// The kernel's, as QEMU's standard input, with this CID.
    Kernel {
        /// Leased.
        cid: u32,
    },
    /// A process behind `device.sock` in its folder.
    Process,
}

/// How the guest's instructions are executed, once that is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// By the processor.
    Kvm,
    /// By translation.
    Tcg,
}

impl Engine {
    /// What goes behind `accel=`, and the processor that fits.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Kvm => ("kvm", "host"),
            Self::Tcg => ("tcg", "max"),
        }
    }
}

/// A VM that is to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) instance: InstanceId,
    pub(super) config: &'a QemuConfig,
    pub(super) image: &'a Image,
    pub(super) vcpus: u32,
    pub(super) memory_mib: u64,
    pub(super) engine: Engine,
    pub(super) device: Device,
    pub(super) folder: &'a Path,
}

/// Where the daemon finds a VM's QEMU.
pub(super) fn qmp_socket(folder: &Path) -> PathBuf {
    folder.join("qmp.sock")
}

/// Where QEMU finds its vsock device.
pub(super) fn device_socket(folder: &Path) -> PathBuf {
    folder.join("device.sock")
}

/// Where QEMU finds the guest's link key while it starts.
pub(super) fn link_key(folder: &Path) -> PathBuf {
    folder.join("link-key")
}

/// What a VM writes to instead of its image's disk.
pub(super) fn overlay(folder: &Path) -> PathBuf {
    folder.join("disk.qcow2")
}

impl Machine<'_> {
    /// QEMU's arguments, without its name.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut line = Line::default();
        self.frame(&mut line);
        self.identity(&mut line);
        self.boot(&mut line);
        self.vsock(&mut line);
        self.console(&mut line);
        for argument in self.config.arguments.iter().chain(&self.image.arguments) {
            line.0.push(self.fill_in(argument));
        }
        line.0
    }

    fn frame(&self, line: &mut Line) {
        let (accel, cpu) = self.engine.words();
        let machine = &self.config.machine;
        let memory = self.memory_mib;
        line.add(
            "-machine",
            format!("{machine},accel={accel},memory-backend=memory"),
        );
        line.add("-cpu", cpu);
        line.add("-smp", self.vcpus.to_string());
        line.add("-m", format!("{memory}M"));
        line.add(
            "-object",
            format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        );
        for flag in ["-nodefaults", "-no-user-config"] {
            line.0.push(flag.into());
        }
        line.add("-display", "none");
        line.add("-nic", "none");
        line.add("-sandbox", SANDBOX);
        // A guest that powers off leaves its QEMU behind, paused, so that a daemon that was away can tell it from a
        // QEMU that was lost. A guest that restarts does so within the same life.
        line.add("-action", "shutdown=pause,reboot=reset");
        line.add(
            "-chardev",
            with_path("socket,id=qmp,server=on,wait=off,path=", &qmp_socket(self.folder)),
        );
        line.add("-mon", "chardev=qmp,mode=control");
        line.add("-device", "virtio-rng-pci");
        line.add("-device", "vmgenid,guid=auto");
    }

    fn identity(&self, line: &mut Line) {
        let Self { instance, .. } = self;
        line.add("-name", format!("guest={instance},debug-threads=on"));
        line.add("-uuid", instance.uuid().hyphenated().to_string());
        line.add(
            "-smbios",
            format!("type=1,manufacturer=Moorline,product=Instance,serial={instance}"),
        );
    }

    fn boot(&self, line: &mut Line) {
        let paths = [
            ("-bios", &self.image.firmware),
            ("-kernel", &self.image.kernel),
            ("-initrd", &self.image.initrd),
        ];
        for (name, path) in paths {
            if let Some(path) = path {
                line.add(name, path);
            }
        }
        if let Some(append) = &self.image.append {
            line.add("-append", append);
        }
        if self.image.disk.is_some() {
            let overlay = with_path("if=virtio,format=qcow2,file=", &overlay(self.folder));
            line.add("-drive", overlay);
        }
    }

    fn vsock(&self, line: &mut Line) {
        match self.device {
            // The descriptor is QEMU's standard input, which no other process can inherit by mistake.
            Device::Kernel { cid } => {
                line.add("-device", format!("vhost-vsock-pci,guest-cid={cid},vhostfd=0"));
            }
            Device::Process => {
                line.add(
                    "-chardev",
                    with_path("socket,id=vsock,path=", &device_socket(self.folder)),
                );
                line.add("-device", "vhost-user-vsock-pci,chardev=vsock");
                // By its name only: arguments can be read by everybody on the host.
                let item = format!("name={FW_CFG_NAME},file=");
                line.add("-fw_cfg", with_path(&item, &link_key(self.folder)));
            }
        }
    }

    fn console(&self, line: &mut Line) {
        let console = match self.config.console {
            Console::Ring => format!("ringbuf,id=console,size={RING_BYTES}").into(),
            Console::File => with_path("file,id=console,path=", &self.folder.join("console.log")),
        };
        line.add("-chardev", console);
        line.add("-serial", "chardev:console");
    }

    fn fill_in(&self, argument: &str) -> OsString {
        let mut parts = argument.split("{folder}");
        let mut filled = OsString::from(self.with_instance(parts.next().unwrap_or_default()));
        for part in parts {
            filled.push(self.folder);
            filled.push(self.with_instance(part));
        }
        filled
    }

    fn with_instance(&self, part: &str) -> String {
        part.replace("{instance}", &self.instance.to_string())
    }
}

/// An argument that ends with a path. QEMU takes a doubled comma for a comma in it.
fn with_path(before: &str, path: &Path) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = before.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.extend((byte == b',').then_some(b','));
        bytes.push(byte);
    }
    OsString::from_vec(bytes)
}

#[derive(Debug, Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Device, Engine, Machine};
    use crate::vm::config::{Image, QemuConfig};
    use moorline_shared::InstanceId;
    use std::path::Path;

    fn shown(machine: &Machine<'_>) -> String {
        let arguments = machine.arguments();
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ").replace(" -", "\n-")
    }

    #[test]
    fn an_emulated_machine_with_a_vsock_process() {
        let config = QemuConfig {
            arguments: vec![
                "-chardev".into(),
                "socket,id=lab,path={folder}/{instance}.sock".into(),
            ],
            ..QemuConfig::default()
        };
        let image = Image {
            kernel: Some("/images/vmlinuz".into()),
            initrd: Some("/images/initrd".into()),
            append: Some("console=ttyS0 panic=-1".into()),
            ..Image::default()
        };
        insta::assert_snapshot!(shown(&Machine {
            instance: InstanceId::from_bytes([7; 16]),
            config: &config,
            image: &image,
            vcpus: 1,
            memory_mib: 128,
            engine: Engine::Tcg,
            device: Device::Process,
            folder: Path::new("/state/a,b"),
        }));
    }

    #[test]
    fn a_virtualised_machine_with_a_disk_and_the_kernels_vsock() {
        let config = QemuConfig::default();
        let image = Image {
            disk: Some("/images/debian.qcow2".into()),
            firmware: Some("/images/OVMF.fd".into()),
            ..Image::default()
        };
        insta::assert_snapshot!(shown(&Machine {
            instance: InstanceId::from_bytes([7; 16]),
            config: &config,
            image: &image,
            vcpus: 4,
            memory_mib: 2048,
            engine: Engine::Kvm,
            device: Device::Kernel { cid: 7 },
            folder: Path::new("/state/run"),
        }));
    }
}
