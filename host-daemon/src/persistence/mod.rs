//! What the host's instances may see of themselves, on disk: so that a daemon that starts while the control plane is away
//! serves them what the one before it had, and one that starts while it is there fetches only what changed since.
//!
//! `cache/INSTANCE.view` is what an instance may see of itself, `cache/position` the revision that they all show. The
//! position is written when everything is on disk that changed up to it, never before; so a view may show a later state
//! than the position says, and never an earlier one. Each file is replaced in one step and says by a digest whether it is
//! whole ([`frame`]). Secret entries are sealed ([`key`]); credentials and what the instances see of others are not here.
//!
//! [`open`] reads it all before a guest is let in. A file that can't be used is named in the log, set aside under
//! `cache/corrupt/`, and asked for anew; everything else is served meanwhile. The feed tells a [`Handle`] what changed,
//! and the [`Writer`] takes it from the shards when it is ready to write: nobody waits for the disk, and what changes
//! often is written once. While the disk is full or read-only, everything is served from memory.

mod disk;
mod folder;
mod frame;
mod key;
mod load;
mod mark;
mod pending;
mod position;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub use disk::Taken;
pub use load::{Kept, Restored};
pub use pending::{Before, Handle, Pending};
pub use writer::{Writer, open};
