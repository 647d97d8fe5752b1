//! What a deployment consists of, and the host's configuration that is made of it.

use super::{Deployment, IMAGE, Programs};
use crate::image::Image;
use crate::namespace::{Namespace, inside};
use crate::process::tied;
use crate::setup::Tools;
use anyhow::Result;
use moorline_shared::HostId;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// A deployment before it starts. Its host runs no machines unless [`Self::machines`] says what they are made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) programs: Programs,
    machines: Option<Machines>,
    pub(super) control_port: Option<u16>,
    control_url: Option<String>,
    /// Where the host daemon runs, if it has a network of its own.
    namespace: Option<PathBuf>,
    /// The size of the file system that the host's cache has for itself, in KiB, if it has one.
    cache_kib: Option<u32>,
    pub(super) control_settings: Vec<String>,
    /// What its daemons find, if they are not the first.
    pub(super) found: Option<PathBuf>,
    lines: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug)]
struct Machines {
    vsock_device: PathBuf,
    image: Image,
}

/// How long a guest may take from its power button to its end, before its VMM is told to end. A guest that runs takes a
/// fraction of a second.
pub const STOP: Duration = Duration::from_secs(20);

/// The tables of a configuration, each with its lines.
type Toml = BTreeMap<String, Vec<String>>;

impl Plan {
    /// A control plane, and a host daemon whose guests are registered by the test.
    pub fn new(programs: Programs) -> Self {
        Self {
            programs,
            machines: None,
            control_port: None,
            control_url: None,
            namespace: None,
            cache_kib: None,
            control_settings: Vec::new(),
            found: None,
            lines: Vec::new(),
        }
    }

    /// The host boots `image` under the name [`IMAGE`].
    #[must_use]
    pub fn machines(mut self, tools: &Tools, image: &Image) -> Self {
        self.machines = Some(Machines {
            vsock_device: tools.vsock_device.clone(),
            image: image.clone(),
        });
        self
    }

    /// Adds a line to a table of the host's configuration, such as `link` and `connect_burst = 100`.
    #[must_use]
    pub fn host(mut self, table: &'static str, line: impl Into<String>) -> Self {
        self.lines.push((table, line.into()));
        self
    }

    /// The control plane listens on this port of loopback instead of any.
    #[must_use]
    pub fn control_port(mut self, port: u16) -> Self {
        self.control_port = Some(port);
        self
    }

    /// Adds a line to the control plane's settings, such as `identify_within = 5`.
    #[must_use]
    pub fn control_setting(mut self, line: impl Into<String>) -> Self {
        self.control_settings.push(line.into());
        self
    }

    /// The daemons find the states that are in this archive, as `tests/fixtures/record` makes them.
    #[must_use]
    pub fn finding(mut self, archive: impl Into<PathBuf>) -> Self {
        self.found = Some(archive.into());
        self
    }

    /// The host dials the control plane there instead of directly.
    #[must_use]
    pub fn control_by_way_of(mut self, url: impl Into<String>) -> Self {
        self.control_url = Some(url.into());
        self
    }

    /// The host daemon runs in this network namespace, which has to last as long as the deployment.
    #[must_use]
    pub fn host_within(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.door());
        self
    }

    /// The host keeps its cache on a file system of its own of so many KiB, which is empty whenever the daemon starts. Only
    /// the daemon sees it, and whoever enters its mount namespace.
    #[must_use]
    pub fn host_cache_of_kib(mut self, kib: u32) -> Self {
        self.cache_kib = Some(kib);
        self
    }

    /// A command line for the host daemon of the deployment in this folder.
    pub(super) fn host_daemon(&self, folder: &Path) -> Command {
        let program = self.programs.path("moorline-host");
        match (&self.namespace, self.cache_kib) {
            (Some(door), _) => inside(door, program),
            (None, Some(kib)) => on_small_disk(&program, &host_cache(folder), kib),
            (None, None) => tied(program),
        }
    }

    /// Starts it and waits until the host has registered.
    pub async fn start(self) -> Result<Deployment> {
        Deployment::begin(self).await
    }

    /// A host's configuration: what the README's has, with everything it keeps in this folder, and with the lab's channel
    /// in guests.
    pub(super) fn host_config(&self, host: &HostId, folder: &Path, url: &str) -> String {
        let url = self.control_url.as_deref().unwrap_or(url);
        let mut toml = Toml::new();
        add(&mut toml, "control", format!("url = {url:?}"));
        add(&mut toml, "capacity", "vcpus = 64\nmemory_mib = 16384");
        for socket in ["register", "admin"] {
            add(
                &mut toml,
                "sockets",
                path(socket, &folder.join(format!("{socket}.sock"))),
            );
        }
        add(&mut toml, "link", "vsock = \"off\"");
        let externals = folder.join("external");
        add(
            &mut toml,
            "external",
            format!("directories = [{:?}]", externals.display().to_string()),
        );
        if let Some(machines) = &self.machines {
            machines.describe(&mut toml);
        }
        for (table, line) in &self.lines {
            add(&mut toml, table, line);
        }
        let mut text = format!("host = \"{host}\"\nzone = \"zone-1\"\n");
        let _ = writeln!(text, "{}", path("state_dir", &folder.join("host")));
        for (table, lines) in toml {
            let _ = writeln!(text, "[{table}]\n{}", lines.join("\n"));
        }
        text
    }
}

impl Machines {
    fn describe(&self, toml: &mut Toml) {
        add(toml, "vm", format!("stop_seconds = {}", STOP.as_secs()));
        add(
            toml,
            "qemu",
            "accel = \"tcg\"\nvsock = \"vhost-user\"\nconsole = \"file\"",
        );
        add(toml, "qemu", path("vsock_device", &self.vsock_device));
        let arguments = crate::guest::control_arguments(Path::new("{folder}/control.sock"));
        add(toml, "qemu", format!("arguments = {arguments:?}"));
        let table = format!("images.{IMAGE}");
        add(toml, &table, path("kernel", &self.image.kernel));
        add(toml, &table, path("initrd", &self.image.initrd));
        add(toml, &table, format!("append = {:?}", self.image.command_line));
        if let Some(disk) = &self.image.disk {
            add(toml, &table, path("disk", disk));
            add(toml, &table, "disk_format = \"raw\"");
        }
    }
}

/// The folder of the host's cache.
pub(super) fn host_cache(folder: &Path) -> PathBuf {
    folder.join("host/cache")
}

/// A command line for a program that has a small file system in a folder.
fn on_small_disk(program: &Path, folder: &Path, kib: u32) -> Command {
    let mount = "mkdir -p \"$1\" && mount -t tmpfs -o size=\"$0\" moorline \"$1\" && shift && exec \"$@\"";
    let mut command = tied("unshare");
    command.args(["--mount", "--", "sh", "-c", mount, &format!("{kib}k")]);
    command.arg(folder).arg(program);
    command
}

fn add(toml: &mut Toml, table: &str, line: impl Into<String>) {
    toml.entry(table.to_owned()).or_default().push(line.into());
}

fn path(key: &str, path: &Path) -> String {
    format!("{key} = {:?}", path.display().to_string())
}
