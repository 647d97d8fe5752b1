//! Keeps the shards in step with the control plane, and says what is wanted of the machines.
//!
//! A session is opened and followed here. [`apply`] is what becomes of what it brings, [`calls`] is what has to be asked
//! for beside it, [`compare`] looks whether it brought everything, and [`polls`] is how the host keeps in step where no
//! session stays open.

mod apply;
mod calls;
mod compare;
mod polls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use moorline_client::{Client, ClientError, EventStream};
use moorline_shared::api::feed::{FeedMessage, MISSED_BOOKMARKS, OpenFeed, ViewId};
use moorline_shared::{HostId, InstanceId, Revision};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assembly::{Assembly, Misplaced};
use super::backoff::Backoff;
use super::interests::{InterestChange, Interests};
use super::sync::Syncing;
use super::{Causes, SpecChange};
use crate::config::ControlConfig;
use crate::credentials;
use crate::link::{Ending, ShardsHandle};
use crate::persistence::{self, Kept, Restored};
use apply::Snapshot;
use calls::Calls;
use polls::Polls;

/// How long the first line may take.
const HELLO: Duration = Duration::from_secs(30);

/// The feed, over all its sessions.
pub(super) struct Feed {
    client: Client,
    host: HostId,
    shards: ShardsHandle,
    specs: mpsc::Sender<SpecChange>,
    credentials: credentials::Handle,
    /// Told what has to be on disk.
    kept: persistence::Handle,
    changes: mpsc::UnboundedReceiver<InterestChange>,
    interests: Interests,
    /// Up to where everything is applied; `None` asks for everything anew.
    cursor: Option<Revision>,
    deployment: Option<String>,
    /// The instances that are this host's, each with the revision of what was last said of its machine.
    instances: BTreeMap<InstanceId, Revision>,
    machines: Machines,
    /// Views that have to be asked for.
    lost: BTreeSet<ViewId>,
    /// Those that came and were from before what was lost.
    too_early: BTreeSet<ViewId>,
    backoff: Backoff,
    syncing: Syncing,
    calls: Calls,
    /// How it polls; `None` where it is told.
    polls: Option<Polls>,
}

/// Whether it is known which machines are this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machines {
    /// Only what an earlier daemon knew, and much may have changed since.
    Unnamed,
    /// All were named since this daemon started.
    Named,
}

/// One session of the feed.
struct Session {
    number: u64,
    /// How long it may be silent.
    silence: Duration,
    assembly: Assembly,
    snapshot: Snapshot,
    /// The views that a poll is to bring whole, because they are new to the host.
    added: Vec<ViewId>,
    told: Told,
}

/// How much a session has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// What may not be all.
    Something,
    /// All that a poll should: the bookmark is its last line.
    Everything,
}

/// A poll has told everything.
struct Polled {
    /// The views that it was to bring whole.
    added: Vec<ViewId>,
}

impl Session {
    /// No more lines come.
    fn ended(self) -> Result<Polled, Over> {
        match self.told {
            Told::Everything => Ok(Polled { added: self.added }),
            Told::Something => Err(Over::Closed),
        }
    }
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the daemon ends")]
    Cancelled,
    #[error(transparent)]
    Ending(#[from] Ending),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the control plane ended the feed")]
    Closed,
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("the feed's first line was not its hello, or a hello for another host")]
    NoHello,
    #[error("the control plane is of another deployment than before")]
    OtherDeployment,
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    #[error("by the control plane other instances are this host's than it has")]
    OtherInstances,
    #[error("a batch builds on {from}, and the host stands {}", at.map_or("nowhere".into(), |at| format!("at {at}")))]
    Gap { from: Revision, at: Option<Revision> },
}

impl Feed {
    pub(super) fn new(
        client: Client,
        host: HostId,
        shards: ShardsHandle,
        (specs, credentials): (mpsc::Sender<SpecChange>, credentials::Handle),
        changes: mpsc::UnboundedReceiver<InterestChange>,
        (restored, kept): (Restored, persistence::Handle),
        control: &ControlConfig,
    ) -> Self {
        let behind = |(instance, state): &(InstanceId, Kept)| (*state == Kept::Behind).then_some(*instance);
        let behind = restored.instances.iter().filter_map(behind);
        let lost = behind.map(ViewId::own).collect();
        let instances = restored
            .instances
            .iter()
            .map(|(instance, _)| (*instance, Revision::ZERO));
        Self {
            client,
            host,
            shards,
            specs,
            credentials,
            kept,
            changes,
            interests: Interests::default(),
            cursor: restored.cursor,
            deployment: restored.deployment,
            instances: instances.collect(),
            machines: Machines::Unnamed,
            lost,
            too_early: BTreeSet::new(),
            backoff: Backoff::new(),
            syncing: Syncing::every(control.sync_seconds, seed(), crate::link::now()),
            calls: Calls::default(),
            polls: Polls::new(control),
        }
    }

    /// Opens session after session until it is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        if let Some(polls) = &self.polls {
            self.shards.feed_clock().polls(polls.longest_ms());
        }
        loop {
            // Cancel-safe: a session that is dropped in the middle of a batch ends the daemon, and the cursor on disk is the
            // one before the batch.
            let over = tokio::select! {
                () = cancel.cancelled() => Over::Cancelled,
                over = self.session() => over,
            };
            self.shards.feed_clock().lost();
            self.shards.feed_counts().lost.add();
            // What was asked in the session is not answered any more.
            self.calls = Calls::default();
            self.syncing.forget();
            if matches!(over, Over::Cancelled | Over::Ending(_)) {
                return;
            }
            let wait = self.backoff.next();
            let cursor = self.cursor.map(tracing::field::display);
            tracing::warn!(error = %Causes(&over), ?wait, cursor, "the feed is lost");
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A feed from its first line to its end; of polls, all that go well one after the other.
    async fn session(&mut self) -> Over {
        loop {
            if let Err(over) = self.poll().await {
                return over;
            }
        }
    }

    /// One that goes well, and the pause after it. A feed that stays open comes to no such end.
    async fn poll(&mut self) -> Result<(), Over> {
        let (stream, session) = self.open().await?;
        let Polled { added } = self.follow(stream, session).await?;
        self.refuse_what_did_not_come(&added);
        self.rest().await
    }

    async fn open(&mut self) -> Result<(EventStream<FeedMessage>, Session), Over> {
        while let Ok(change) = self.changes.try_recv() {
            self.interests.change(change);
        }
        let (cursor, interests) = (self.cursor, self.interests.open());
        // What has not arrived by now is added anew, after that.
        let poll = self.next_poll();
        let added = poll.iter().flat_map(|poll| poll.add.clone()).collect();
        let open = OpenFeed {
            cursor,
            interests,
            poll,
        };
        let opened = tokio::time::timeout(HELLO, async {
            let mut stream = self.client.open_feed(&self.host, &open).await?;
            let first = stream.next().await.ok_or(Over::Closed)??;
            Ok::<_, Over>((stream, first))
        });
        let (stream, first) = opened.await.map_err(|_| Over::Silent(HELLO))??;
        let session = self.greeted(first, added)?;
        Ok((stream, session))
    }

    fn greeted(&mut self, first: FeedMessage, added: Vec<ViewId>) -> Result<Session, Over> {
        let FeedMessage::Hello {
            host,
            session,
            deployment,
            bookmark_seconds,
        } = first
        else {
            return Err(Over::NoHello);
        };
        if host != self.host {
            return Err(Over::NoHello);
        }
        let cursor = self.cursor.map(tracing::field::display);
        if self.polls.is_none() {
            tracing::info!(session, deployment, cursor, "the feed is open");
        }
        self.shards.feed_counts().opened.add();
        self.shards.deployment(&deployment);
        self.kept.deployment(&deployment);
        let before = self.deployment.replace(deployment);
        if before.is_some() && before != self.deployment {
            // The cursor that this session was opened with means nothing there.
            self.cursor = None;
            // The shards have let go of all their views, and will not say so of each.
            self.interests = Interests::default();
            self.lost.clear();
            self.too_early.clear();
            return Err(Over::OtherDeployment);
        }
        Ok(Session {
            number: session,
            silence: match &self.polls {
                None => Duration::from_secs(u64::from(bookmark_seconds.max(1))) * MISSED_BOOKMARKS,
                Some(polls) => polls.silence(),
            },
            assembly: match &self.polls {
                None => Assembly::new(),
                Some(_) => Assembly::of_poll(),
            },
            snapshot: Snapshot::default(),
            added,
            told: Told::Something,
        })
    }

    async fn follow(
        &mut self,
        mut stream: EventStream<FeedMessage>,
        mut session: Session,
    ) -> Result<Polled, Over> {
        let mut heard = Instant::now();
        loop {
            self.begin_calls(&session);
            // Cancel-safe: the stream keeps what it has not given out, so do the channel and the set of calls.
            tokio::select! {
                message = stream.next() => {
                    heard = Instant::now();
                    let Some(message) = message else {
                        return session.ended();
                    };
                    self.take(&mut session, message?).await?;
                    self.backoff.reset();
                }
                () = tokio::time::sleep_until(heard + session.silence) => {
                    return Err(Over::Silent(session.silence));
                }
                Some(change) = self.changes.recv() => self.interests.change(change),
                Some(called) = self.calls.under_way.join_next() => self.called(called).await?,
            }
        }
    }

    /// Begins what has to be asked of the control plane and is not being asked yet: nothing while a snapshot may still
    /// bring it.
    fn begin_calls(&mut self, session: &Session) {
        if session.assembly.catches_up() {
            return;
        }
        self.ask_for_views();
        if self.polls.as_ref().is_none_or(Polls::are_kept) {
            self.set_interests(session.number);
        }
    }

    async fn take(&mut self, session: &mut Session, message: FeedMessage) -> Result<(), Over> {
        match &message {
            FeedMessage::Revoked(revocation) => self.credentials.revoked(revocation.clone()),
            // All that was revoked until then has come before.
            FeedMessage::Snapshot { .. } | FeedMessage::Bookmark { .. } => {
                self.credentials.heard(crate::link::now());
            }
            _ => {}
        }
        let in_step = matches!(message, FeedMessage::Bookmark { .. });
        for whole in session.assembly.take(message)? {
            self.apply_whole(&mut session.snapshot, whole).await?;
            if !session.assembly.catches_up() {
                self.shards.feed_clock().heard(crate::link::now());
            }
        }
        session.told = match &self.polls {
            Some(_) if in_step => Told::Everything,
            _ => Told::Something,
        };
        if in_step {
            self.compare().await?;
        }
        Ok(())
    }
}

/// A number that hardly another host has. Without random bytes it is the same for all, which only costs the spread.
fn seed() -> u64 {
    getrandom::u64().unwrap_or_default()
}
