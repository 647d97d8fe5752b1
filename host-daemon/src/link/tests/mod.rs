//! Shards with guests on real sockets: honest ones, and hostile ones beside them.

mod agent;
mod foreign;
mod honest;
mod hostile;
mod world;

pub(crate) use agent::Agent;
pub(crate) use world::{World, entry, id, path, revision, spec, view};
