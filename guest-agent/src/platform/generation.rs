//! Which generation of its VM this machine is: a VM that was restored from a snapshot, or copied while it ran, is of
//! another one than it was.
//!
//! A VMM changes the id then (the Virtual Machine Generation ID). Linux keeps it to itself: its driver `vmgenid` stirs the
//! kernel's random numbers with it, and since 6.10 tells programs that it changed, but not what it is. QEMU's firmware
//! configuration device names it too, to root, and what it says is always of the QEMU that runs the machine now, so that
//! the driver isn't needed. Where it isn't said, a VMM that restores a guest has to begin another life of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The page that QEMU gives to the firmware, for it to lie in the machine's memory.
const PAGE: &str = "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw";
/// Where the id begins in it (QEMU's `docs/specs/vmgenid`).
const OFFSET: u64 = 40;

/// The id of the generation; `None` where nobody says.
pub fn generation() -> Option<[u8; 16]> {
    let mut id = [0; 16];
    let page = File::open(PAGE).ok()?;
    page.read_exact_at(&mut id, OFFSET).ok()?;
    Some(id)
}
