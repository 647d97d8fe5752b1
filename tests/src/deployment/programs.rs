//! Our daemons and the command line, as cargo builds them for their own tests.

use crate::setup::tools;
use crate::{process, progress};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tokio::sync::OnceCell;

/// What runs on hosts and where users are.
const PACKAGES: [&str; 4] = [
    "moorline-control",
    "moorline-host",
    "moorline-client",
    "moorline-up",
];

/// Where our programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds the daemons and the command line, if there is anything to build; once for all that ask.
    pub async fn build() -> Result<Self> {
        static BUILT: OnceCell<Programs> = OnceCell::const_new();
        let build = async || {
            cargo_build("the daemons", &PACKAGES, "dev").await?;
            Ok(Self {
                folder: tools::target_folder().join("debug"),
            })
        };
        BUILT.get_or_try_init(build).await.cloned()
    }

    /// Builds the daemons and the command line as they are to be used.
    pub async fn build_release() -> Result<Self> {
        cargo_build("the daemons as they are to be used", &PACKAGES, "release").await?;
        Ok(Self {
            folder: tools::target_folder().join("release"),
        })
    }

    /// Builds the agent as it runs outside of guests too, beside a socket; once for all that ask.
    pub async fn agent(&self) -> Result<PathBuf> {
        static BUILT: OnceCell<()> = OnceCell::const_new();
        let build = || cargo_build("the agent", &["moorline-agent"], "dev");
        BUILT.get_or_try_init(build).await?;
        Ok(self.path("moorline-agent"))
    }

    /// Builds what attacks a host; once for all that ask.
    pub async fn attacker(&self) -> Result<PathBuf> {
        static BUILT: OnceCell<()> = OnceCell::const_new();
        let build = || cargo_build("the attackers", &["moorline-lab-load"], "dev");
        BUILT.get_or_try_init(build).await?;
        Ok(self.path("lab-load"))
    }

    /// Where one of them is.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }
}

async fn cargo_build(what: &str, packages: &[&str], profile: &str) -> Result<()> {
    let build = async {
        let mut command = tools::cargo();
        command.args(["build", "--quiet", "--bins", "--profile", profile]);
        for package in packages {
            command.args(["--package", package]);
        }
        process::finish(command.current_dir(tools::workspace())).await
    };
    progress::quietly_at_first(&format!("build {what}"), build).await?;
    Ok(())
}
