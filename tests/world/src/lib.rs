//! A deterministic world: a control plane, two hosts and four guests, with a network and a clock that are made up.
//!
//! The processes are the real cores: the control plane's executor and feed on a store in memory ([`plane`], [`answers`]),
//! the host's floor with its cache and its sessions ([`host`], [`course`] for what the feed does there, and [`disk`] for what
//! outlives it), the agent's session, mirror and changes under way ([`agent`], [`programs`]). There is no runtime, no thread,
//! no socket and no time but the world's own ([`clock`]). [`world`] has them all and the single steps by which anything moves,
//! [`errands`] among them; [`network`] is what is under way; [`found`] is how it begins.
//!
//! proptest makes schedules of [`event`]s, which [`happen`], by [`doings`] and [`fates`]: users and guests change things,
//! bytes and lines and calls move, get lost, are made twice and overtake one another, processes are killed and start,
//! machines stand still and are put back to snapshots, and so is the control plane. After every event the invariants of
//! [`check`] are looked at, against what the master copy was at every revision ([`truth`]) and what programs were told
//! ([`ledger`]). At the end of a schedule all is healed, and [`settle`] sees to it that everybody comes to the same.
//!
//! [`mutant`]s are bugs on purpose, each of which must be found. [`explore`] runs schedules, and counts what happened in
//! them: what never happens proves nothing.
#![forbid(unsafe_code)]

pub mod agent;
pub mod answers;
pub mod check;
pub mod clock;
pub mod course;
pub mod disk;
pub mod doings;
pub mod errands;
pub mod event;
pub mod explore;
pub mod fates;
pub mod found;
pub mod happen;
pub mod host;
pub mod ledger;
pub mod mutant;
pub mod network;
pub mod plane;
pub mod programs;
pub mod settle;
pub mod state;
pub mod truth;
pub mod world;

pub use event::Event;
pub use mutant::Mutant;
pub use world::World;

/// How many hosts there are.
pub const HOSTS: usize = 2;
/// How many guests there are room for, on both hosts together.
pub const SLOTS: usize = 4;
