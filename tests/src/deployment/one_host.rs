//! A deployment of `moorline up`: both daemons in one process, as they are without any configuration but the images.

use super::{PATIENCE, Programs, machines, next_log, state_folder};
use crate::guest::{Control, control_arguments};
use crate::process::{Running, tied};
use crate::wait;
use anyhow::{Context, Result, bail};
use moorline_shared::InstanceId;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

/// What is said once everything is in step.
const UP: &str = "Moorline is up";

/// Somebody's home, in which `moorline up` runs.
#[derive(Debug)]
pub struct OneHost {
    process: Option<Running>,
    programs: Programs,
    config: PathBuf,
    home: TempDir,
}

impl OneHost {
    /// A home with this configuration, to which the lab's channel in guests is added.
    pub fn new(programs: Programs, config: &str) -> Result<Self> {
        let home = state_folder()?;
        let arguments = control_arguments(Path::new("{folder}/control.sock"));
        let config = config.replace(
            "[qemu]",
            &format!("[qemu]\naccel = \"tcg\"\nconsole = \"file\"\narguments = {arguments:?}"),
        );
        let file = home.path().join("up.toml");
        std::fs::write(&file, config).context("write the configuration")?;
        Ok(Self {
            process: None,
            programs,
            config: file,
            home,
        })
    }

    /// A command line of this home: in its folder, with our programs in the path.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut path = self.programs.path("").into_os_string();
        path.push(":/usr/bin:/bin");
        let mut command = tied(program.as_ref());
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("PATH", path)
            .env_remove("XDG_STATE_HOME");
        command
    }

    /// Starts it by the command line, with these options after its configuration, and waits until everything is in step.
    pub async fn start(&mut self, options: &[&str]) -> Result<()> {
        let mut command = self.command(self.programs.path("moorline"));
        command.args(["up", "--config"]).arg(&self.config).args(options);
        let log = next_log(self.home.path(), "up");
        let process = self
            .process
            .insert(Running::start("moorline up", &mut command, log)?);
        let up = async || process.said().contains(UP).then_some(());
        let up = wait::until("the deployment to be up", PATIENCE, up).await;
        up.with_context(|| process.last_words())
    }

    /// Kills it; its VMs run on.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => bail!("it doesn't run"),
        }
    }

    /// The process itself.
    pub fn process(&mut self) -> Result<&mut Running> {
        self.process.as_mut().context("it doesn't run")
    }

    /// The channel to the lab's helper in a guest.
    pub async fn guest(&self, id: InstanceId) -> Result<Control> {
        let socket = self.vms().join(id.to_string()).join("run/control.sock");
        Control::connect(&socket, PATIENCE).await
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Running::last_words).unwrap_or_default()
    }

    /// The processes of all VMs.
    pub fn vm_processes(&self) -> Vec<i32> {
        machines::processes(&self.vms())
    }

    fn vms(&self) -> PathBuf {
        self.home.path().join(".local/state/moorline/host/vms")
    }
}

impl Drop for OneHost {
    /// The daemon goes first, so that it doesn't start a VM again that is ended here.
    fn drop(&mut self) {
        self.process = None;
        machines::end(&self.vms(), &self.config);
    }
}
