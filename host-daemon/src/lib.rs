//! Keeps the data of each instance on this host and serves each instance what it may have, and nothing more.
//!
//! The daemon has two halves. The first is a few *shards*, one thread each, that own the guests: [`channel`] binds the
//! socket of each guest and says whose connection it is, [`cache`] holds what the guests may see, and [`link`] answers
//! them from it, without a lock or a timer per request, and without an allocation for an entry, there or not. The
//! second is one thread for everything that waits: [`uplink`] keeps the cache in step with the control plane and asks it
//! what the cache can't answer, [`vm`] starts and stops the machines, [`credentials`] fetches what guests are given to be
//! somebody, [`persistence`] keeps the cache on disk, [`identity`] keeps what the host itself is known by, [`admin`]
//! serves the two local sockets.
//!
//! Who tells whom: the feed's batches go from [`uplink`] to the shards, whole, and what they say of an instance's VM
//! goes on to [`vm`]; [`vm`] begins and ends the incarnations that a channel belongs to, and reports what became of
//! the machines through [`uplink`]. [`config`] is read and checked before anything binds; [`daemon`] is all of it as one
//! process.
// Denied and not forbidden: `vm::kernel` does what has no safe wrapper.
#![deny(unsafe_code)]

pub mod admin;
pub mod cache;
mod causes;
pub mod channel;
mod comparing;
pub mod config;
pub mod credentials;
pub mod daemon;
mod durable;
pub mod identity;
pub mod link;
mod parts;
pub mod persistence;
pub mod uplink;
pub mod vm;
