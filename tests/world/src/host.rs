//! A host daemon: the real floor with its guests, and the feed that keeps it in step.

use std::collections::BTreeMap;
use std::sync::Arc;

use moorline_host::config::{CacheConfig, LinkConfig};
use moorline_host::link::{Answer, Ask, Asker, End, FeedClock, Floor, LifeId, MissKey, Question, Refusal};
use moorline_host::uplink::{InterestChange, SpecChange};
use moorline_shared::api::feed::{FeedMessage, SetInterests, View, ViewId};
use moorline_shared::api::instances::Desired;
use moorline_shared::link::body::{Code, Relay};
use moorline_shared::{InstanceId, PathPrefix, Revision};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::course::{Course, Ground, Over};
use crate::disk::Disk;
use crate::mutant::Mutant;
use crate::plane::No;

/// How many questions wait to be asked at most.
pub const MOST_ASKS: usize = 64;

/// The process.
#[derive(Debug)]
pub struct Host {
    /// Which of its processes: what was meant for an earlier one is let go.
    pub boot: u64,
    /// The guests.
    pub floor: Floor,
    /// Where it stands in its feeds.
    pub course: Course,
    clock: Arc<FeedClock>,
    asks: mpsc::Receiver<Ask>,
    unread: BTreeMap<u64, Vec<u8>>,
    ticked_ms: u64,
    /// The latest state of each view that was seen of it.
    pub seen: BTreeMap<ViewId, Revision>,
}

/// What a host asks of the control plane.
#[derive(Clone, Debug)]
pub enum Call {
    /// One entry.
    Entry(MissKey),
    /// The entries of a subtree.
    Page(InstanceId, InstanceId, PathPrefix, Asker),
    /// What a guest asks itself.
    Relay(InstanceId, Relay, Asker),
    /// A view as a whole.
    View(ViewId),
    /// What the feed is to carry.
    Interests(SetInterests),
    /// That a life of an instance ended, which was terminated.
    Ended(InstanceId, u64),
}

/// What the control plane answered to a [`Call`].
#[derive(Debug)]
pub enum Outcome {
    /// To what a guest asked.
    Guest(InstanceId, Answer),
    /// To a question about a view.
    View(ViewId, Result<View, No>),
    /// To a change of what the feed carries.
    Interests(SetInterests, Result<(), No>),
    /// It has heard.
    Heard,
}

impl Call {
    /// What its asker takes from it that no answer comes.
    pub fn lost(self) -> Outcome {
        let away = || Refusal::new(Code::Unavailable, "the control plane is out of reach");
        let unsettled = || Refusal::new(Code::Unsettled, "the control plane's answer was lost");
        match self {
            Self::Entry(key) => Outcome::Guest(key.reader, Answer::Entry(key, Err(away()))),
            Self::Page(reader, _, _, asker) => Outcome::Guest(reader, Answer::Page(asker, Err(away()))),
            Self::Relay(reader, _, asker) => Outcome::Guest(reader, Answer::Relayed(asker, Err(unsettled()))),
            Self::View(view) => Outcome::View(view, Err(No::Away)),
            Self::Interests(set) => Outcome::Interests(set, Err(No::Away)),
            Self::Ended(..) => Outcome::Heard,
        }
    }
}

impl Host {
    /// A process that starts with these lives of VMs, and with what the one before left on disk.
    pub fn start(boot: u64, lives: impl IntoIterator<Item = LifeId>, disk: &Disk, clock: Clock) -> Self {
        let (asking, asks) = mpsc::channel(MOST_ASKS);
        let feed = Arc::new(FeedClock::default());
        let (link, cache) = (LinkConfig::default(), CacheConfig::default());
        let mut floor = Floor::new(link, cache, feed.clone(), asking, clock.moment());
        if let Some(deployment) = &disk.deployment {
            let age = disk.position.map_or(0, |position| position.age_ms(clock));
            feed.restored(clock.moment(), age);
            for image in disk.views.values() {
                floor.restore(image.clone());
            }
            floor.deployment(deployment.as_str().into());
        }
        for life in lives {
            floor.begin(life, None).expect("it is the first life here");
        }
        Self {
            boot,
            floor,
            course: Course::restored(disk),
            clock: feed,
            asks,
            unread: BTreeMap::new(),
            ticked_ms: clock.ms(),
            seen: BTreeMap::new(),
        }
    }

    /// How long ago what it has was known to be the present state, in milliseconds.
    pub fn age_ms(&self, clock: Clock) -> u32 {
        self.clock.standing(clock.moment()).age_ms
    }

    /// It is `clock` now.
    pub fn turn(&mut self, clock: Clock) {
        self.floor.turn(clock.moment());
    }

    /// Bytes came on a connection. `false` if the connection is over.
    pub fn receive(&mut self, token: u64, bytes: &[u8]) -> bool {
        if self.floor.outbox(token).is_none() {
            self.unread.remove(&token);
            return false;
        }
        let unread = self.unread.entry(token).or_default();
        unread.extend_from_slice(bytes);
        match self.floor.receive(token, unread) {
            Ok(count) => {
                unread.drain(..count);
                true
            }
            Err(end) => {
                self.close(token, &end);
                false
            }
        }
    }

    /// A connection is over.
    pub fn close(&mut self, token: u64, end: &End) {
        self.unread.remove(&token);
        self.floor.close(token, end);
    }

    /// The feed brought a line. Says what is wanted of the machines.
    pub fn take(&mut self, line: FeedMessage, clock: Clock, mutant: Mutant) -> Result<Vec<SpecChange>, Over> {
        let mut ground = Ground {
            floor: &mut self.floor,
            clock,
            mutant,
            machines: Vec::new(),
        };
        self.course.take(line, &mut ground)?;
        let machines = ground.machines;
        if self.course.follows() {
            self.clock.heard(clock.moment());
        }
        Ok(machines)
    }

    /// The feed is lost.
    pub fn feed_lost(&mut self, clock: Clock, mutant: Mutant) {
        self.course.lost(clock);
        if mutant != Mutant::EternallyFresh {
            self.clock.lost();
        }
    }

    /// Time passes: half a second at least since the last time.
    pub fn tick(&mut self, clock: Clock, mutant: Mutant) {
        if clock.ms() - self.ticked_ms >= 500 {
            self.ticked_ms = clock.ms();
            if mutant == Mutant::EternallyFresh {
                self.clock.heard(clock.moment());
            }
            self.floor.tick();
        }
    }

    /// What its guests and its feed have to ask.
    pub fn calls(&mut self, clock: Clock) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut interests = Vec::new();
        while let Ok(ask) = self.asks.try_recv() {
            match ask.question {
                Question::Entry(key) => calls.push(Call::Entry(key)),
                Question::Page {
                    instance,
                    prefix,
                    asker,
                } => calls.push(Call::Page(ask.reader, instance, prefix, asker)),
                Question::Relay { relay, asker } => calls.push(Call::Relay(ask.reader, relay, asker)),
                Question::Interest { add, remove } => interests.push(InterestChange { add, remove }),
            }
        }
        self.course.wanted(interests);
        let (views, set) = self.course.questions(clock);
        calls.extend(views.into_iter().map(Call::View));
        calls.extend(set.map(Call::Interests));
        calls
    }

    /// An answer came. [`Over`] if the feed is over with it.
    pub fn answered(&mut self, outcome: Outcome, clock: Clock, mutant: Mutant) -> Result<(), Over> {
        match outcome {
            Outcome::Guest(reader, answer) => self.floor.answered(&reader, answer),
            Outcome::View(id, view) => {
                let mut ground = Ground {
                    floor: &mut self.floor,
                    clock,
                    mutant,
                    machines: Vec::new(),
                };
                self.course.view_came(id, view, &mut ground);
            }
            Outcome::Interests(set, answer) => {
                return self.course.interests_set(&set, answer, &mut self.floor);
            }
            Outcome::Heard => {}
        }
        Ok(())
    }
}

/// Whether the machine is to be ended for good.
pub fn is_to_end(change: &SpecChange) -> Option<InstanceId> {
    match change {
        SpecChange::Set(spec) => (spec.desired == Desired::Terminated).then_some(spec.instance),
        SpecChange::Gone(instance) => Some(*instance),
        SpecChange::Complete => None,
    }
}
