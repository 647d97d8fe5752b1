//! Drives the session of each guest: one thread per shard, and each shard owns its guests.

mod handle;

pub use handle::{BeginError, Conversation, GuestStatus, Requests, ShardsHandle};
