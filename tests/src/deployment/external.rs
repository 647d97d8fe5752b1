//! Guests whose VMs somebody else runs: the test registers them, and whoever dials their sockets speaks as them.

use super::{Deployment, PATIENCE};
use crate::wait;
use anyhow::{Context, Result};
use moorline_client::HostSocket;
use moorline_shared::api::data::PutEntry;
use moorline_shared::host::{Channel, GuestStatus, Register, Supervision};
use moorline_shared::link::PORT;
use moorline_shared::{EntryPath, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// An instance of a VM that isn't there: a socket at which its guest is taken for it.
#[derive(Clone, Debug)]
pub struct External {
    /// Which.
    pub id: InstanceId,
    /// The life that the registration began.
    pub incarnation: u64,
    /// The path that the VMM was given, as far as the daemon knows.
    device: PathBuf,
}

impl External {
    /// What a VM's vsock device is told to connect beside.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Where its guest dials.
    pub fn socket(&self) -> PathBuf {
        let mut socket = self.device.clone().into_os_string();
        socket.push(format!("_{PORT}"));
        socket.into()
    }
}

impl Deployment {
    /// The host daemon's socket for VM managers.
    pub fn register_socket(&self) -> Result<HostSocket> {
        Ok(HostSocket::new(&self.folder().join("register.sock"))?)
    }

    /// The host daemon's socket for root.
    pub fn admin_socket(&self) -> Result<HostSocket> {
        Ok(HostSocket::new(&self.folder().join("admin.sock"))?)
    }

    /// Makes an instance with these entries, registers a VM for it, and waits until the host has its data.
    pub async fn attach(&self, name: &str, data: &[(&str, &str)]) -> Result<External> {
        let entry = |(path, value): &(&str, &str)| {
            let path: EntryPath = path.parse().with_context(|| format!("the path '{path}'"))?;
            Ok((path, PutEntry::value((*value).into())))
        };
        let data: BTreeMap<_, _> = data.iter().map(entry).collect::<Result<_>>()?;
        let external = self.register(None, name, data).await?;
        self.has_data(&external).await?;
        Ok(external)
    }

    /// Makes an instance with these roles, registers a VM for it, and waits until the host has its data.
    pub async fn attach_with_roles(&self, name: &str, roles: &[&str]) -> Result<External> {
        let device = external_folder(self.folder())?.join(name);
        let body = Register {
            roles: roles.iter().map(|role| role.parse()).collect::<Result<_, _>>()?,
            ..registration(&device, name)
        };
        let registered = register(self.folder(), device, &body).await;
        let external = registered.with_context(|| self.last_words())?;
        self.has_data(&external).await?;
        Ok(external)
    }

    async fn has_data(&self, external: &External) -> Result<()> {
        let there = async || self.guest_status(external.id).await?.revision;
        wait::until("the host to have the instance's data", PATIENCE, there)
            .await
            .with_context(|| self.last_words())?;
        Ok(())
    }

    /// Registers a VM for an instance, or for a new one with these entries.
    pub async fn register(
        &self,
        instance: Option<InstanceId>,
        name: &str,
        data: BTreeMap<EntryPath, PutEntry>,
    ) -> Result<External> {
        let registered = register_at(self.folder(), instance, name, data).await;
        registered.with_context(|| self.last_words())
    }

    /// What the host daemon knows of an instance's guest, if it answers and knows anything.
    pub async fn guest_status(&self, id: InstanceId) -> Option<GuestStatus> {
        let status = self.admin_socket().ok()?.instance_status(id).await;
        status.ok()?.guest
    }
}

/// Registers a VM with the daemon whose sockets lie in this folder.
pub(super) async fn register_at(
    folder: &Path,
    instance: Option<InstanceId>,
    name: &str,
    data: BTreeMap<EntryPath, PutEntry>,
) -> Result<External> {
    let device = external_folder(folder)?.join(name);
    let body = Register {
        instance,
        data,
        ..registration(&device, name)
    };
    register(folder, device, &body).await
}

/// That of a new instance without anything.
fn registration(device: &Path, name: &str) -> Register {
    Register {
        instance: None,
        key: None,
        name: Some(name.to_owned()),
        tags: Vec::new(),
        roles: BTreeSet::new(),
        data: BTreeMap::new(),
        channel: Channel::Hybrid {
            path: device.to_owned(),
            device: None,
        },
        supervision: Supervision::Unsupervised,
    }
}

async fn register(folder: &Path, device: PathBuf, body: &Register) -> Result<External> {
    let socket = HostSocket::new(&folder.join("register.sock"))?;
    let registered = socket.register(body).await?;
    Ok(External {
        id: registered.instance,
        incarnation: registered.incarnation,
        device,
    })
}

/// The folder that the host's configuration lets sockets lie in, for its owner alone, as the daemon asks.
fn external_folder(folder: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = folder.join("external");
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(&folder)
        .with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}
