//! The one task that tails the store for all hosts.

use std::sync::Arc;

use moorline_shared::HostId;
use moorline_shared::api::feed::{OpenFeed, ViewId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::feeds::{Feeds, Held, Interest, Opened};
use super::stats::Stats;
use crate::identity::master::MasterKey;
use crate::settings::AccessControl;
use crate::store::{ReadError, Store, Watch, WatchError};

/// What the dispatcher is asked.
#[derive(Debug)]
enum Command {
    Open {
        host: HostId,
        open: OpenFeed,
        reply: oneshot::Sender<Opened>,
    },
    Close {
        host: HostId,
        session: u64,
    },
    Held {
        host: HostId,
        foreign: Vec<ViewId>,
        reply: oneshot::Sender<Held>,
    },
    SetInterests {
        host: HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: Vec<ViewId>,
        reply: oneshot::Sender<Interest>,
    },
}

/// Where the rest of the control plane asks the dispatcher.
#[derive(Clone, Debug)]
pub struct FeedHandle {
    commands: mpsc::Sender<Command>,
    position: watch::Receiver<u64>,
    stats: Arc<Stats>,
}

/// The dispatcher has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the feed is shutting down")]
pub struct Ended;

impl FeedHandle {
    /// Opens a host's feed; an open one of the same host ends.
    pub async fn open(&self, host: HostId, open: OpenFeed) -> Result<Opened, Ended> {
        let (reply, opened) = oneshot::channel();
        self.commands
            .send(Command::Open { host, open, reply })
            .await
            .map_err(|_| Ended)?;
        opened.await.map_err(|_| Ended)
    }

    /// What a host should hold, with those of these views of other instances that it may.
    pub async fn held(&self, host: HostId, foreign: Vec<ViewId>) -> Result<Held, Ended> {
        let (reply, held) = oneshot::channel();
        self.commands
            .send(Command::Held { host, foreign, reply })
            .await
            .map_err(|_| Ended)?;
        held.await.map_err(|_| Ended)
    }

    /// Changes what a feed carries.
    pub async fn set_interests(
        &self,
        host: HostId,
        session: u64,
        add: Vec<ViewId>,
        remove: Vec<ViewId>,
    ) -> Result<Interest, Ended> {
        let (reply, set) = oneshot::channel();
        self.commands
            .send(Command::SetInterests {
                host,
                session,
                add,
                remove,
                reply,
            })
            .await
            .map_err(|_| Ended)?;
        set.await.map_err(|_| Ended)
    }

    /// Forgets a feed that ended. Never waits; a full queue of commands only means that it is forgotten later.
    pub fn close(&self, host: HostId, session: u64) {
        let _ = self.commands.try_send(Command::Close { host, session });
    }

    /// What the feed counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Up to which transaction every queue has been told what concerns it.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until every queue has been told what concerns it up to transaction `n`; for ever if the dispatcher ends
    /// before. Cancel-safe.
    pub async fn reached(&self, n: u64) {
        let mut position = self.position.clone();
        if position.wait_for(|position| *position >= n).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why the dispatcher ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The store ended, or can't be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The task.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    control: AccessControl,
    master: Arc<MasterKey>,
    watch: Watch,
    feeds: Feeds,
    commands: mpsc::Receiver<Command>,
    position: watch::Sender<u64>,
}

impl Dispatcher {
    /// Reads where everything is, and is ready to [`Self::run`].
    pub async fn new(
        store: &Store,
        control: AccessControl,
        master: Arc<MasterKey>,
    ) -> Result<(Self, FeedHandle), ReadError> {
        let (watch, feeds) = scene(store, control, &master).await?;
        let (sender, commands) = mpsc::channel(256);
        let position = watch::Sender::new(feeds.position());
        let handle = FeedHandle {
            commands: sender,
            position: position.subscribe(),
            stats: feeds.stats().clone(),
        };
        let dispatcher = Self {
            store: store.clone(),
            control,
            master,
            watch,
            feeds,
            commands,
            position,
        };
        Ok((dispatcher, handle))
    }

    /// Tells hosts what concerns them until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), DispatchError> {
        loop {
            tokio::select! {
                // Every arm is cancel-safe: a watch and a channel keep what was not taken.
                () = cancel.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                batch = self.watch.next() => match batch {
                    Ok(batch) => {
                        self.feeds.dispatch(&batch);
                        self.position.send_replace(batch.n);
                    }
                    Err(WatchError::Compacted { .. }) => self.begin_anew().await?,
                    Err(error) => return Err(error.into()),
                },
            }
        }
        self.feeds.end_all();
        Ok(())
    }

    /// Compaction overtook the watch: what was missed is read from the store, and every host is made to come again.
    async fn begin_anew(&mut self) -> Result<(), ReadError> {
        tracing::warn!("the feed fell behind what the store keeps; every host is brought in step anew");
        let (watch, feeds) = scene(&self.store, self.control, &self.master).await?;
        self.watch = watch;
        self.feeds.succeed(feeds);
        self.position.send_replace(self.feeds.position());
        Ok(())
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open { host, open, reply } => {
                let opened = self.feeds.open(host, open);
                // A caller that went away is told by its stream's end; see Close.
                let _ = reply.send(opened);
            }
            Command::Close { host, session } => self.feeds.close(&host, session),
            Command::Held { host, foreign, reply } => {
                let _ = reply.send(self.feeds.held(&host, foreign));
            }
            Command::SetInterests {
                host,
                session,
                add,
                remove,
                reply,
            } => {
                let _ = reply.send(self.feeds.set_interests(&host, session, add, &remove));
            }
        }
    }
}

/// Where everything is now, and a watch from there.
async fn scene(
    store: &Store,
    control: AccessControl,
    master: &Arc<MasterKey>,
) -> Result<(Watch, Feeds), ReadError> {
    let at = store.head().await?;
    let watch = store.watch(at).await?;
    let feeds = Feeds::read(store, at, control, master.clone()).await?;
    Ok((watch, feeds))
}
