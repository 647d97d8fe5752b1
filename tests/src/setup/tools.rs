//! Programs that cargo builds: tools from crates.io, and our own for guests.

use crate::cache::Cache;
use crate::{process, progress};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const VSOCK_DEVICE: &str = "vhost-device-vsock";
const VSOCK_DEVICE_VERSION: &str = "0.3.0";
const CARGO_DEB: &str = "cargo-deb";
const CARGO_DEB_VERSION: &str = "3.8.0";

/// Guests are x86-64 like the machines the lab runs on, and have no libc of their own.
pub(crate) const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// The profile of programs for guests, defined in the workspace: small first.
pub(crate) const GUEST_PROFILE: &str = "agent";
/// No libraries, and relocations packed, which otherwise are a thirtieth of a program.
const GUEST_FLAGS: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";

/// The rust-vmm project's vsock device, in which a guest's vsock is a set of unix sockets on the host.
pub async fn vsock_device(cache: &Cache) -> Result<PathBuf> {
    installed(cache, VSOCK_DEVICE, VSOCK_DEVICE_VERSION).await
}

/// What makes a Debian package of a crate and of what its manifest says of it.
pub async fn cargo_deb(cache: &Cache) -> Result<PathBuf> {
    installed(cache, CARGO_DEB, CARGO_DEB_VERSION).await
}

/// A program of crates.io, in the cache.
async fn installed(cache: &Cache, name: &str, version: &str) -> Result<PathBuf> {
    let root = cache.path(format!("tools/{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.is_file() {
        let install = async {
            let options = ["install", name, "--version", version, "--locked", "--root"];
            process::finish(cargo().args(options).arg(&root)).await
        };
        progress::step(&format!("build {name} {version}"), install).await?;
    }
    Ok(program)
}

/// Builds a program of this workspace for guests, statically linked, and answers where it is.
///
/// Cargo decides whether there is anything to do, so that a changed source is never overlooked.
pub async fn guest_program(package: &str, program: &str) -> Result<PathBuf> {
    build_for_guests(workspace(), package, program).await
}

/// Builds `lab-aws`, the guests' program on the AWS SDK for Rust, which is a workspace of its own.
pub async fn aws_program() -> Result<PathBuf> {
    build_for_guests(&workspace().join("tests/lab-aws"), "moorline-lab-aws", "lab-aws").await
}

async fn build_for_guests(workspace: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let target = guest_target_folder();
    let build = async {
        let mut command = cargo();
        command.args(["build", "--quiet", "--package", package, "--bin", program]);
        command
            .args([
                "--profile",
                GUEST_PROFILE,
                "--target",
                GUEST_TARGET,
                "--target-dir",
            ])
            .arg(&target);
        // Given a target, cargo keeps these flags away from build scripts, which would not run with them.
        command
            .env("RUSTFLAGS", GUEST_FLAGS)
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        process::finish(command.current_dir(workspace)).await
    };
    progress::quietly_at_first(&format!("build {program} for guests"), build).await?;
    Ok(target.join(GUEST_TARGET).join(GUEST_PROFILE).join(program))
}

/// The root of the checkout that this lab was built from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the lab's package is a folder of the workspace")
}

/// Where cargo puts what it builds here.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |chosen| workspace().join(chosen))
}

/// Where cargo puts what it builds for guests.
pub(crate) fn guest_target_folder() -> PathBuf {
    target_folder().join("guest")
}

/// The cargo that runs the lab, or the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
