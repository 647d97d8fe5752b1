//! Shards with guests on real sockets: honest ones, and hostile ones beside them.

mod admission;
mod agent;
mod compare;
mod foreign;
mod freshness;
mod grants;
mod honest;
mod hostile;
mod log;
mod polls;
mod secrets;
mod world;

pub(crate) use agent::{Agent, hello, link_key};
pub(crate) use world::{World, entry, id, path, relay, remote, revision, spec, view};
