//! What the doctor needs of the host daemon's configuration. The daemon itself judges all of it: `moorline-host --check`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::Check;
use crate::endpoint::BaseUrl;
use crate::host_socket::admin_socket;

/// A part of the configuration; keys that aren't here are somebody else's to look at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) state_dir: StateDir,
    pub(super) control: Control,
    pub(super) capacity: Capacity,
    pub(super) sockets: Sockets,
    pub(super) link: Link,
    pub(super) qemu: Qemu,
    pub(super) images: BTreeMap<String, Image>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct StateDir(pub(super) PathBuf);

impl Default for StateDir {
    fn default() -> Self {
        Self("/var/lib/moorline/host".into())
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Control {
    pub(super) url: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Capacity {
    pub(super) vcpus: u64,
    pub(super) memory_mib: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Sockets {
    pub(super) admin: PathBuf,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            admin: admin_socket(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Link {
    pub(super) vsock: String,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            vsock: "auto".to_owned(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Qemu {
    pub(super) binary: PathBuf,
    pub(super) accel: String,
    pub(super) vsock: String,
    pub(super) vsock_device: PathBuf,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            accel: "auto".to_owned(),
            vsock: "auto".to_owned(),
            vsock_device: "vhost-device-vsock".into(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    disk: Option<PathBuf>,
    firmware: Option<PathBuf>,
}

impl Image {
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.kernel, &self.initrd, &self.disk, &self.firmware];
        files.into_iter().flatten().map(PathBuf::as_path)
    }
}

impl Settings {
    /// Where the control plane is: as configured, or as the host was told when it was enrolled.
    pub(super) fn url(&self) -> Option<BaseUrl> {
        #[derive(Deserialize)]
        struct Enrolment {
            url: String,
        }
        let enrolled = || {
            let text = std::fs::read_to_string(self.identity("enrolment.json")).ok()?;
            serde_json::from_str::<Enrolment>(&text).ok()
        };
        let url = self.control.url.clone().or_else(|| Some(enrolled()?.url));
        url?.parse().ok()
    }

    /// A file of the host's identity.
    pub(super) fn identity(&self, name: &str) -> PathBuf {
        self.state_dir.0.join("identity").join(name)
    }
}

/// Reads the configuration; where that fails, everything is looked for where it is by default.
pub(super) fn read(path: &Path) -> (Check, Settings) {
    const NAME: &str = "configuration";
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let advice = "run this as root; what follows is looked for where it is by default";
            return (
                Check::unknown(NAME, format!("{shown}: {error}"), advice),
                Settings::default(),
            );
        }
        Err(error) => {
            let advice = "put it there, or name it with --config";
            return (
                Check::fail(NAME, format!("{shown}: {error}"), advice),
                Settings::default(),
            );
        }
    };
    match toml::from_str(&text) {
        Ok(settings) => (Check::ok(NAME, shown.to_string()), settings),
        // The parser's own text would show the line, and a secret of a role may stand in it.
        Err(error) => {
            let found = format!("{shown}: {}", error.message());
            let advice = format!("correct it: moorline-host --check --config {shown}");
            (Check::fail(NAME, found, advice), Settings::default())
        }
    }
}
