//! Debian packages taken apart into the lab's cache: nothing is installed, so no service starts, nothing of
//! the machine's own is replaced, and no root is needed.

use super::packages::apt_get;
use crate::cache::Cache;
use crate::{process, progress};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Where the libraries of an unpacked package may be, beneath its root.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// A package, alone or with its dependencies, that lies in the cache.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The folder that stands for `/` in the package.
    pub root: PathBuf,
}

impl Unpacked {
    /// The first of some paths (without the leading slash) that is in the package: Debian moved folders
    /// beneath `usr` from one release to the next.
    pub fn find(&self, paths: &[&str]) -> Result<PathBuf> {
        let mut places = paths.iter().map(|path| self.root.join(path));
        places.find(|place| place.exists()).with_context(|| {
            format!(
                "none of {paths:?} is in {}; remove it, to have it fetched again",
                self.root.display()
            )
        })
    }

    /// A command line for a program of the package, named by its path without the leading slash.
    ///
    /// It finds the package's own libraries; it ends with the thread that starts it, as [`process::tied`] says.
    pub fn program(&self, path: &str) -> Command {
        let libraries = LIBRARIES.map(|folder| self.root.join(folder).display().to_string());
        let mut command = process::tied(self.root.join(path));
        command.env("LD_LIBRARY_PATH", libraries.join(":"));
        command
    }
}

/// The package that Debian's `linux-image-cloud-amd64` stands for at the moment of the first call.
pub async fn kernel(cache: &Cache) -> Result<Unpacked> {
    unpacked(cache, "linux-image-cloud-amd64", Fetch::WhatItStandsFor).await
}

/// One package without its dependencies.
pub async fn package(cache: &Cache, name: &str) -> Result<Unpacked> {
    unpacked(cache, name, Fetch::Alone).await
}

/// One package with those of its dependencies that the machine does not have.
pub async fn with_dependencies(cache: &Cache, name: &str) -> Result<Unpacked> {
    unpacked(cache, name, Fetch::WithDependencies).await
}

/// Which packages a name asks for.
#[derive(Debug, Clone, Copy)]
enum Fetch {
    Alone,
    WithDependencies,
    /// The first dependency of a package that is empty itself.
    WhatItStandsFor,
}

async fn unpacked(cache: &Cache, name: &str, fetch: Fetch) -> Result<Unpacked> {
    let place = Path::new("packages").join(name);
    let root = cache.path(&place);
    if root.is_dir() {
        return Ok(Unpacked { root });
    }
    progress::step(
        &format!("fetch {name}"),
        fetch_and_unpack(cache, name, fetch, &place),
    )
    .await?;
    Ok(Unpacked { root })
}

async fn fetch_and_unpack(cache: &Cache, name: &str, fetch: Fetch, place: &Path) -> Result<PathBuf> {
    let workshop = cache.workshop()?;
    let archives = workshop.path().join("archives");
    std::fs::create_dir_all(archives.join("partial")).context("create a folder for packages")?;
    download(name, fetch, &archives).await?;
    unpack_all(&archives, workshop.path()).await?;
    std::fs::remove_dir_all(&archives).context("remove the downloaded packages")?;
    workshop.keep_as(place)
}

async fn download(name: &str, fetch: Fetch, archives: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        // The lists of a fresh machine are empty or old; others can't refresh them and use what is there.
        process::finish(apt_get().arg("update")).await?;
    }
    let mut command = apt_get();
    match fetch {
        Fetch::Alone => command.args(["download", name]),
        Fetch::WhatItStandsFor => command.args(["download", &first_dependency(name).await?]),
        // Only downloading, it needs none of apt's locks, which are root's.
        Fetch::WithDependencies => command
            .args([
                "install",
                "--download-only",
                "--reinstall",
                "--yes",
                "--no-install-recommends",
            ])
            .args(["-o", "Debug::NoLocking=1"])
            .args(["-o", &format!("Dir::Cache::archives={}", archives.display())])
            .arg(name),
    };
    process::finish(command.current_dir(archives)).await?;
    Ok(())
}

async fn first_dependency(name: &str) -> Result<String> {
    let described =
        process::finish(Command::new("apt-cache").args(["show", "--no-all-versions", name])).await?;
    described
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .and_then(|names| names.split([' ', ',']).next())
        .map(str::to_owned)
        .with_context(|| format!("package {name} names no dependency"))
}

async fn unpack_all(archives: &Path, root: &Path) -> Result<()> {
    for entry in archives.read_dir().context("list the downloaded packages")? {
        let path = entry.context("list the downloaded packages")?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            process::finish(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(root)).await?;
        }
    }
    Ok(())
}
