//! Keeps the shards in step with the control plane, and says what is wanted of the machines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use moorline_client::{Client, ClientError, EventStream};
use moorline_shared::api::feed::{FeedItem, FeedMessage, InstanceSpec, OpenFeed, View, ViewId};
use moorline_shared::{HostId, InstanceId, Revision};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assembly::{Assembly, Batch, Misplaced, Whole};
use super::backoff::Backoff;
use super::interests::{InterestChange, Interests};
use super::{Causes, SpecChange};
use crate::cache::FeedBatch;
use crate::credentials;
use crate::link::{Ending, FeedEffects, ShardsHandle};

/// How long the first line may take.
const HELLO: Duration = Duration::from_secs(30);
/// How long after a failure the control plane is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many views are asked for at once: all of a host's may be lost together, and each takes memory until it is applied.
const VIEWS_AT_ONCE: usize = 4;
/// So many bookmarks missed mean that the feed is dead.
const MISSED_BOOKMARKS: u32 = 3;

/// The feed, over all its sessions.
pub(super) struct Feed {
    client: Client,
    host: HostId,
    shards: ShardsHandle,
    specs: mpsc::Sender<SpecChange>,
    credentials: credentials::Handle,
    changes: mpsc::UnboundedReceiver<InterestChange>,
    interests: Interests,
    /// Up to where everything is applied; `None` asks for everything anew.
    cursor: Option<Revision>,
    deployment: Option<String>,
    /// The instances that are this host's, each with the revision of what was last said of its machine.
    instances: BTreeMap<InstanceId, Revision>,
    /// Views that have to be asked for.
    lost: BTreeSet<ViewId>,
    /// Those that came and were from before what was lost.
    too_early: BTreeSet<ViewId>,
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
    assembly: Assembly,
    snapshot: Snapshot,
}

/// What is left to be done with the instances that a snapshot named.
#[derive(Default)]
struct Snapshot {
    from: Option<Revision>,
    to: Revision,
    /// Instances that are new here: each is known from when its view comes, so that nobody takes it for empty.
    new: BTreeMap<InstanceId, InstanceSpec>,
    /// All of them, for the machines.
    instances: Vec<InstanceSpec>,
}

/// A call that ended.
enum Called {
    View(ViewId, Result<View, ClientError>),
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
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
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
    ) -> Self {
        Self {
            client,
            host,
            shards,
            specs,
            credentials,
            changes,
            interests: Interests::default(),
            cursor: None,
            deployment: None,
            instances: BTreeMap::new(),
            lost: BTreeSet::new(),
            too_early: BTreeSet::new(),
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
            // The shards have let go of all their views, and will not say so of each.
            self.interests = Interests::default();
            self.lost.clear();
            self.too_early.clear();
            return Err(Over::OtherDeployment);
        }
        Ok(Session {
            number: session,
            silence: Duration::from_secs(u64::from(bookmark_seconds.max(1))) * MISSED_BOOKMARKS,
            calls: JoinSet::new(),
            asked: BTreeSet::new(),
            setting_interests: false,
            assembly: Assembly::new(),
            snapshot: Snapshot::default(),
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
                    self.take(&mut session, message.ok_or(Over::Closed)??).await?;
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

    async fn take(&mut self, session: &mut Session, message: FeedMessage) -> Result<(), Over> {
        match &message {
            FeedMessage::Revoked(revocation) => self.credentials.revoked(revocation.clone()),
            // All that was revoked until then has come before.
            FeedMessage::Snapshot { .. } | FeedMessage::Bookmark { .. } => {
                self.credentials.heard(crate::link::now());
            }
            _ => {}
        }
        for whole in session.assembly.take(message)? {
            self.apply_whole(&mut session.snapshot, whole).await?;
            if !session.assembly.catches_up() {
                self.shards.feed_clock().heard(crate::link::now());
            }
        }
        Ok(())
    }

    async fn apply_whole(&mut self, snapshot: &mut Snapshot, whole: Whole) -> Result<(), Over> {
        match whole {
            Whole::Instances { from, to, instances } => {
                *snapshot = self.instances_named(from, to, instances).await?;
            }
            Whole::View(view) => self.view(snapshot, view).await?,
            Whole::SnapshotEnd(to) => self.snapshot_end(std::mem::take(snapshot), to).await,
            Whole::Batch(batch) => self.batch(batch).await?,
            Whole::Bookmark(revision) => self.cursor = self.cursor.max(Some(revision)),
        }
        Ok(())
    }

    fn build_on(&mut self, from: Revision) -> Result<(), Over> {
        if Some(from) > self.cursor {
            let at = self.cursor.take();
            return Err(Over::Gap { from, at });
        }
        Ok(())
    }

    /// Lets go of the instances that a snapshot doesn't name, and takes in those that it does.
    async fn instances_named(
        &mut self,
        from: Option<Revision>,
        to: Revision,
        instances: Vec<InstanceSpec>,
    ) -> Result<Snapshot, Over> {
        match from {
            Some(from) => self.build_on(from)?,
            // Until everything has come, nothing of it can be gone on from.
            None => self.cursor = None,
        }
        let named: BTreeSet<_> = instances.iter().map(|spec| spec.instance).collect();
        let unnamed = self.instances.keys().filter(|id| !named.contains(id));
        let unnamed: Vec<_> = unnamed.copied().collect();
        let (known, new): (Vec<_>, Vec<_>) = instances
            .iter()
            .cloned()
            .partition(|spec| from.is_none() || self.instances.contains_key(&spec.instance));
        let gone = unnamed.iter().map(|id| FeedItem::InstanceGone { instance: *id });
        let items = gone.chain(known.into_iter().map(FeedItem::Instance)).collect();
        self.apply(FeedBatch { from, to, items }).await?;
        for instance in unnamed {
            self.gone(instance).await;
        }
        Ok(Snapshot {
            from,
            to,
            new: new.into_iter().map(|spec| (spec.instance, spec)).collect(),
            instances,
        })
    }

    /// Applies a view of a snapshot, and the instance with it if that is new.
    async fn view(&mut self, snapshot: &mut Snapshot, view: View) -> Result<(), Over> {
        let (id, to) = (view.view, snapshot.to);
        let is_own = id == ViewId::own(id.reader);
        let new = snapshot.new.remove(&id.reader).filter(|_| is_own);
        if new.is_some() {
            self.instances.insert(id.reader, Revision::ZERO);
        }
        let new = new.map(FeedItem::Instance);
        let items = new.into_iter().chain([FeedItem::View(view)]).collect();
        let from = Some(to);
        self.apply(FeedBatch { from, to, items }).await
    }

    /// The machines are told of what is wanted of them now.
    async fn snapshot_end(&mut self, snapshot: Snapshot, to: Revision) {
        self.cursor = self.cursor.max(Some(to));
        for spec in snapshot.instances {
            let said = self.instances.get(&spec.instance).copied();
            if snapshot.from.is_none() || said.is_none_or(|said| said < spec.revision) {
                self.set(spec).await;
            }
        }
        if snapshot.from.is_none() {
            self.say(SpecChange::Complete).await;
        }
    }

    /// Applies a batch. The cursor moves only when every shard has applied its part.
    async fn batch(&mut self, batch: Batch) -> Result<(), Over> {
        self.build_on(batch.from)?;
        let machines: Vec<_> = batch.items.iter().filter_map(of_machine).collect();
        let to = batch.to;
        self.lose(&batch.resync, to);
        let (from, items) = (Some(batch.from), batch.items);
        self.apply(FeedBatch { from, to, items }).await?;
        // What was dropped may be of an instance that is new with the batch.
        self.lose(&batch.resync, to);
        self.lost.extend(batch.resync);
        self.cursor = self.cursor.max(Some(to));
        for change in machines {
            match change {
                SpecChange::Gone(instance) => self.gone(instance).await,
                SpecChange::Set(spec) => self.set(spec).await,
                SpecChange::Complete => {}
            }
        }
        Ok(())
    }

    /// Readers see these views as they were until they come whole.
    fn lose(&self, views: &BTreeSet<ViewId>, at: Revision) {
        for view in views {
            self.shards.lose(*view, at);
        }
    }

    async fn apply(&mut self, batch: FeedBatch) -> Result<(), Over> {
        for item in &batch.items {
            if let FeedItem::View(view) = item {
                self.interests.arrived(&view.view);
                self.lost.remove(&view.view);
            }
        }
        let effects = self.shards.apply(batch).await?;
        self.on_effects(effects);
        Ok(())
    }

    async fn set(&mut self, spec: InstanceSpec) {
        self.instances.insert(spec.instance, spec.revision);
        self.say(SpecChange::Set(spec)).await;
    }

    /// A supervisor that has ended starts and stops nothing.
    async fn say(&self, change: SpecChange) {
        self.credentials.spec(&change);
        let _ = self.specs.send(change).await;
    }

    async fn gone(&mut self, instance: InstanceId) {
        self.instances.remove(&instance);
        self.interests.reader_gone(&instance);
        self.lost.retain(|view| view.reader != instance);
        self.too_early.retain(|view| view.reader != instance);
        self.say(SpecChange::Gone(instance)).await;
    }

    fn on_effects(&mut self, effects: FeedEffects) {
        self.lost.extend(effects.wanting);
        self.interests.change(InterestChange {
            add: Vec::new(),
            remove: effects.dropped,
        });
    }

    /// Begins what has to be asked of the control plane and is not being asked yet: nothing while a snapshot may still
    /// bring it.
    fn begin_calls(&mut self, session: &mut Session) {
        if session.assembly.catches_up() {
            return;
        }
        let room = VIEWS_AT_ONCE.saturating_sub(session.asked.len());
        let next: Vec<_> = self.lost.difference(&session.asked).copied().take(room).collect();
        for view in next {
            session.asked.insert(view);
            let (client, host) = (self.client.clone(), self.host.clone());
            let too_early = self.too_early.remove(&view);
            session.calls.spawn(async move {
                if too_early {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                let answer = client.get_feed_view(&host, view).await;
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
                if answer.is_err() {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
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

    /// A feed that doesn't know its session is over. Views that were refused together are asked for one by one, so that
    /// one of them costs the others nothing; one that is refused by itself is not asked for again, and who waits for it
    /// is told.
    fn interests_set(&mut self, add: &[ViewId], answer: Result<(), ClientError>) -> Result<(), Over> {
        let Err(error) = answer else {
            return Ok(());
        };
        match (error.problem().map(|problem| problem.status), add) {
            (Some(401 | 408 | 429), _) => self.interests.unanswered(add),
            (Some(400..=408 | 410..=499), &[view]) => {
                tracing::warn!(reader = %view.reader, instance = %view.instance, error = %Causes(&error),
                    "the control plane refused a view of another instance");
                self.interests.refused(&view);
                self.lost.remove(&view);
                self.shards.refuse(view);
            }
            (Some(400..=408 | 410..=499), _) => self.interests.ask_singly(add),
            _ => return Err(error.into()),
        }
        Ok(())
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

    async fn view_came(&mut self, view: ViewId, answer: Result<View, ClientError>) -> Result<(), Over> {
        let effects = match answer {
            Ok(whole) => {
                let effects = self.shards.replace(whole).await?;
                if effects.wanting.contains(&view) {
                    self.too_early.insert(view);
                } else {
                    self.interests.arrived(&view);
                }
                effects
            }
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

/// What an item says about a machine.
fn of_machine(item: &FeedItem) -> Option<SpecChange> {
    match item {
        FeedItem::Instance(spec) => Some(SpecChange::Set(spec.clone())),
        FeedItem::InstanceGone { instance } => Some(SpecChange::Gone(*instance)),
        FeedItem::View(_) | FeedItem::Entry { .. } => None,
    }
}
