//! Where guests arrive over `AF_VSOCK`: one port for all, so one shard listens and passes them on.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::sync::Arc;

use moorline_shared::InstanceId;

use super::mailbox::{Mailbox, Message};
use crate::channel::{Arrival, Cids, VsockPort};

/// How many connections are passed on before guests have their turn.
const ACCEPTS: usize = 16;

/// The port, and the shards behind it.
#[derive(Debug)]
pub(super) struct Lobby {
    pub(super) port: VsockPort,
    pub(super) cids: Arc<Cids>,
    pub(super) mailboxes: Arc<[Mailbox]>,
    /// Descriptors were short, most likely; the port is left alone until the next tick.
    pub(super) paused: bool,
}

/// Which of `count` shards has the instance.
pub(super) fn shard_of(instance: &InstanceId, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    usize::try_from(hasher.finish() % count as u64).unwrap_or(0)
}

/// What came of a look at the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reception {
    /// Whoever waited was let in, or as many as may come in one turn.
    Held,
    /// The system refuses, and would at once again: the port is to be left alone for a while.
    Refused,
}

impl Lobby {
    /// Passes on who waits.
    pub(super) fn receive(&self) -> Reception {
        for _ in 0..ACCEPTS {
            match self.port.accept(&self.cids) {
                Ok(Arrival::Guest {
                    instance,
                    cid,
                    socket,
                }) => {
                    let shard = shard_of(&instance, self.mailboxes.len());
                    // A shard that has ended takes no connection; dropping it closes it.
                    let _ = self.mailboxes[shard].send(Message::Arrived(instance, cid, socket));
                }
                Ok(Arrival::Stranger { cid, port }) => {
                    tracing::debug!(cid, port, "a connection over AF_VSOCK is of no guest's agent");
                }
                Err(error) => {
                    if error.kind() == ErrorKind::WouldBlock {
                        return Reception::Held;
                    }
                    tracing::error!(%error, "a connection over AF_VSOCK can't be accepted");
                    return Reception::Refused;
                }
            }
        }
        Reception::Held
    }
}
