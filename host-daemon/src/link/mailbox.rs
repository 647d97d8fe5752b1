//! The messages to a shard: a queue, and a descriptor that wakes the shard's loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use moorline_shared::api::feed::{View, ViewId};
use moorline_shared::{InstanceId, Revision};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::admission::{Admission, LifeId};
use super::ask::Answer;
use super::grants::{Grant, Notice};
use super::guest::GuestStatus;
use super::handle::{BeginError, Ended, FeedEffects};
use crate::cache::{FeedBatch, Image, Inventory};
use crate::channel::PreparedListener;
use crate::persistence::Taken;

/// What the rest of the daemon tells a shard.
#[derive(Debug)]
pub(super) enum Message {
    /// The shard's part of a batch.
    Feed(FeedBatch, oneshot::Sender<FeedEffects>),
    /// A view as the control plane showed it when asked.
    View(Box<View>, oneshot::Sender<FeedEffects>),
    /// What an earlier daemon had.
    Restore(Box<Image>),
    /// An instance of this host whose own view has yet to be asked for.
    Await(InstanceId),
    /// What the instance may see of itself is wanted, as it is now.
    TakeImage(InstanceId, oneshot::Sender<Option<Taken>>),
    /// Changes of the view up to this revision were lost.
    Lost(ViewId, Revision),
    /// The control plane won't bring this view.
    Refused(ViewId),
    /// The control plane's name, from the feed.
    Deployment(Arc<str>),
    Begin(Begin, oneshot::Sender<Result<(), BeginError>>),
    /// The reply is the life that ended, or nothing if it was not the present one.
    End(InstanceId, Ended, oneshot::Sender<Option<Ended>>),
    /// That the guest's link key is out is recorded.
    HandOver(LifeId),
    /// A connection from this CID, which was the instance's when it was accepted.
    Arrived(InstanceId, u32, OwnedFd),
    /// To a question of this instance's.
    Answer(InstanceId, Answer),
    /// For this life of the instance's VM.
    Grant(InstanceId, u64, Grant),
    /// Who is to be told of guests' lives.
    Notify(UnboundedSender<Notice>),
    Status(oneshot::Sender<Vec<GuestStatus>>),
    /// Say that the loop turns.
    Alive(oneshot::Sender<()>),
    /// What there is of every view, to be compared.
    Held(oneshot::Sender<Inventory>),
    /// Tell the guests to come again after so many milliseconds, and end.
    Drain(u32),
}

/// A life of an instance's VM begins.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) instance: InstanceId,
    pub(super) incarnation: u64,
    pub(super) channel: Channel,
}

/// Where the connections of a life arrive.
#[derive(Debug)]
pub(super) enum Channel {
    /// Over `AF_VSOCK`, from this CID.
    Cid(u32),
    /// At a socket of their own.
    Hybrid(Hybrid),
}

/// A hybrid vsock's socket, and who is let in there.
#[derive(Debug)]
pub(super) struct Hybrid {
    pub(super) listener: PreparedListener,
    pub(super) admission: Admission,
}

/// The sender's end.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: Sender<Message>,
    bell: Arc<OwnedFd>,
}

/// The shard's end.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: Receiver<Message>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
pub(super) fn mailbox() -> Result<(Mailbox, Inbox), Errno> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    let inbox = Inbox {
        receiver,
        bell: bell.clone(),
    };
    Ok((Mailbox { sender, bell }, inbox))
}

impl Mailbox {
    /// Sends a message; gives it back if the shard has ended.
    pub(super) fn send(&self, message: Message) -> Result<(), Message> {
        self.sender.send(message).map_err(|unsent| unsent.0)?;
        // The counter can only be full if the shard has been woken already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl Inbox {
    /// Everything that has come. Silences the bell first, so that what comes meanwhile rings again.
    pub(super) fn take(&self) -> impl Iterator<Item = Message> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.receiver.try_iter()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
