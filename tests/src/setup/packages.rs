//! Debian packages that must be installed.

use crate::{process, progress};
use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Makes sure that all of `wanted` are installed.
///
/// As root it installs what is missing. As anyone else it fails, naming every missing package and the command
/// that installs them. Nothing here brings a service with it; for such packages there is
/// [`super::unpack::with_dependencies`].
pub async fn installed(wanted: &[&str]) -> Result<()> {
    let missing = missing(wanted).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        bail!("not installed: {names}. As root: apt-get install --no-install-recommends {names}");
    }
    progress::step(&format!("install {names}"), install(&missing)).await
}

async fn install(packages: &[&str]) -> Result<()> {
    process::finish(apt_get().arg("update")).await?;
    let options = ["install", "--yes", "--no-install-recommends"];
    process::finish(apt_get().args(options).args(packages)).await?;
    Ok(())
}

/// `apt-get` that asks nothing, and waits for another one to finish instead of failing.
pub(super) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

async fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    // It exits with 1 when it does not know one of the packages, and still lists the others.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output()
        .await
        .context("run dpkg-query; the lab's set-up needs Debian or a relative of it")?;
    let known = String::from_utf8_lossy(&known.stdout);
    let installed = |package: &&str| known.lines().any(|line| line == format!("{package} installed"));
    Ok(wanted
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect())
}
