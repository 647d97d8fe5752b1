//! The feed: each host hears what concerns its instances and their readers, in whole batches, from one stream.
//!
//! One [`dispatcher`] tails the store, for all [`feeds`]. Their [`index`] says which hosts an event concerns and what
//! each is told; every open feed has a bounded [`queue`], so that a host that doesn't read holds nobody up. Each feed's
//! [`stream`] says when its [`passage`] goes on, which brings the host up to the point where the queue begins, by the
//! views that were [`touched`] since the host was there, and then passes on what the queue gives, in [`parts`] of a bounded
//! length. [`views`] reads what a reader may see of an instance at a revision, and [`digests`] say whether a host has it.
//! [`revocations`] are told before all that, to the hosts whose guests may hold what was revoked. `stats` is what is counted
//! of it.

pub mod digests;
pub mod dispatcher;
pub mod feeds;
pub mod index;
pub mod parts;
pub mod passage;
pub mod queue;
pub mod revocations;
mod stats;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod touched;
pub mod views;

pub use dispatcher::{DispatchError, Dispatcher, FeedHandle};
pub use stats::Stats;
