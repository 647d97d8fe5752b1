//! Guests: virtual machines without a NIC, and the lab's word with what runs inside.
//!
//! [`Guest::boot`] starts one as a VM manager would: a vsock device and QEMU. What the lab then says to a
//! guest goes through [`Control`], which takes nothing but the path of the unix socket that QEMU connects to the
//! guest's virtio-serial port; so a guest that the host daemon started is talked with in the same way, given
//! these arguments for its QEMU: [`control_arguments`].
//!
//! Guests are emulated in software. Where KVM is at hand they would be quicker, but on a machine that is itself
//! virtual, `/dev/kvm` may open and then not run a stock kernel.

mod control;
mod monitor;
mod seats;
mod snapshot;

pub use control::{Control, Lines, Output, RUN_PATIENCE, Shell};
pub use moorline_lab_guest::Ending;
pub use seats::{Seats, seats};

use crate::image::Image;
use crate::process::{Running, last_lines_of, tied};
use crate::setup::Tools;
use crate::wait;
use anyhow::{Context, Result, bail};
use monitor::Monitor;
use moorline_lab_guest::PORT_NAME;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A guest is up within about two seconds on an idle machine; this is for one that builds meanwhile.
const BOOT_PATIENCE: Duration = Duration::from_mins(1);

/// Any number from 3 on: each guest has a vsock device of its own, which knows no other guest.
const GUEST_CID: u32 = 3;

/// How a guest is to be booted.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    image: Image,
    memory_mib: u32,
    vsock: Option<PathBuf>,
    command_line: String,
    saveable: Saveable,
    on_reboot: OnReboot,
}

/// Whether the guest can be saved as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saveable {
    Yes,
    No,
}

/// What becomes of a guest that reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnReboot {
    End,
    BeginAnew,
}

/// What a guest begins with.
#[derive(Debug, Clone, Copy)]
enum Start<'a> {
    /// Its image.
    Boot,
    /// What was saved of a guest.
    Saved(&'a Path),
}

impl GuestOptions {
    /// A guest with 128 MiB of memory, its vsock sockets in a folder of its own.
    pub fn new(image: &Image) -> Self {
        let command_line = image.command_line.clone();
        Self {
            image: image.clone(),
            memory_mib: 128,
            vsock: None,
            command_line,
            saveable: Saveable::No,
            on_reboot: OnReboot::End,
        }
    }

    /// A guest that can be [saved](Guest::save), which knows the generation of its machine.
    #[must_use]
    pub fn saveable(mut self) -> Self {
        self.saveable = Saveable::Yes;
        self
    }

    /// A guest that can [reboot](Guest::reboot), and finds its disk as it left it.
    #[must_use]
    pub fn rebooting(mut self) -> Self {
        self.on_reboot = OnReboot::BeginAnew;
        self
    }

    /// The guest's memory. QEMU takes it as the guest touches it.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Puts the vsock sockets elsewhere: a connection from the guest to CID 2, port P arrives at the unix
    /// socket `<path>_<P>`, on which whoever waits for it has to listen.
    #[must_use]
    pub fn vsock_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.vsock = Some(path.into());
        self
    }

    /// Leaves the agent of the image to the test, instead of having it run by itself.
    #[must_use]
    pub fn without_agent(mut self) -> Self {
        self.command_line.push_str(" lab.agent=off");
        self
    }

    /// The path from which the paths of its vsock sockets are made.
    fn vsock_path(&self, folder: &Path) -> PathBuf {
        self.vsock.clone().unwrap_or_else(|| folder.join("vsock"))
    }
}

/// A guest that the lab booted. Dropping it kills QEMU and the vsock device, by their process ids.
#[derive(Debug)]
pub struct Guest {
    control: Control,
    qemu: Running,
    vsock_device: Running,
    vsock: PathBuf,
    boot_time: Duration,
    folder: TempDir,
}

impl Guest {
    /// Boots a guest and waits until it takes commands.
    ///
    /// The seats limit how many guests run at once; holding them proves that there is room. Fails when a
    /// process ends early or the guest does not answer within a minute, with the last lines of the console and
    /// of the processes. Dropping the future ends the processes.
    pub async fn boot(_seats: &Seats, tools: &Tools, options: GuestOptions) -> Result<Self> {
        let begun = Instant::now();
        let folder = folder()?;
        let vsock = options.vsock_path(folder.path());
        let mut vsock_device = start_vsock_device(tools, folder.path(), &vsock).await?;
        let mut qemu = start_qemu(folder.path(), &options, Start::Boot)?;
        let socket = folder.path().join(CONTROL);
        // Cancel-safe: once one branch has ended, the guest is there or given up.
        let control = tokio::select! {
            control = Control::connect(&socket, BOOT_PATIENCE) => control,
            status = qemu.ended() => status.and_then(|status| bail!("QEMU ended with {status}")),
            status = vsock_device.ended() => {
                status.and_then(|status| bail!("the vsock device ended with {status}"))
            }
        };
        let control = control.with_context(|| {
            let console = last_lines_of(&folder.path().join(CONSOLE));
            format!(
                "boot a guest; its console said last:\n{console}\n{}\n{}",
                qemu.last_words(),
                vsock_device.last_words()
            )
        })?;
        Ok(Self {
            control,
            qemu,
            vsock_device,
            vsock,
            boot_time: begun.elapsed(),
            folder,
        })
    }

    /// The channel to the lab's helper inside.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Ends the session with the helper inside, with all that it runs, and begins another.
    pub async fn reconnect(self) -> Result<Self> {
        // QEMU serves one connection at a time: the old one has to be closed first.
        drop(self.control);
        let control = Control::connect(&self.folder.path().join(CONTROL), BOOT_PATIENCE).await?;
        Ok(Self { control, ..self })
    }

    /// Has the guest's system reboot as its administrator would, and waits until the next one takes commands.
    ///
    /// It must have been booted as one that [can](GuestOptions::rebooting). Each half may take as long as `patience`.
    pub async fn reboot(self, patience: Duration) -> Result<Self> {
        let mut monitor = Monitor::connect(self.folder.path()).await?;
        let asked = self.control.lines("systemctl reboot")?;
        let reset = monitor.until(|told| told["event"] == "RESET", patience).await;
        reset.context("the guest doesn't reboot")?;
        drop(asked);
        // QEMU serves one connection at a time: the old one has to be closed first.
        drop(self.control);
        let control = Control::connect(&self.folder.path().join(CONTROL), patience).await?;
        Ok(Self { control, ..self })
    }

    /// [`Control::run`] of this guest.
    pub async fn run(&self, shell: impl Into<Shell>) -> Result<Output> {
        self.control.run(shell).await
    }

    /// [`Control::lines`] of this guest.
    pub fn lines(&self, shell: impl Into<Shell>) -> Result<Lines> {
        self.control.lines(shell)
    }

    /// [`Control::wait_for`] of this guest.
    pub async fn wait_for(&self, shell: impl Into<Shell>, patience: Duration) -> Result<String> {
        self.control.wait_for(shell, patience).await
    }

    /// From the start of its processes to the first answer from inside.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The path from which the paths of its vsock sockets are made.
    pub fn vsock(&self) -> &Path {
        &self.vsock
    }

    /// The unix socket at which the guest's connections to CID 2, `port`, arrive.
    pub fn vsock_port(&self, port: u32) -> PathBuf {
        let mut path = self.vsock.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }

    /// The process id of QEMU, as long as it runs.
    pub fn vmm_pid(&self) -> Option<u32> {
        self.qemu.pid()
    }

    /// The process id of the vsock device, from which the guest's connections come.
    pub fn vsock_device_pid(&self) -> Option<u32> {
        self.vsock_device.pid()
    }

    /// Ends the guest as a power failure would, and waits until its processes are gone.
    pub async fn kill(mut self) -> Result<()> {
        self.qemu.kill().await?;
        self.vsock_device.kill().await
    }
}

/// A folder for what a guest's processes keep.
fn folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("moorline-guest-").tempdir();
    folder.context("create a folder")
}

const CONTROL: &str = "control.sock";
const CONSOLE: &str = "console.log";

/// QEMU's arguments for the virtio-serial port of the lab's helper; `socket` is made by QEMU and is what
/// [`Control::connect`] takes.
pub fn control_arguments(socket: &Path) -> Vec<String> {
    let socket = socket.display();
    [
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &format!("socket,id=lab,path={socket},server=on,wait=off"),
        "-device",
        &format!("virtserialport,chardev=lab,name={PORT_NAME}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// The socket that QEMU finds the vsock device at.
fn device_socket(folder: &Path) -> PathBuf {
    folder.join("device.sock")
}

async fn start_vsock_device(tools: &Tools, folder: &Path, vsock: &Path) -> Result<Running> {
    let socket = device_socket(folder);
    let vm = format!(
        "guest-cid={GUEST_CID},socket={},uds-path={}",
        socket.display(),
        vsock.display()
    );
    let mut command = tied(&tools.vsock_device);
    command.args(["--vm", &vm]);
    let device = Running::start("the vsock device", &mut command, folder.join("vsock-device.log"))?;
    let there = || async { socket.exists().then_some(()) };
    wait::until("the vsock device's socket", BOOT_PATIENCE, there)
        .await
        .with_context(|| device.last_words())?;
    Ok(device)
}

fn start_qemu(folder: &Path, options: &GuestOptions, start: Start<'_>) -> Result<Running> {
    let memory = options.memory_mib;
    let image = &options.image;
    let mut command = tied("qemu-system-x86_64");
    command
        .args([
            "-M",
            "q35,accel=tcg,memory-backend=mem",
            "-cpu",
            "max",
            "-m",
            &memory.to_string(),
        ])
        .args([
            "-object",
            &format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
        ])
        .args(["-nodefaults", "-display", "none", "-nic", "none"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", &options.command_line])
        .args(disk_arguments(image))
        .args(["-serial", &format!("file:{}", folder.join(CONSOLE).display())])
        .args([
            "-chardev",
            &format!("socket,id=vsock,path={}", device_socket(folder).display()),
        ])
        .args(control_arguments(&folder.join(CONTROL)))
        .args(monitor::arguments(folder))
        .args(start_arguments(options.saveable, start));
    if options.on_reboot == OnReboot::End {
        command.arg("-no-reboot");
    }
    Running::start("QEMU", &mut command, folder.join("qemu.log"))
}

/// The guest's vsock device, unless it is given one later, and what makes it begin as it is to.
fn start_arguments(saveable: Saveable, start: Start<'_>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut device = "vhost-user-vsock-pci,chardev=vsock".to_owned();
    if saveable == Saveable::Yes {
        arguments.extend(snapshot::arguments());
        device = snapshot::device();
    }
    arguments.extend(match start {
        Start::Boot => ["-device".to_owned(), device],
        Start::Saved(file) => ["-incoming".to_owned(), format!("exec:cat '{}'", file.display())],
    });
    arguments
}

/// The image's disk, if it has one, as it is for every guest anew.
fn disk_arguments(image: &Image) -> Vec<String> {
    let drive = |disk: &PathBuf| format!("file={},format=raw,if=virtio,snapshot=on", disk.display());
    let drive = image.disk.as_ref().map(drive);
    drive.map_or_else(Vec::new, |drive| vec!["-drive".to_owned(), drive])
}
