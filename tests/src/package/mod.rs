//! Moorline's Debian packages: what `cargo lab package` makes, and what tests install in guests.
//!
//! What is in a package says `[package.metadata.deb]` of its crate, and cargo-deb puts it together; most files come from
//! `packaging/`. What programs say of themselves is asked of them before: a [manual](mod@manual) page of each, and the
//! scripts by which shells complete the command line. That lies in a folder `documents` beside them.

mod manual;

use crate::cache::Cache;
use crate::deployment::Programs;
use crate::setup::{packages, tools};
use crate::{process, progress};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::sync::Mutex;

/// What cargo-deb runs: it looks at the libraries that programs need, and takes debug information out of them.
const NEEDED: &[&str] = &["dpkg-dev", "binutils"];

/// Shells, and the files of their completion.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "moorline"),
    ("zsh", "_moorline"),
    ("fish", "moorline.fish"),
];

/// What users run rather than administrators; its manual pages are in section 1 instead of 8.
const OF_USERS: [&str; 2] = ["moorline", "moorline-up"];

/// The packages, by their files.
#[derive(Debug, Clone)]
pub struct Packages {
    /// Of the control plane.
    pub control: PathBuf,
    /// Of the host daemon.
    pub host: PathBuf,
    /// Of the command line.
    pub command: PathBuf,
}

/// For what packages are made.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// To be used: in `target/debian`.
    Use,
    /// To be looked at by tests: of the programs that they have, packed and unpacked in a hurry, and with this revision,
    /// so that one is an upgrade of another.
    Test {
        /// The Debian revision.
        revision: u32,
    },
}

/// A program with what cargo calls its crate and its profile.
struct Program {
    of: &'static str,
    path: PathBuf,
    profile: &'static str,
    /// Where cargo built it for another machine than this one.
    guest: Option<PathBuf>,
}

impl Packages {
    /// Makes the packages of the control plane's machine and of hosts, after their programs.
    ///
    /// Fails when a program can't be built, or when cargo-deb can't be had or finds something missing.
    pub async fn make(cache: &Cache, purpose: Purpose) -> Result<Self> {
        let (programs, profile) = programs(purpose).await?;
        let make = async |of, name: &str| {
            let program = Program {
                of,
                path: programs.path(name),
                profile,
                guest: None,
            };
            package(cache, purpose, &program).await
        };
        Ok(Self {
            control: make("moorline-control", "moorline-control").await?,
            host: make("moorline-host", "moorline-host").await?,
            command: make("moorline-client", "moorline").await?,
        })
    }
}

/// The programs of hosts and users, and the profile by which cargo built them.
async fn programs(purpose: Purpose) -> Result<(Programs, &'static str)> {
    Ok(match purpose {
        Purpose::Use => (Programs::build_release().await?, "release"),
        Purpose::Test { .. } => (Programs::build().await?, "dev"),
    })
}

/// Makes the package of control plane and host daemon in one process.
///
/// Fails as [`Packages::make`] does.
pub async fn up(cache: &Cache, purpose: Purpose) -> Result<PathBuf> {
    let (programs, profile) = programs(purpose).await?;
    let program = Program {
        of: "moorline-up",
        path: programs.path("moorline-up"),
        profile,
        guest: None,
    };
    package(cache, purpose, &program).await
}

/// Makes the package of the agent, for guests.
///
/// Fails as [`Packages::make`] does.
pub async fn agent(cache: &Cache, purpose: Purpose) -> Result<PathBuf> {
    let program = Program {
        of: "moorline-agent",
        path: tools::guest_program("moorline-agent", "moorline-agent").await?,
        profile: tools::GUEST_PROFILE,
        guest: Some(tools::guest_target_folder()),
    };
    package(cache, purpose, &program).await
}

/// Makes a package, and answers where it is.
async fn package(cache: &Cache, purpose: Purpose, program: &Program) -> Result<PathBuf> {
    // Two at once would work in the same folder.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let cargo_deb = tools::cargo_deb(cache).await?;
    packages::installed(NEEDED).await?;
    write_documents(&program.path).await?;
    let mut command = Command::new(cargo_deb);
    command
        .args(["--quiet", "--no-build", "--strip", "--package", program.of])
        .args(["--profile", program.profile])
        .current_dir(tools::workspace());
    if let Some(folder) = &program.guest {
        command
            .args(["--target", tools::GUEST_TARGET])
            .env("CARGO_TARGET_DIR", folder);
    }
    let output = match purpose {
        Purpose::Use => "debian",
        Purpose::Test { revision } => {
            command.args(["--deb-revision", &revision.to_string()]);
            // By gzip itself: what cargo-deb has built in for this form takes minutes.
            command.args(["--fast", "--compress-type", "gz", "--compress-system"]);
            "debian-test"
        }
    };
    command.arg("--output").arg(tools::target_folder().join(output));
    let step = format!("package {}", program.of);
    let made = progress::quietly_at_first(&step, process::finish(&mut command)).await?;
    let path = made.lines().last().context("cargo-deb names what it made")?;
    Ok(tools::workspace().join(path))
}

/// Writes what the program says of itself into the folder beside it that its package takes it from.
async fn write_documents(program: &Path) -> Result<()> {
    let name = program.file_name().and_then(|name| name.to_str());
    let name = name.context("a program has a name")?;
    let folder = program.with_file_name("documents");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let write = |file: &str, text: String| {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let section = if OF_USERS.contains(&name) { 1 } else { 8 };
    let page = format!("{name}.{section}");
    write(&page, manual::page(program, section).await?)?;
    // As Debian has them.
    let mut gzip = Command::new("gzip");
    process::finish(gzip.args(["-9", "--no-name", "--force"]).arg(folder.join(page))).await?;
    if name != "moorline" {
        return Ok(());
    }
    for (shell, file) in SHELLS {
        let script = process::finish(Command::new(program).args(["completion", shell])).await?;
        write(file, script)?;
    }
    Ok(())
}
