//! Keeps the shards in step with the control plane, and says what is wanted of the machines.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use moorline_client::{Client, ClientError, EventStream, FeedView};
use moorline_shared::api::feed::{FeedItem, FeedMessage, OpenFeed, View, ViewId};
use moorline_shared::{HostId, InstanceId, Revision};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::interests::{InterestChange, Interests};
use super::{Causes, SpecChange};
use crate::cache::FeedBatch;
use crate::link::{Ending, FeedEffects, ShardsHandle};

/// How long the first line may take.
const HELLO: Duration = Duration::from_secs(30);
/// How long after a failure a view is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many views are asked for at once: all of a host's may be lost together, and then so are other hosts'.
const VIEWS_AT_ONCE: usize = 16;
/// So many bookmarks missed mean that the feed is dead.
const MISSED_BOOKMARKS: u32 = 3;

/// The feed, over all its sessions.
pub(super) struct Feed {
    client: Client,
    host: HostId,
    shards: ShardsHandle,
    specs: mpsc::Sender<SpecChange>,
    changes: mpsc::UnboundedReceiver<InterestChange>,
    interests: Interests,
    /// Up to where everything is applied; `None` asks for everything anew.
    cursor: Option<Revision>,
    deployment: Option<String>,
    /// The instances that are this host's.
    instances: BTreeSet<InstanceId>,
    /// Views that have to be asked for.
    lost: BTreeSet<ViewId>,
    backoff: Backoff,
}

/// One session of the feed.
struct Session {
    number: u64,
    /// How long it may be silent.
    silence: Duration,
    calls: JoinSet<Called>,
    /// Views that are being asked for.
    asked: BTreeSet<ViewId>,
    setting_interests: bool,
}

/// A call that ended.
enum Called {
    View(ViewId, Result<FeedView, ClientError>),
    Interests(Vec<ViewId>, Result<(), ClientError>),
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
    #[error("a batch builds on {from}, and the host stands {}", at.map_or("nowhere".into(), |at| format!("at {at}")))]
    Gap { from: Revision, at: Option<Revision> },
}

impl Feed {
    pub(super) fn new(
        client: Client,
        host: HostId,
        shards: ShardsHandle,
        specs: mpsc::Sender<SpecChange>,
        changes: mpsc::UnboundedReceiver<InterestChange>,
    ) -> Self {
        Self {
            client,
            host,
            shards,
            specs,
            changes,
            interests: Interests::default(),
            cursor: None,
            deployment: None,
            instances: BTreeSet::new(),
            lost: BTreeSet::new(),
            backoff: Backoff::new(),
        }
    }

    /// Opens session after session until it is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            // Cancel-safe: a session that is dropped in the middle of a batch ends the daemon, and with it the cursor.
            let over = tokio::select! {
                () = cancel.cancelled() => Over::Cancelled,
                over = self.session() => over,
            };
            self.shards.feed_clock().lost();
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

    async fn session(&mut self) -> Over {
        match self.open().await {
            Ok((stream, session)) => match self.follow(stream, session).await {
                Ok(never) => match never {},
                Err(over) => over,
            },
            Err(over) => over,
        }
    }

    async fn open(&mut self) -> Result<(EventStream<FeedMessage>, Session), Over> {
        while let Ok(change) = self.changes.try_recv() {
            self.interests.change(change);
        }
        let open = OpenFeed {
            cursor: self.cursor,
            interests: self.interests.open(),
        };
        let opened = tokio::time::timeout(HELLO, async {
            let mut stream = self.client.open_feed(&self.host, &open).await?;
            let first = stream.next().await.ok_or(Over::Closed)??;
            Ok::<_, Over>((stream, first))
        });
        let (stream, first) = opened.await.map_err(|_| Over::Silent(HELLO))??;
        let session = self.greeted(first)?;
        Ok((stream, session))
    }

    fn greeted(&mut self, first: FeedMessage) -> Result<Session, Over> {
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
        tracing::info!(session, deployment, cursor, "the feed is open");
        self.shards.deployment(&deployment);
        let before = self.deployment.replace(deployment);
        if before.is_some() && before != self.deployment {
            // The cursor that this session was opened with means nothing there.
            self.cursor = None;
            self.lost.clear();
            return Err(Over::OtherDeployment);
        }
        Ok(Session {
            number: session,
            silence: Duration::from_secs(u64::from(bookmark_seconds.max(1))) * MISSED_BOOKMARKS,
            calls: JoinSet::new(),
            asked: BTreeSet::new(),
            setting_interests: false,
        })
    }

    async fn follow(
        &mut self,
        mut stream: EventStream<FeedMessage>,
        mut session: Session,
    ) -> Result<std::convert::Infallible, Over> {
        let mut heard = Instant::now();
        loop {
            self.begin_calls(&mut session);
            // Cancel-safe: the stream keeps what it has not given out, so do the channel and the set of calls.
            tokio::select! {
                message = stream.next() => {
                    heard = Instant::now();
                    self.take(message.ok_or(Over::Closed)??).await?;
                    self.backoff.reset();
                }
                () = tokio::time::sleep_until(heard + session.silence) => {
                    return Err(Over::Silent(session.silence));
                }
                Some(change) = self.changes.recv() => self.interests.change(change),
                Some(called) = session.calls.join_next() => match called {
                    Ok(called) => self.called(&mut session, called).await?,
                    Err(error) => tracing::error!(%error, "a call of the feed panicked"),
                },
            }
        }
    }

    async fn take(&mut self, message: FeedMessage) -> Result<(), Over> {
        match message {
            FeedMessage::Hello { .. } => return Err(Over::NoHello),
            FeedMessage::Batch { from, to, items } => self.batch(FeedBatch { from, to, items }).await?,
            FeedMessage::Bookmark { revision } => self.cursor = self.cursor.max(Some(revision)),
            FeedMessage::Resync { view } => {
                self.shards.lose(view, self.cursor.unwrap_or_default());
                self.lost.insert(view);
            }
        }
        self.shards.feed_clock().heard(crate::link::now());
        Ok(())
    }

    /// Applies a batch. The cursor moves only when every shard has applied its part.
    async fn batch(&mut self, batch: FeedBatch) -> Result<(), Over> {
        if let Some(from) = batch.from
            && Some(from) > self.cursor
        {
            let at = self.cursor.take();
            return Err(Over::Gap { from, at });
        }
        let (to, specs) = (batch.to, self.spec_changes(&batch));
        for item in &batch.items {
            if let FeedItem::View(view) = item {
                self.interests.arrived(&view.view);
                self.lost.remove(&view.view);
            }
        }
        let effects = self.shards.apply(batch).await?;
        self.on_effects(effects);
        self.cursor = self.cursor.max(Some(to));
        for change in specs {
            // A supervisor that has ended starts and stops nothing.
            let _ = self.specs.send(change).await;
        }
        Ok(())
    }

    /// What the batch says about the machines.
    fn spec_changes(&mut self, batch: &FeedBatch) -> Vec<SpecChange> {
        let mut changes = Vec::new();
        let mut named = BTreeSet::new();
        for item in &batch.items {
            match item {
                FeedItem::Instance(spec) => {
                    named.insert(spec.instance);
                    changes.push(SpecChange::Set(spec.clone()));
                }
                FeedItem::InstanceGone { instance } => self.gone(*instance, &mut changes),
                FeedItem::View(_) | FeedItem::Entry { .. } => {}
            }
        }
        if batch.from.is_none() {
            let unnamed: Vec<_> = self.instances.difference(&named).copied().collect();
            for instance in unnamed {
                self.gone(instance, &mut changes);
            }
            changes.push(SpecChange::Complete);
        }
        self.instances.extend(named);
        changes
    }

    fn gone(&mut self, instance: InstanceId, changes: &mut Vec<SpecChange>) {
        self.instances.remove(&instance);
        self.interests.reader_gone(&instance);
        self.lost.retain(|view| view.reader != instance);
        changes.push(SpecChange::Gone(instance));
    }

    fn on_effects(&mut self, effects: FeedEffects) {
        self.lost.extend(effects.wanting);
        self.interests.change(InterestChange {
            add: Vec::new(),
            remove: effects.dropped,
        });
    }

    /// Begins what has to be asked of the control plane and is not being asked yet.
    fn begin_calls(&mut self, session: &mut Session) {
        let room = VIEWS_AT_ONCE.saturating_sub(session.asked.len());
        let next: Vec<_> = self.lost.difference(&session.asked).copied().take(room).collect();
        for view in next {
            session.asked.insert(view);
            let (client, host) = (self.client.clone(), self.host.clone());
            session.calls.spawn(async move {
                // Asked without the digest of what is here: "the same" would not say as of which revision, and
                // then nobody knew which of the changes since are in it.
                let answer = client.get_feed_view(&host, view, None).await;
                if answer.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Called::View(view, answer)
            });
        }
        if !session.setting_interests
            && let Some(set) = self.interests.next(session.number)
        {
            session.setting_interests = true;
            let (client, host) = (self.client.clone(), self.host.clone());
            session.calls.spawn(async move {
                let answer = client.set_interests(&host, &set).await;
                Called::Interests(set.add, answer)
            });
        }
    }

    async fn called(&mut self, session: &mut Session, called: Called) -> Result<(), Over> {
        match called {
            Called::Interests(add, answer) => {
                session.setting_interests = false;
                self.interests_set(&add, answer)
            }
            Called::View(view, answer) => {
                session.asked.remove(&view);
                // It may have come, or gone, meanwhile.
                if self.lost.remove(&view) {
                    self.view_came(view, answer).await?;
                }
                Ok(())
            }
        }
    }

    /// A feed that doesn't know its session is over; views that the control plane refuses are not asked for again.
    fn interests_set(&mut self, add: &[ViewId], answer: Result<(), ClientError>) -> Result<(), Over> {
        let Err(error) = answer else {
            return Ok(());
        };
        match error.problem() {
            Some(problem) if (400..500).contains(&problem.status) && problem.status != 409 => {
                tracing::warn!(error = %Causes(&error), "the control plane refused views of other instances");
                self.interests.refused(add);
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    /// What a reader may see of an instance that the control plane shows it nothing of. What it saw before may be what
    /// it may see no more.
    fn nothing_of(&self, view: ViewId) -> View {
        View {
            view,
            revision: self.cursor.unwrap_or_default(),
            entries: Vec::new(),
        }
    }

    async fn view_came(&mut self, view: ViewId, answer: Result<FeedView, ClientError>) -> Result<(), Over> {
        let effects = match answer {
            // Nothing was sent that it could be the same as.
            Ok(FeedView::Same(_)) => return Ok(()),
            Ok(FeedView::Whole(whole)) => self.shards.replace(whole).await?,
            Err(error) => {
                // Everything else may be another answer the next time, and without the view its reader is not served.
                let refused = error
                    .problem()
                    .is_some_and(|problem| matches!(problem.status, 403 | 404 | 410));
                tracing::warn!(reader = %view.reader, instance = %view.instance, error = %Causes(&error),
                    "a view can't be had");
                if !refused {
                    self.lost.insert(view);
                    return Ok(());
                }
                if view.reader == view.instance {
                    return Ok(());
                }
                self.shards.replace(self.nothing_of(view)).await?
            }
        };
        self.on_effects(effects);
        Ok(())
    }
}
