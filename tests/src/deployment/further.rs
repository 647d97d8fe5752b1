//! Further hosts of a deployment, and copies of one: daemons with a state, sockets and a configuration of their own.

use super::{Deployment, External, Programs, host_toml, machines, next_log, register_at};
use crate::process::{Running, finish, tied};
use anyhow::{Context, Result, bail};
use moorline_client::{Client, HostSocket};
use moorline_shared::api::data::PutEntry;
use moorline_shared::host::HostStatus;
use moorline_shared::{EntryPath, HostId, InstanceId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A host beside the deployment's first one. It is nobody until it is enrolled.
#[derive(Debug)]
pub struct Further {
    folder: PathBuf,
    programs: Programs,
    process: Option<Running>,
}

impl Deployment {
    /// Makes what a daemon needs that is to be this host: a configuration. `called` tells its folder apart.
    pub fn further_host(&self, host: &HostId, called: &str) -> Result<Further> {
        let folder = self.folder().join(called);
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let config = self.plan.host_config(host, &folder, self.url());
        std::fs::write(host_toml(&folder), config).context("write the host's configuration")?;
        Ok(Further {
            folder,
            programs: self.programs().clone(),
            process: None,
        })
    }

    /// Another machine that was given a copy of the first host's state, as a restored backup is.
    pub async fn copy_of_host(&self, called: &str) -> Result<Further> {
        let copy = self.further_host(&super::host_name(), called)?;
        let mut command = Command::new("cp");
        command
            .arg("--archive")
            .arg(self.folder().join("host"))
            .arg(copy.state());
        finish(&mut command).await?;
        Ok(copy)
    }
}

impl Further {
    /// Where its daemon keeps its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("host")
    }

    /// Its daemon's configuration.
    pub fn config(&self) -> PathBuf {
        host_toml(&self.folder)
    }

    /// A command of the daemon's program, whose errors are as users see them.
    pub fn command(&self) -> Command {
        let mut command = tied(self.programs.path("moorline-host"));
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Starts the daemon without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = self.command();
        command.arg("--config").arg(self.config());
        let log = next_log(&self.folder, "host");
        self.process = Some(Running::start("moorline-host", &mut command, log)?);
        Ok(())
    }

    /// Kills the daemon, as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => bail!("the host daemon doesn't run"),
        }
    }

    /// All that the daemon has said since it was last started.
    pub fn said(&self) -> String {
        self.process.as_ref().map(Running::said).unwrap_or_default()
    }

    /// What the daemon says of itself, if it answers.
    pub async fn status(&self) -> Option<HostStatus> {
        let socket = HostSocket::new(&self.folder.join("admin.sock")).ok()?;
        socket.status().await.ok()
    }

    /// The API, as this host.
    pub fn client(&self, deployment: &Deployment) -> Result<Client> {
        deployment.control().client_of_daemon(&self.state())
    }

    /// Registers a VM here for an instance, or for a new one with these entries.
    pub async fn register(
        &self,
        instance: Option<InstanceId>,
        name: &str,
        data: BTreeMap<EntryPath, PutEntry>,
    ) -> Result<External> {
        let registered = register_at(&self.folder, instance, name, data).await;
        registered.with_context(|| self.said())
    }

    /// The folder of everything that it keeps.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Further {
    /// The daemon goes first, so that it doesn't start a VM again that is ended here.
    fn drop(&mut self) {
        self.process = None;
        machines::end(&self.state().join("vms"), &self.config());
    }
}
