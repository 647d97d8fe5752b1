//! The end of a schedule: all is healed, and everybody comes to the same within a bounded time.

use moorline_agent::mirror::Mirror;
use moorline_control::instance_data::operations::{Op as Data, Reply as Seen};
use moorline_control::model::Content;
use moorline_shared::agent::Freshness;
use moorline_shared::api::feed::ViewId;
use moorline_shared::id::IdempotencyKey;

use crate::check::Violation;
use crate::happen::Flowing;
use crate::plane::administrator;
use crate::state::{mirror_has, view_has};
use crate::world::{World, host_of};
use crate::{Event, HOSTS, SLOTS};

/// How long it may take, in milliseconds: the link's patience with a peer that is silent, its longest pause, and a turn of
/// everything.
const SETTLED_MS: u64 = 60_000;

impl World {
    /// Heals everything, and waits until all are in step.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.heal();
        let begun = self.clock.ms();
        let mut late = String::new();
        while self.clock.ms() - begun < SETTLED_MS {
            self.advance(250, Flowing::Yes);
            self.check()?;
            match self.out_of_step() {
                Some(what) => late = what,
                None => return self.check_ledger(),
            }
        }
        Err(format!(
            "not in step {SETTLED_MS} ms after everything was healed: {late}"
        ))
    }

    fn heal(&mut self) {
        self.net.cut_off = [false; HOSTS];
        let processes = [Event::StartPlane].into_iter();
        let hosts = (0..HOSTS).map(Event::StartHost);
        let machines = (0..SLOTS).flat_map(|slot| [Event::StartAgent(slot), Event::Resume(slot)]);
        for event in processes.chain(hosts).chain(machines) {
            self.happen(&event);
        }
    }

    /// What is not in step yet.
    fn out_of_step(&mut self) -> Option<String> {
        for slot in 0..SLOTS {
            let now = self.guest_now(slot);
            let guest = &self.guests[slot];
            let Some(instance) = guest.instance else {
                continue;
            };
            let state = self.truth.present(ViewId::own(instance));
            let daemon = self.hosts[host_of(slot)].as_ref();
            let view = daemon.and_then(|daemon| daemon.floor.cache().own(&instance));
            let host_has = view.is_some_and(|view| view_has(view, &state, self.clock.moment()));
            let Some(agent) = &guest.agent else {
                return Some(format!("guest {slot} has no agent"));
            };
            let fresh = |mirror: &Mirror| {
                mirror
                    .age(now)
                    .is_some_and(|age| age.freshness == Freshness::Fresh)
            };
            let mirror = &agent.mirror;
            if !host_has || !mirror_has(mirror, &state, now) || !fresh(mirror) {
                return Some(format!(
                    "guest {slot}: its host has {view:?}, it has {:?} at {:?}, connected: {}, and the master copy {state:?}",
                    crate::state::shown(mirror, now),
                    mirror.revision(),
                    agent.is_connected()
                ));
            }
            for watched in agent
                .asked
                .watches
                .values()
                .filter(|watched| watched.at.is_some())
            {
                let view = ViewId {
                    reader: instance,
                    instance: watched.of,
                };
                if *self.truth.present(view) != watched.state {
                    return Some(format!(
                        "guest {slot} watches {} and has {:?}",
                        watched.of, watched.state
                    ));
                }
            }
        }
        None
    }

    /// Whether the master copy has each write that was acknowledged, once, and none that was refused.
    pub fn check_ledger(&mut self) -> Result<(), Violation> {
        let made: Vec<_> = self.ledger.made.keys().cloned().collect();
        for key in made {
            self.check_made(&key)?;
        }
        let refused: Vec<_> = self.ledger.refused.iter().cloned().collect();
        for key in refused {
            if self.times(&key).is_some_and(|times| times > 0) {
                return Err(format!("write {key} was refused, and is made"));
            }
        }
        Ok(())
    }

    /// Whether a write that was acknowledged is recorded, and in its log once.
    pub(crate) fn check_made(&mut self, key: &IdempotencyKey) -> Result<(), Violation> {
        let recorded = self.ledger.operation(key);
        let fresh_ids = self.mutant == crate::Mutant::ForgottenKey;
        if recorded.is_some_and(|id| !fresh_ids && !self.plane.has_record(&id)) {
            return Err(format!("write {key} was acknowledged, and has no record"));
        }
        match self.times(key) {
            Some(1) | None => Ok(()),
            Some(times) => Err(format!(
                "write {key} was acknowledged, and is in its log {times} times"
            )),
        }
    }

    /// How often what a program added is in its log; `None` if it added nothing, or nobody can look.
    fn times(&mut self, key: &IdempotencyKey) -> Option<usize> {
        let asked = self.ledger.asked.get(key)?.clone();
        let (instance, path) = (asked.of, asked.path.clone());
        if !asked.appends {
            return None;
        }
        let found = self
            .plane
            .look(Data::GetInstanceData { instance, path }, administrator())?;
        let Ok(Seen::Entry(shown)) = found.map(|done| done.reply) else {
            return None;
        };
        let value = shown.content.as_ref().and_then(Content::at_hand)?;
        let text = String::from_utf8_lossy(value.bytes());
        Some(text.matches(&asked.mark).count())
    }
}
