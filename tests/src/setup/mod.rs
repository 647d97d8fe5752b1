//! Makes sure that the machine has what the lab runs, and says where it is.
//!
//! Three ways, from the least intrusive: [`unpack`] takes Debian packages apart into the lab's cache and installs
//! nothing (the guest's kernel and busybox, the servers that benches compare with); [`tools`] builds programs with
//! cargo into the cache, and [`python`] does the same with packages of `PyPI`; [`packages`] installs with apt what must
//! be installed, as root, and otherwise names what is missing and stops. All of it is quick when nothing is missing.

pub mod packages;
pub mod python;
pub mod tools;
pub mod unpack;

use crate::cache::Cache;
use anyhow::Result;
use std::path::PathBuf;
use tokio::sync::OnceCell;
use unpack::Unpacked;

/// What must be installed: the machine emulator and what makes disks for it, curl to be copied into guests, what the
/// kernel's modules are compressed with, and Python.
const PACKAGES: &[&str] = &["qemu-system-x86", "qemu-utils", "curl", "xz-utils", PYTHON];

/// What the guest in `tests/python` runs on. It needs no machine, and so its tests ask for nothing else.
pub const PYTHON: &str = "python3";

/// What a machine that is set up has for the lab, and where.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The folder for what is slow to make.
    pub cache: Cache,
    /// Debian's kernel package for virtual machines, with `boot/vmlinuz-*` and `lib/modules`.
    pub kernel: Unpacked,
    /// Debian's statically linked busybox.
    pub busybox: PathBuf,
    /// Gives a guest its vsock where the machine has no `/dev/vhost-vsock`.
    pub vsock_device: PathBuf,
    /// The lab's helper inside a guest, statically linked.
    pub guest_helper: PathBuf,
}

/// Sets the machine up on the first call of a process; later calls answer with what the first one found.
///
/// Fails when something can't be had; the error says what, and what to do. Dropping the future leaves what was
/// finished, and the next call goes on from there.
pub async fn ready() -> Result<&'static Tools> {
    static TOOLS: OnceCell<Tools> = OnceCell::const_new();
    TOOLS.get_or_try_init(set_up).await
}

async fn set_up() -> Result<Tools> {
    let cache = Cache::open()?;
    // One lab at a time: two would install and build the same things side by side.
    let _lock = cache.lock().await?;
    packages::installed(PACKAGES).await?;
    Ok(Tools {
        kernel: unpack::kernel(&cache).await?,
        busybox: unpack::package(&cache, "busybox-static")
            .await?
            .find(&["usr/bin/busybox", "bin/busybox"])?,
        vsock_device: tools::vsock_device(&cache).await?,
        guest_helper: tools::guest_program("moorline-lab-guest", "lab-guest").await?,
        cache,
    })
}
