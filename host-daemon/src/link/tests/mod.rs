//! Shards with guests on real sockets: honest ones, and hostile ones beside them.

mod agent;
mod foreign;
mod honest;
mod hostile;
mod world;

use agent::Agent;
use world::{World, entry, id, path, revision, view};
