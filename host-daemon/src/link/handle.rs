//! What the rest of the daemon asks of the shards.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use moorline_shared::api::feed::{FeedItem, View, ViewId};
use moorline_shared::{InstanceId, Revision};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::admission::LifeId;
use super::ask::{Answer, Ask};
use super::clock::{FeedClock, now};
use super::counts::{Counts, FeedCounts};
use super::desk::Desk;
use super::grants::{Grant, Notice};
use super::guest::GuestStatus;
use super::lobby::{Lobby, shard_of};
use super::mailbox::{Begin, Channel, Hybrid, Mailbox, Message, mailbox};
use super::poll::LOBBY;
use super::room::{Full, Room, TooMany};
use super::shard::Shard;
use crate::cache::{FeedBatch, Held, Image, Inventory};
use crate::causes::Causes;
use crate::channel::{ChannelError, ChannelSpec, Cids, PreparedListener, VsockPort};
use crate::config::{CacheConfig, LinkConfig};
use crate::persistence::Taken;

/// The shards and their threads.
#[derive(Debug)]
pub struct Shards {
    handle: ShardsHandle,
    threads: Vec<JoinHandle<Result<(), Errno>>>,
    /// Cancelled when the first of them ends.
    ended: CancellationToken,
}

/// The shards, from anywhere in the daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ShardsHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mailboxes: Arc<[Mailbox]>,
    /// Which CID is whose; `None` where nobody listens on `AF_VSOCK`.
    cids: Option<Arc<Cids>>,
    feed: Arc<FeedClock>,
    counts: Arc<[Arc<Counts>]>,
    feed_counts: FeedCounts,
    room: Arc<Room>,
}

impl Inner {
    /// The desk of the shard with this number.
    fn desk(&self, index: usize, link: &LinkConfig, cache: &CacheConfig, asks: mpsc::Sender<Ask>) -> Desk {
        let (link, cache) = (link.clone(), cache.clone());
        let (feed, room) = (self.feed.clone(), self.room.clone());
        let mut desk = Desk::new(index, link, cache, feed, room, asks, now());
        desk.counts = self.counts[index].clone();
        desk
    }
}

/// Whether anybody listens for guests that come over `AF_VSOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// A shard does.
    Listening,
    /// Nobody does, and a guest with a CID can't be served.
    Closed,
}

/// The life that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(pub u64);

/// What a batch asks of the uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedEffects {
    /// Instances of which what they may see of themselves is another now, or nothing any more.
    pub changed: Vec<InstanceId>,
    /// Views that must be asked for whole.
    pub wanting: Vec<ViewId>,
    /// Views of other instances that the feed need not bring any more.
    pub dropped: Vec<ViewId>,
}

/// The daemon is about to end: no shard answers any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is about to end")]
pub struct Ending;

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
    /// The channel can't be opened.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The host has as many guests as there is room for.
    #[error(transparent)]
    Full(#[from] Full),
    /// The socket can't be waited for.
    #[error("the socket of {instance} can't be waited for")]
    Poll {
        /// Of which instance.
        instance: InstanceId,
        /// What the system says.
        #[source]
        source: Errno,
    },
    /// No shard answers any more.
    #[error(transparent)]
    Ending(#[from] Ending),
}

/// A shard ended before it was told to, and its guests are served no more.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// It has a defect.
    #[error("shard {shard} panicked: {message}")]
    Panicked {
        /// Which shard, from 0 on.
        shard: usize,
        /// What it said.
        message: String,
    },
    /// It can't wait for its guests.
    #[error("shard {shard} can't wait for its guests")]
    System {
        /// Which shard, from 0 on.
        shard: usize,
        /// What the system says.
        source: Errno,
    },
}

/// No guest can be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The threads can't be started.
    #[error("a thread for the guests can't be started")]
    Thread(#[from] std::io::Error),
    /// There are not descriptors enough.
    #[error(transparent)]
    Room(#[from] TooMany),
}

impl Shards {
    /// Starts the threads. What they can't answer they ask by `asks`; guests with CIDs arrive at `vsock`.
    pub fn start(
        link: &LinkConfig,
        cache: &CacheConfig,
        vsock: Option<VsockPort>,
        asks: &mpsc::Sender<Ask>,
    ) -> Result<Self, StartError> {
        let room = Arc::new(Room::of(link, cache)?);
        tracing::info!(guests = room.guests(), "there is room for so many guests");
        let tokens = Arc::new(AtomicU64::new(LOBBY + 1));
        let both = (0..link.shard_count()).map(|_| mailbox());
        let both: Vec<_> = both.collect::<Result<_, _>>().map_err(std::io::Error::from)?;
        let (mailboxes, inboxes): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        let mailboxes: Arc<[Mailbox]> = mailboxes.into();
        let cids = vsock.is_some().then(Arc::<Cids>::default);
        let mut lobby = vsock.zip(cids.clone()).map(|(port, cids)| Lobby {
            port,
            cids,
            mailboxes: mailboxes.clone(),
            paused: false,
        });
        let mut shards = Self::of(Inner {
            counts: mailboxes.iter().map(|_| Arc::default()).collect(),
            mailboxes,
            cids,
            feed: Arc::default(),
            feed_counts: FeedCounts::default(),
            room,
        });
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let desk = shards.handle.0.desk(index, link, cache, asks.clone());
            let shard = Shard::new(desk, inbox, lobby.take(), tokens.clone());
            let shard = shard.map_err(std::io::Error::from)?;
            shards.spawn(move || shard.run())?;
        }
        Ok(shards)
    }

    /// None of them runs yet.
    fn of(inner: Inner) -> Self {
        Self {
            handle: ShardsHandle(Arc::new(inner)),
            threads: Vec::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Starts the next shard's thread, whose end is told however it comes about.
    pub(crate) fn spawn(
        &mut self,
        run: impl FnOnce() -> Result<(), Errno> + Send + 'static,
    ) -> std::io::Result<()> {
        let end = self.ended.clone().drop_guard();
        let thread = std::thread::Builder::new().name(format!("shard-{}", self.threads.len()));
        self.threads.push(thread.spawn(move || {
            let _end = end;
            run()
        })?);
        Ok(())
    }

    /// Ready once a shard has ended, which none does before [`Self::drain`] unless it failed. Cancel-safe.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }

    /// The way to speak with them.
    pub fn handle(&self) -> &ShardsHandle {
        &self.handle
    }

    /// Tells all guests to come again after so many milliseconds, and waits until they have read it, 5 s at most.
    /// It blocks the thread.
    ///
    /// Fails if a shard had ended by itself; with several, the first is the error and the others are logged.
    pub fn drain(self, reconnect_after_ms: u32) -> Result<(), ShardError> {
        for mailbox in self.handle.0.mailboxes.iter() {
            // One that has ended already needs no telling.
            let _ = mailbox.send(Message::Drain(reconnect_after_ms));
        }
        let mut outcome = Ok(());
        for (shard, thread) in self.threads.into_iter().enumerate() {
            let Err(error) = join(shard, thread) else {
                continue;
            };
            if outcome.is_ok() {
                outcome = Err(error);
            } else {
                tracing::error!(error = %Causes(&error), "another shard failed as well");
            }
        }
        outcome
    }
}

fn join(shard: usize, thread: JoinHandle<Result<(), Errno>>) -> Result<(), ShardError> {
    let ended = thread.join().map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("without a word").to_owned();
        ShardError::Panicked { shard, message }
    })?;
    ended.map_err(|source| ShardError::System { shard, source })
}

impl ShardsHandle {
    /// How far behind the control plane the host may be; the uplink keeps it.
    pub fn feed_clock(&self) -> &FeedClock {
        &self.0.feed
    }

    /// What each shard has counted.
    pub fn counts(&self) -> &[Arc<Counts>] {
        &self.0.counts
    }

    /// How many guests there is room for.
    pub fn room(&self) -> usize {
        self.0.room.guests()
    }

    /// What was counted of the feed; the uplink keeps it.
    pub fn feed_counts(&self) -> &FeedCounts {
        &self.0.feed_counts
    }

    /// Whether guests can come over `AF_VSOCK`.
    pub fn vsock(&self) -> PortState {
        match self.0.cids {
            Some(_) => PortState::Listening,
            None => PortState::Closed,
        }
    }

    fn index(&self, instance: &InstanceId) -> usize {
        shard_of(instance, self.0.mailboxes.len())
    }

    fn mailbox(&self, instance: &InstanceId) -> &Mailbox {
        &self.0.mailboxes[self.index(instance)]
    }

    async fn call<T>(
        &self,
        mailbox: &Mailbox,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Ending> {
        let (sender, receiver) = oneshot::channel();
        mailbox.send(message(sender)).map_err(|_| Ending)?;
        receiver.await.map_err(|_| Ending)
    }

    /// Begins a life of the instance's VM: binds its channel. Call it before the VM starts; the life before, if there
    /// is one, ends, and its connection with it.
    pub async fn begin_incarnation(
        &self,
        instance: InstanceId,
        incarnation: u64,
        channel: ChannelSpec,
    ) -> Result<(), BeginError> {
        match channel {
            ChannelSpec::HybridVsock {
                uds_path,
                peer,
                admission,
            } => {
                let listener = PreparedListener::bind(&uds_path, peer)?;
                let hybrid = Hybrid { listener, admission };
                self.begin(instance, incarnation, Channel::Hybrid(hybrid)).await?;
                self.release_cid(instance);
                Ok(())
            }
            ChannelSpec::Vsock { cid } => {
                let cids = self.0.cids.as_ref().ok_or(ChannelError::NoVsock)?;
                let before = cids.assign(cid, instance)?;
                let begun = self.begin(instance, incarnation, Channel::Cid(cid)).await;
                begun.inspect_err(|_| cids.give_back(instance, before))
            }
        }
    }

    async fn begin(
        &self,
        instance: InstanceId,
        incarnation: u64,
        channel: Channel,
    ) -> Result<(), BeginError> {
        let begin = Begin {
            instance,
            incarnation,
            channel,
        };
        self.call(self.mailbox(&instance), |reply| Message::Begin(begin, reply))
            .await?
    }

    /// It is recorded that the guest's link key is out: whoever waits for it gets it now.
    pub fn hand_over(&self, life: LifeId) {
        // A shard that has ended has nobody waiting.
        let _ = self.mailbox(&life.instance).send(Message::HandOver(life));
    }

    fn release_cid(&self, instance: InstanceId) {
        if let Some(cids) = &self.0.cids {
            cids.release(instance);
        }
    }

    /// Ends the life of the instance's VM, if it is still this one. When this returns, its channel is closed, and its CID
    /// may be another's.
    pub async fn end_incarnation(&self, instance: InstanceId, incarnation: u64) {
        let ended = Ended(incarnation);
        let end = |reply| Message::End(instance, ended, reply);
        // A shard that has ended holds no channel.
        if let Ok(Some(Ended(_))) = self.call(self.mailbox(&instance), end).await {
            self.release_cid(instance);
        }
    }

    /// Gives a guest something, or takes it away, in this life of its VM; in any other it is let go.
    pub fn grant(&self, instance: InstanceId, incarnation: u64, grant: Grant) {
        // A shard that has ended gives nobody anything.
        let _ = self
            .mailbox(&instance)
            .send(Message::Grant(instance, incarnation, grant));
    }

    /// Has everything told from now on that decides what guests are given. Call it before the first life begins.
    pub fn notify(&self, notices: &mpsc::UnboundedSender<Notice>) {
        for mailbox in self.0.mailboxes.iter() {
            // A shard that has ended has nothing to tell.
            let _ = mailbox.send(Message::Notify(notices.clone()));
        }
    }

    /// What is known of each guest, in the order of the ids.
    pub async fn status(&self) -> Result<Vec<GuestStatus>, Ending> {
        let mut all = Vec::new();
        for mailbox in self.0.mailboxes.iter() {
            all.extend(self.call(mailbox, Message::Status).await?);
        }
        all.sort_by_key(|status| status.instance);
        Ok(all)
    }

    /// Returns once every shard's loop has taken a turn.
    pub async fn all_turn(&self) -> Result<(), Ending> {
        for mailbox in self.0.mailboxes.iter() {
            self.call(mailbox, Message::Alive).await?;
        }
        Ok(())
    }

    /// What there is of every view, to be compared with what there should be. A shard is asked until it has looked at all
    /// that changed since the last time, and takes a turn for its guests between.
    pub async fn held(&self) -> Result<Vec<Held>, Ending> {
        let mut all = Vec::new();
        for mailbox in self.0.mailboxes.iter() {
            loop {
                if let Inventory::Complete(held) = self.call(mailbox, Message::Held).await? {
                    all.extend(held);
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Applies a batch of the feed. When this returns, no guest is answered from before it.
    pub async fn apply(&self, batch: FeedBatch) -> Result<FeedEffects, Ending> {
        let mut waiting = Vec::new();
        for (mailbox, part) in self.0.mailboxes.iter().zip(self.split(batch)) {
            if part.from.is_some() && part.items.is_empty() {
                continue;
            }
            let (sender, receiver) = oneshot::channel();
            mailbox.send(Message::Feed(part, sender)).map_err(|_| Ending)?;
            waiting.push(receiver);
        }
        let mut all = FeedEffects::default();
        for receiver in waiting {
            let effects = receiver.await.map_err(|_| Ending)?;
            all.changed.extend(effects.changed);
            all.wanting.extend(effects.wanting);
            all.dropped.extend(effects.dropped);
        }
        Ok(all)
    }

    /// What each shard has to know of the batch.
    fn split(&self, batch: FeedBatch) -> Vec<FeedBatch> {
        let (from, to) = (batch.from, batch.to);
        let empty = || FeedBatch {
            from,
            to,
            items: Vec::new(),
        };
        let mut parts: Vec<_> = self.0.mailboxes.iter().map(|_| empty()).collect();
        for item in batch.items {
            parts[self.index(reader(&item))].items.push(item);
        }
        parts
    }

    /// Replaces a view by what the control plane showed when asked.
    pub async fn replace(&self, view: View) -> Result<FeedEffects, Ending> {
        let mailbox = self.mailbox(&view.view.reader);
        self.call(mailbox, |reply| Message::View(Box::new(view), reply))
            .await
    }

    /// Begins with what an earlier daemon had of an instance, before the feed has named it.
    pub fn restore(&self, image: Image) {
        // A shard that has ended has no readers.
        let _ = self
            .mailbox(&image.instance)
            .send(Message::Restore(Box::new(image)));
    }

    /// The instance is this host's, and what it may see of itself will be [asked for](Self::replace).
    pub fn await_own(&self, instance: InstanceId) {
        // A shard that has ended has no readers.
        let _ = self.mailbox(&instance).send(Message::Await(instance));
    }

    /// What the instance may see of itself now; `None` if nothing of it is served.
    pub async fn take_image(&self, instance: InstanceId) -> Result<Option<Taken>, Ending> {
        let take = |reply| Message::TakeImage(instance, reply);
        self.call(self.mailbox(&instance), take).await
    }

    /// Changes of the view up to `at` were lost: readers see it as it was until [`Self::replace`].
    pub fn lose(&self, view: ViewId, at: Revision) {
        // A shard that has ended has no readers.
        let _ = self.mailbox(&view.reader).send(Message::Lost(view, at));
    }

    /// The control plane won't bring this view: whoever waits for it is told so, and the next who wants it asks anew.
    pub fn refuse(&self, view: ViewId) {
        // A shard that has ended has no readers.
        let _ = self.mailbox(&view.reader).send(Message::Refused(view));
    }

    /// The control plane's name, which revisions belong to.
    pub fn deployment(&self, name: &str) {
        let name: Arc<str> = name.into();
        for mailbox in self.0.mailboxes.iter() {
            // A shard that has ended welcomes nobody.
            let _ = mailbox.send(Message::Deployment(name.clone()));
        }
    }

    /// What the control plane answered to a question of this shard in the reader's name. Every [`Ask`] but those of
    /// interests must be answered: the guest's share is taken up until then.
    pub fn answer(&self, shard: usize, reader: InstanceId, answer: Answer) {
        // Nobody waits at a shard that has ended.
        let _ = self.0.mailboxes[shard].send(Message::Answer(reader, answer));
    }
}

/// In whose shard the item belongs.
fn reader(item: &FeedItem) -> &InstanceId {
    match item {
        FeedItem::Instance(spec) => &spec.instance,
        FeedItem::InstanceGone { instance } => instance,
        FeedItem::View(view) => &view.view.reader,
        FeedItem::Entry { view, .. } => &view.reader,
    }
}

#[cfg(test)]
mod tests {
    use super::{ShardError, Shards};
    use crate::config::{CacheConfig, LinkConfig};
    use rustix::io::Errno;
    use std::time::Duration;
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    async fn after(ending: fn() -> Result<(), Errno>) -> ShardError {
        let (asks, _) = mpsc::channel(1);
        let link = LinkConfig::default();
        let mut shards = Shards::start(&link, &CacheConfig::default(), None, &asks).unwrap();
        shards.spawn(ending).unwrap();
        timeout(Duration::from_secs(10), shards.ended()).await.unwrap();
        let drained = tokio::task::spawn_blocking(move || shards.drain(0));
        drained.await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn the_end_of_a_shard_is_told_at_once_and_its_cause_at_the_end() {
        let panicked = after(|| panic!("a defect")).await;
        assert!(panicked.to_string().ends_with("panicked: a defect"), "{panicked}");
        let failed = after(|| Err(Errno::BADF)).await;
        assert!(
            matches!(
                failed,
                ShardError::System {
                    source: Errno::BADF,
                    ..
                }
            ),
            "{failed}"
        );
    }
}
