//! The feed at its host: the real assembly and interests, and what `host-daemon/src/uplink/feed` does with them.

use std::collections::{BTreeMap, BTreeSet};

use moorline_host::cache::FeedBatch;
use moorline_host::link::{FeedEffects, Floor};
use moorline_host::persistence::Handle;
use moorline_host::uplink::{Assembly, InterestChange, Interests, SpecChange, Whole};
use moorline_shared::api::feed::{
    FeedItem, FeedMessage, InstanceSpec, MISSED_BOOKMARKS, OpenFeed, SetInterests,
};
use moorline_shared::api::feed::{View, ViewId};
use moorline_shared::{InstanceId, Revision};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::mutant::Mutant;
use crate::plane::No;

/// How many views are asked for at once.
const VIEWS_AT_ONCE: usize = 4;
/// How long after a feed ended another is opened, in milliseconds.
const BACKOFF_MS: u64 = 500;
/// How long after a view that came too early it is asked for again, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;

/// Where a host stands in what its feeds bring.
#[derive(Debug, Default)]
pub struct Course {
    interests: Interests,
    cursor: Option<Revision>,
    deployment: Option<String>,
    instances: BTreeMap<InstanceId, Revision>,
    /// Whether all machines were named since the process began.
    named: bool,
    /// What is not on disk yet.
    pub kept: Handle,
    /// Views that have to be asked for, and from when on.
    lost: BTreeMap<ViewId, u64>,
    session: Option<Session>,
    /// Not to be opened before.
    pub open_at: u64,
    /// How often it went on from a cursor.
    pub resumed: u64,
    /// How often it had to ask for a view that was dropped.
    pub asked_views: u64,
}

#[derive(Debug)]
struct Session {
    number: u64,
    silence_ms: u64,
    heard_ms: u64,
    greeted: bool,
    asked: BTreeSet<ViewId>,
    setting: bool,
    assembly: Assembly,
    snapshot: Snapshot,
}

#[derive(Debug, Default)]
struct Snapshot {
    from: Option<Revision>,
    to: Revision,
    new: BTreeMap<InstanceId, InstanceSpec>,
    instances: Vec<InstanceSpec>,
}

/// The feed is over, and another has to be opened.
#[derive(Debug)]
pub struct Over;

/// What the feed is brought to.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The guests.
    pub floor: &'a mut Floor,
    /// The time.
    pub clock: Clock,
    /// What is wrong.
    pub mutant: Mutant,
    /// What is wanted of the machines.
    pub machines: Vec<SpecChange>,
}

impl Course {
    /// Where a process begins that has this disk.
    pub fn restored(disk: &Disk) -> Self {
        let kept = Handle::default();
        if let Some(deployment) = &disk.deployment {
            kept.deployment(deployment);
        }
        let behind = disk.views.values().filter(|image| image.behind_since.is_some());
        Self {
            kept,
            cursor: disk.position.map(|position| position.cursor),
            deployment: disk.deployment.clone(),
            instances: disk.views.keys().map(|id| (*id, Revision::ZERO)).collect(),
            lost: behind.map(|image| (ViewId::own(image.instance), 0)).collect(),
            ..Self::default()
        }
    }

    /// Whether the instance is this host's, as far as the feed has said.
    pub fn has(&self, instance: &InstanceId) -> bool {
        self.instances.contains_key(instance)
    }

    /// Whether a feed is open.
    pub const fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Whether the feed has brought the host to where it goes on.
    pub fn follows(&self) -> bool {
        let follows = |session: &Session| session.greeted && !session.assembly.catches_up();
        self.session.as_ref().is_some_and(follows)
    }

    /// A feed is opened.
    pub fn open(&mut self, changes: Vec<InterestChange>, clock: Clock) -> OpenFeed {
        self.wanted(changes);
        self.session = Some(Session {
            number: 0,
            silence_ms: 30_000,
            heard_ms: clock.ms(),
            greeted: false,
            asked: BTreeSet::new(),
            setting: false,
            assembly: Assembly::new(),
            snapshot: Snapshot::default(),
        });
        OpenFeed {
            cursor: self.cursor,
            interests: self.interests.open(),
            poll: None,
        }
    }

    /// Guests want other views than before.
    pub fn wanted(&mut self, changes: Vec<InterestChange>) {
        for change in changes {
            self.interests.change(change);
        }
    }

    /// The feed is over.
    pub fn lost(&mut self, clock: Clock) {
        self.session = None;
        self.open_at = clock.ms() + BACKOFF_MS;
    }

    /// Whether nothing came for too long.
    pub fn is_silent(&self, clock: Clock) -> bool {
        let silent = |session: &Session| clock.ms() - session.heard_ms >= session.silence_ms;
        self.session.as_ref().is_some_and(silent)
    }

    /// A line came.
    pub fn take(&mut self, message: FeedMessage, ground: &mut Ground<'_>) -> Result<(), Over> {
        let session = self.session.as_mut().ok_or(Over)?;
        session.heard_ms = ground.clock.ms();
        if !session.greeted {
            return self.greeted(message, ground);
        }
        if ground.mutant == Mutant::HastyCursor
            && let FeedMessage::Snapshot { to, .. } | FeedMessage::Batch { to, .. } = &message
        {
            self.cursor = self.cursor.max(Some(Revision::new(to.epoch, to.n + 1)));
        }
        for whole in session.assembly.take(message).map_err(|_| Over)? {
            self.apply_whole(whole, ground)?;
        }
        Ok(())
    }

    fn greeted(&mut self, message: FeedMessage, ground: &mut Ground<'_>) -> Result<(), Over> {
        let FeedMessage::Hello {
            session: number,
            deployment,
            bookmark_seconds,
            ..
        } = message
        else {
            return Err(Over);
        };
        ground.floor.deployment(deployment.as_str().into());
        self.kept.deployment(&deployment);
        self.deployment = Some(deployment);
        let session = self.session.as_mut().ok_or(Over)?;
        session.number = number;
        session.greeted = true;
        session.silence_ms = u64::from(bookmark_seconds * MISSED_BOOKMARKS) * 1_000;
        Ok(())
    }

    fn apply_whole(&mut self, whole: Whole, ground: &mut Ground<'_>) -> Result<(), Over> {
        match whole {
            Whole::Instances { from, to, instances } => self.instances_named(from, to, instances, ground)?,
            Whole::View(view) => self.view(view, ground),
            Whole::SnapshotEnd(to) => self.snapshot_end(to, ground),
            Whole::Batch(batch) => self.batch(batch, ground)?,
            Whole::Bookmark(revision) => self.stands_at(revision),
        }
        Ok(())
    }

    fn stands_at(&mut self, revision: Revision) {
        let cursor = self.cursor.unwrap_or_default().max(revision);
        self.cursor = Some(cursor);
        self.kept.stands(cursor);
    }

    fn build_on(&mut self, from: Revision) -> Result<(), Over> {
        if Some(from) > self.cursor {
            self.cursor = None;
            return Err(Over);
        }
        Ok(())
    }

    fn instances_named(
        &mut self,
        from: Option<Revision>,
        to: Revision,
        instances: Vec<InstanceSpec>,
        ground: &mut Ground<'_>,
    ) -> Result<(), Over> {
        match from {
            Some(from) => {
                self.build_on(from)?;
                self.resumed += 1;
            }
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
        self.apply(FeedBatch { from, to, items }, ground);
        for instance in unnamed {
            self.gone(instance, ground);
        }
        let session = self.session.as_mut().ok_or(Over)?;
        session.snapshot = Snapshot {
            from,
            to,
            new: new.into_iter().map(|spec| (spec.instance, spec)).collect(),
            instances,
        };
        Ok(())
    }

    fn view(&mut self, view: View, ground: &mut Ground<'_>) {
        let id = view.view;
        let Some(session) = &mut self.session else {
            return;
        };
        let to = session.snapshot.to;
        let is_own = id == ViewId::own(id.reader);
        let new = session.snapshot.new.remove(&id.reader).filter(|_| is_own);
        if new.is_some() {
            self.instances.insert(id.reader, Revision::ZERO);
        }
        let new = new.map(FeedItem::Instance);
        let items = new.into_iter().chain([FeedItem::View(view)]).collect();
        let from = Some(to);
        self.apply(FeedBatch { from, to, items }, ground);
    }

    fn snapshot_end(&mut self, to: Revision, ground: &mut Ground<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        let snapshot = std::mem::take(&mut session.snapshot);
        for instance in snapshot.new.into_keys() {
            self.instances.insert(instance, Revision::ZERO);
            ground.floor.await_own(instance);
            self.lost.insert(ViewId::own(instance), 0);
        }
        let anew = snapshot.from.is_none() || !self.named;
        for spec in snapshot.instances {
            let said = self.instances.get(&spec.instance).copied();
            if anew || said.is_none_or(|said| said < spec.revision) {
                self.set(spec, ground);
            }
        }
        if anew {
            self.named = true;
            ground.machines.push(SpecChange::Complete);
        }
        self.stands_at(to);
    }

    fn batch(&mut self, batch: moorline_host::uplink::Batch, ground: &mut Ground<'_>) -> Result<(), Over> {
        self.build_on(batch.from)?;
        let machines: Vec<_> = batch.items.iter().filter_map(of_machine).collect();
        let to = batch.to;
        self.lose(&batch.resync, to, ground);
        let from = Some(batch.from);
        if ground.mutant == Mutant::SplitBatch && batch.items.len() > 1 {
            self.apply_in_pieces(batch.items, to, ground);
        } else {
            let items = batch.items;
            self.apply(FeedBatch { from, to, items }, ground);
        }
        self.lose(&batch.resync, to, ground);
        self.lost.extend(batch.resync.into_iter().map(|view| (view, 0)));
        for change in machines {
            match change {
                SpecChange::Gone(instance) => self.gone(instance, ground),
                SpecChange::Set(spec) => self.set(spec, ground),
                SpecChange::Complete => {}
            }
        }
        self.stands_at(to);
        Ok(())
    }

    fn lose(&self, views: &BTreeSet<ViewId>, at: Revision, ground: &mut Ground<'_>) {
        for view in views {
            ground.floor.lose(view, at);
        }
        let own = views.iter().filter(|view| **view == ViewId::own(view.reader));
        self.kept.changed(own.map(|view| view.reader));
    }

    /// What [`Mutant::SplitBatch`] does: the last piece comes with the next batch.
    fn apply_in_pieces(&mut self, mut items: Vec<FeedItem>, to: Revision, ground: &mut Ground<'_>) {
        let last = items.pop();
        let early = Revision::new(to.epoch, to.n - 1);
        let from = Some(early);
        for items in [items, last.into_iter().collect()] {
            self.apply(FeedBatch { from, to, items }, ground);
        }
    }

    fn apply(&mut self, batch: FeedBatch, ground: &mut Ground<'_>) {
        for item in &batch.items {
            if let FeedItem::View(view) = item {
                self.interests.arrived(&view.view);
                self.lost.remove(&view.view);
            }
        }
        let effects = ground.floor.apply(batch, ground.clock.both());
        self.on_effects(effects);
    }

    fn on_effects(&mut self, effects: FeedEffects) {
        self.kept.changed(effects.changed);
        self.lost
            .extend(effects.wanting.into_iter().map(|view| (view, 0)));
        self.interests.change(InterestChange {
            add: Vec::new(),
            remove: effects.dropped,
        });
    }

    fn set(&mut self, spec: InstanceSpec, ground: &mut Ground<'_>) {
        self.instances.insert(spec.instance, spec.revision);
        ground.machines.push(SpecChange::Set(spec));
    }

    fn gone(&mut self, instance: InstanceId, ground: &mut Ground<'_>) {
        self.instances.remove(&instance);
        self.interests.reader_gone(&instance);
        self.lost.retain(|view, _| view.reader != instance);
        ground.machines.push(SpecChange::Gone(instance));
    }

    /// What has to be asked of the control plane beside the feed.
    pub fn questions(&mut self, clock: Clock) -> (Vec<ViewId>, Option<SetInterests>) {
        let Some(session) = self
            .session
            .as_mut()
            .filter(|session| session.greeted && !session.assembly.catches_up())
        else {
            return (Vec::new(), None);
        };
        let room = VIEWS_AT_ONCE.saturating_sub(session.asked.len());
        let due = self
            .lost
            .iter()
            .filter(|(view, at)| **at <= clock.ms() && !session.asked.contains(view));
        let views: Vec<_> = due.map(|(view, _)| *view).take(room).collect();
        session.asked.extend(&views);
        self.asked_views += views.len() as u64;
        let set = (!session.setting)
            .then(|| self.interests.next(session.number))
            .flatten();
        session.setting |= set.is_some();
        (views, set)
    }

    /// The control plane answered what the feed is to carry.
    pub fn interests_set(
        &mut self,
        set: &SetInterests,
        answer: Result<(), No>,
        floor: &mut Floor,
    ) -> Result<(), Over> {
        let current = self
            .session
            .as_mut()
            .filter(|session| session.number == set.session);
        let Some(session) = current else {
            return Ok(());
        };
        session.setting = false;
        match (answer, &set.add[..]) {
            (Ok(()), _) => Ok(()),
            (Err(No::Away), _) => Err(Over),
            (Err(No::Never), &[view]) => {
                self.interests.refused(&view);
                self.lost.remove(&view);
                floor.refused(&view);
                Ok(())
            }
            (Err(No::Never), add) => {
                self.interests.ask_singly(add);
                Ok(())
            }
        }
    }

    /// The control plane answered with a view, or not.
    pub fn view_came(&mut self, id: ViewId, answer: Result<View, No>, ground: &mut Ground<'_>) {
        let Some(session) = &mut self.session else {
            return;
        };
        if !session.asked.remove(&id) || self.lost.remove(&id).is_none() {
            return;
        }
        let again = ground.clock.ms() + ASK_AGAIN_MS;
        let Ok(view) = answer else {
            self.lost.insert(id, again);
            return;
        };
        let effects = ground.floor.replace(view, ground.clock.both());
        if !effects.wanting.contains(&id) {
            self.interests.arrived(&id);
        }
        self.on_effects(effects);
        if id == ViewId::own(id.reader) {
            self.kept.changed([id.reader]);
        }
        if let Some(at) = self.lost.get_mut(&id) {
            *at = again;
        }
    }
}

fn of_machine(item: &FeedItem) -> Option<SpecChange> {
    match item {
        FeedItem::Instance(spec) => Some(SpecChange::Set(spec.clone())),
        FeedItem::InstanceGone { instance } => Some(SpecChange::Gone(*instance)),
        FeedItem::View(_) | FeedItem::Entry { .. } => None,
    }
}
