//! Python with packages of `PyPI`, for tests that look at Moorline with other people's libraries.

use super::packages;
use crate::cache::Cache;
use crate::{process, progress};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Debian's own Python, whatever else calls itself so here.
const PYTHON: &str = "/usr/bin/python3";

/// A virtual environment with these packages (`NAME==VERSION`), made once and kept; answers where its Python is.
pub async fn with_packages(cache: &Cache, wanted: &[&str]) -> Result<PathBuf> {
    let recipe = format!("{:x}", Sha256::digest(wanted.join(" ")));
    let _lock = cache.lock().await?;
    let folder = cache.path(format!("python/{recipe:.16}"));
    // An environment names its own place, so that it can't be made elsewhere and moved: the last file says it is whole.
    let whole = folder.join("whole");
    if !whole.is_file() {
        packages::installed(&["python3", "python3-venv"]).await?;
        let step = format!("make a Python environment with {}", wanted.join(", "));
        progress::step(&step, make(&folder, wanted)).await?;
        fs::write(&whole, "").with_context(|| format!("write {}", whole.display()))?;
    }
    Ok(folder.join("bin/python"))
}

async fn make(folder: &Path, wanted: &[&str]) -> Result<()> {
    let mut environment = Command::new(PYTHON);
    process::finish(environment.args(["-m", "venv", "--clear"]).arg(folder)).await?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    process::finish(install.args(wanted)).await?;
    Ok(())
}
