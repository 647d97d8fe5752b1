//! What the rest of the daemon asks of the shards.

use moorline_shared::{InstanceId, Revision};

use crate::channel::ChannelSpec;

/// The shards, from anywhere in the daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardsHandle {}

/// Why an incarnation could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The incarnation is not later than the one there is.
    #[error("incarnation {incarnation} of {instance} is not later than {current}, which has begun")]
    Stale {
        /// Of which instance.
        instance: InstanceId,
        /// What was asked for.
        incarnation: u64,
        /// What there is.
        current: u64,
    },
    /// The daemon is about to end.
    #[error("the daemon is about to end")]
    Ending,
}

/// What is known of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestStatus {
    /// Whose.
    pub instance: InstanceId,
    /// The life of its VM; 0 before the first.
    pub incarnation: u64,
    /// Its connection, while it has one.
    pub conversation: Option<Conversation>,
    /// Where its own view stands; `None` before the feed brought it.
    pub revision: Option<Revision>,
    /// How many entries its own view has.
    pub entries: usize,
    /// How many bytes all its views take, foreign ones included.
    pub bytes: usize,
    /// How many views it has of other instances.
    pub foreign_views: usize,
    /// What it asked for since the daemon started.
    pub requests: Requests,
}

/// A guest's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The session's number, as in logs.
    pub session: u64,
    /// What its agent calls itself.
    pub build: String,
    /// Where its mirror stands.
    pub applied: Option<Revision>,
    /// How long ago a frame came, in milliseconds.
    pub heard_ms_ago: u64,
}

/// How often a guest asked for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// GET frames.
    pub gets: u64,
    /// LIST frames.
    pub lists: u64,
    /// WATCH frames.
    pub watches: u64,
    /// RELAY frames.
    pub relays: u64,
    /// How many of all these were refused, for whatever reason.
    pub refused: u64,
    /// Connections that ended by the guest's fault.
    pub faults: u64,
}

impl ShardsHandle {
    /// Begins a life of the instance's VM: binds its channel. Call it before the VM starts; the incarnation before, if
    /// there is one, ends, and its connection with it.
    pub async fn begin_incarnation(
        &self,
        instance: InstanceId,
        incarnation: u64,
        channel: ChannelSpec,
    ) -> Result<(), BeginError> {
        let _ = (instance, incarnation, channel);
        Err(BeginError::Ending)
    }

    /// Ends the life of the instance's VM, if it is still this one: closes its channel and its connection.
    pub async fn end_incarnation(&self, instance: InstanceId, incarnation: u64) {
        let _ = (instance, incarnation);
    }

    /// What is known of each guest, in the order of the ids.
    pub async fn status(&self) -> Vec<GuestStatus> {
        Vec::new()
    }
}
