//! Starts real daemons and real QEMU guests, and waits for observable conditions.
//!
//! A test or the demo goes through these modules from top to bottom:
//!
//! 1. [`setup`] makes sure that the machine has what the lab runs (QEMU, a guest kernel, the vsock device) and
//!    answers with [`setup::Tools`], which say where it all is.
//! 2. [`image`] builds a guest image from them: a stock Debian kernel and a busybox initramfs, with the agent
//!    and whatever else a test puts in.
//! 3. [`guest`] boots the image under QEMU without a NIC, and talks with what runs inside through a
//!    [`guest::Control`] channel. A guest that somebody else booted, such as the host daemon, has the same
//!    channel.
//! 4. [`deployment`] is a control plane and a host daemon as processes, with the guests that the daemon starts;
//!    [`demo`] shows the main job on one.
//! 5. [`mod@bench`] measures our programs against peers and against the physical limit.
//! 6. A [`namespace`] gives a part of a deployment a network of its own, which a test can break.
//! 7. [`wait`] is how everything here waits: for a condition, with a deadline.
//!
//! What is slow to make lies in the [`cache`], outside the checkout; [`progress`] tells a person what takes
//! long. Nothing the lab starts outlives it: every process dies with the thread that started it.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cache;
pub mod demo;
pub mod deployment;
pub mod guest;
pub mod image;
pub mod namespace;
pub mod package;
pub mod process;
pub mod progress;
pub mod setup;
pub mod wait;
