//! What is measured, built as it is shipped.

use crate::setup::tools;
use crate::{process, progress};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Ours, and the load's. Always built together, so that no bench makes cargo build another's anew.
const PACKAGES: [&str; 7] = [
    "moorline-client",
    "moorline-control",
    "moorline-host",
    "moorline-lab",
    "moorline-lab-load",
    "moorline-lab-store",
    "moorline-up",
];

/// Programs with optimisations.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    agent: PathBuf,
}

impl Programs {
    /// Builds them, if there is anything to build.
    pub(super) async fn build() -> Result<Self> {
        let build = async {
            let mut command = tools::cargo();
            command.args(["build", "--quiet", "--release", "--bins"]);
            for package in PACKAGES {
                command.args(["--package", package]);
            }
            process::finish(command.current_dir(tools::workspace())).await
        };
        progress::quietly_at_first("build what is measured", build).await?;
        Ok(Self {
            folder: tools::target_folder().join("release"),
            agent: tools::guest_program("moorline-agent", "moorline-agent").await?,
        })
    }

    /// Where one of the daemons, or of the lab's own programs, is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The agent, as it is built for guests.
    pub(super) fn agent(&self) -> &Path {
        &self.agent
    }
}

/// A command line for a process that has one core, from its first instruction on, and ends with the lab.
pub(super) fn pinned(core: usize, program: &Path) -> Command {
    let mut command = process::tied("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}
