//! The invariants, looked at after every event.

use moorline_agent::mirror::Mirror;
use moorline_shared::agent::Freshness;
use moorline_shared::api::data::Changed;
use moorline_shared::api::feed::ViewId;
use moorline_shared::{InstanceId, Revision};

use crate::agent::{Answer, Watched};
use crate::host::Host;
use crate::programs::Told;
use crate::state::{mirror_has, shown, view_has};
use crate::world::{World, host_of};
use crate::{HOSTS, SLOTS};

/// For how long somebody may take something for the present state that isn't: 30 s without a word of the host, 6 s
/// without one of the control plane, and what words take on their way.
const STALE_MS: u64 = 60_000;
/// The same for other instances' data, which a host that is cut off serves for a minute.
const FOREIGN_STALE_MS: u64 = 60_000 + STALE_MS;
/// The most bytes of answers that a host keeps for a guest that doesn't read.
const MOST_BACKLOG: usize = 512 * 1024;
/// The most calls of a host that are under way, with those that were made twice.
const MOST_ERRANDS: usize = 2_000;

/// What doesn't hold.
pub type Violation = String;

fn own(instance: InstanceId) -> ViewId {
    ViewId::own(instance)
}

impl World {
    /// Looks at everything.
    pub fn check(&mut self) -> Result<(), Violation> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        for slot in 0..SLOTS {
            self.check_guest(slot)?;
        }
        self.check_ghost()?;
        for host in 0..HOSTS {
            self.check_host(host)?;
        }
        self.check_told()?;
        self.check_bounds()
    }

    fn check_guest(&mut self, slot: usize) -> Result<(), Violation> {
        let now = self.guest_now(slot);
        let guest = &self.guests[slot];
        let Some(agent) = &guest.agent else {
            return Ok(());
        };
        let Some((instance, revision)) = agent.instance().zip(agent.mirror.revision()) else {
            return Ok(());
        };
        self.check_mirror(slot, &agent.mirror, instance, revision)?;
        if guest.seen.is_some_and(|seen| revision < seen) {
            return Err(format!(
                "the mirror of guest {slot} goes back from {:?} to {revision}",
                guest.seen
            ));
        }
        for watched in agent.asked.watches.values() {
            self.check_watch(slot, instance, watched)?;
        }
        let is_fresh = agent
            .mirror
            .age(now)
            .is_some_and(|age| age.freshness == Freshness::Fresh);
        let (since, restored) = (
            self.clock.ms().saturating_sub(STALE_MS),
            guest.restored_ms + STALE_MS > self.clock.ms(),
        );
        let is_late = !self.truth.was_later(revision, since);
        if is_fresh && is_late && !restored {
            let so = |state: &_| mirror_has(&agent.mirror, state, now);
            if !self.truth.was_so_since(own(instance), since, so) {
                return Err(format!(
                    "guest {slot} takes what it has at {revision} for the present state, and it has been another for long"
                ));
            }
        }
        let has_entries = !agent.mirror.is_empty();
        let stale = !is_fresh;
        self.guests[slot].seen = Some(revision);
        if has_entries {
            self.count("a mirror is compared");
        }
        if stale {
            self.count("a mirror is stale");
        }
        Ok(())
    }

    fn check_mirror(
        &self,
        slot: usize,
        mirror: &Mirror,
        instance: InstanceId,
        revision: Revision,
    ) -> Result<(), Violation> {
        let now = self.guest_now(slot);
        match self.truth.state(own(instance), revision) {
            Some(state) if mirror_has(mirror, &state, now) => Ok(()),
            expected => Err(format!(
                "guest {slot} has of {instance} at {revision} {:?} instead of {expected:?}",
                shown(mirror, now)
            )),
        }
    }

    fn check_watch(&self, slot: usize, reader: InstanceId, watched: &Watched) -> Result<(), Violation> {
        let instance = watched.of;
        let Some(at) = watched.at else {
            return Ok(());
        };
        match self.truth.state(ViewId { reader, instance }, at) {
            Some(state) if *state == watched.state => Ok(()),
            expected => Err(format!(
                "guest {slot} watches {instance} and has {:?} at {at} instead of {expected:?}",
                watched.state
            )),
        }
    }

    /// What came after a life ended never reaches its agent.
    fn check_ghost(&mut self) -> Result<(), Violation> {
        let Some(ghost) = &self.ghost else {
            return Ok(());
        };
        let revision = ghost.agent.mirror.revision();
        if revision.is_some_and(|revision| revision > ghost.until) {
            return Err(format!(
                "an agent whose life ended at {} is brought to {revision:?}",
                ghost.until
            ));
        }
        let (slot, known) = (ghost.slot, ghost.agent.instance().zip(revision));
        if let Some((instance, revision)) = known {
            let mirror = &self.ghost.as_ref().expect("it is there").agent.mirror;
            self.check_mirror(slot, mirror, instance, revision)?;
            self.count("an agent of an earlier life is looked at");
        }
        Ok(())
    }

    fn check_host(&mut self, host: usize) -> Result<(), Violation> {
        let instances: Vec<_> = self.guests.iter().filter_map(|guest| guest.instance).collect();
        let Some(mut daemon) = self.hosts[host].take() else {
            return Ok(());
        };
        let mut foreign = 0;
        let mut outcome = Ok(());
        for reader in &instances {
            for instance in &instances {
                let (reader, instance) = (*reader, *instance);
                let view = ViewId { reader, instance };
                match self.check_view(host, &mut daemon, view) {
                    Ok(true) if reader != instance => foreign += 1,
                    Ok(_) => {}
                    Err(violation) => outcome = Err(violation),
                }
            }
        }
        self.hosts[host] = Some(daemon);
        for _ in 0..foreign {
            self.count("a view of another instance is compared");
        }
        outcome
    }

    /// Whether there is something of the view to be compared.
    fn check_view(&self, host: usize, daemon: &mut Host, id: ViewId) -> Result<bool, Violation> {
        let Some(view) = daemon.floor.cache().view(&id).filter(|view| view.is_served()) else {
            return Ok(false);
        };
        let revision = view.revision();
        match self.truth.state(id, revision) {
            Some(state) if view_has(view, &state, self.clock.moment()) => {}
            expected => {
                return Err(format!(
                    "host {host} shows {} of {} at {revision} {view:?} instead of {expected:?}",
                    id.reader, id.instance
                ));
            }
        }
        let known = view.known();
        let before = daemon.seen.insert(id, known);
        if before.is_some_and(|before| known < before) {
            return Err(format!(
                "a view of host {host} goes back from {before:?} to {known}"
            ));
        }
        Ok(true)
    }

    /// What programs were told since it was looked at last.
    fn check_told(&mut self) -> Result<(), Violation> {
        for slot in 0..SLOTS {
            let Some(agent) = &mut self.guests[slot].agent else {
                continue;
            };
            let (told, answers) = (
                std::mem::take(&mut agent.programs.told),
                std::mem::take(&mut agent.asked.answers),
            );
            let again = std::mem::take(&mut agent.programs.again);
            let reader = agent.instance();
            if again > 0 {
                self.count("a write is sent again");
            }
            for told in told {
                self.check_write(told)?;
            }
            for answer in answers {
                if let Some(reader) = reader {
                    self.check_answer(reader, &answer)?;
                }
            }
        }
        Ok(())
    }

    fn check_write(&mut self, told: Told) -> Result<(), Violation> {
        match told {
            Told::Made(key, changed) => {
                self.count("a write is acknowledged");
                self.ledger.refused.remove(&key);
                if !self.truth.survives(changed.revision) {
                    return Ok(());
                }
                let before = self.ledger.made.insert(key.clone(), changed.clone());
                // A backup that is restored has what was made before it, in its own epoch.
                let other = |before: &Changed| {
                    (before.operation, before.revision.n) != (changed.operation, changed.revision.n)
                };
                if before.as_ref().is_some_and(other) {
                    return Err(format!(
                        "write {key} is made twice, at last at {}",
                        changed.revision
                    ));
                }
                if self.plane.head().epoch == changed.revision.epoch {
                    return self.check_made(&key);
                }
            }
            Told::Refused(key) => {
                self.count("a write is refused");
                if self.ledger.made.contains_key(&key) {
                    return Err(format!("write {key} was acknowledged, and is refused now"));
                }
                self.ledger.refused.insert(key);
            }
            Told::Unsettled(_) => self.count("a write is unsettled"),
        }
        Ok(())
    }

    /// An answer about another instance's data says what was so, not long ago.
    fn check_answer(&mut self, reader: InstanceId, answer: &Answer) -> Result<(), Violation> {
        let since = self.clock.ms().saturating_sub(FOREIGN_STALE_MS);
        let (instance, holds, what) = match answer {
            Answer::Entry(instance, path, held) => {
                let view = ViewId {
                    reader,
                    instance: *instance,
                };
                let shown = self.truth.was_shown(view, path, held, since);
                (*instance, shown, "another's entry is read")
            }
            Answer::Nothing(instance, path) => {
                let view = ViewId {
                    reader,
                    instance: *instance,
                };
                let lacks = |state: &crate::state::State| !state.contains_key(path);
                let lacked = self.truth.was_so_since(view, since, lacks);
                (*instance, lacked, "another's entry is denied")
            }
            Answer::Listing(instance, revision, entries) => {
                let view = ViewId {
                    reader,
                    instance: *instance,
                };
                let state = self.truth.state(view, *revision);
                let same = |state: &crate::state::State| {
                    state.len() == entries.len()
                        && state
                            .iter()
                            .all(|(path, held)| entries.get(path) == Some(&held.revision))
                };
                (
                    *instance,
                    state.is_some_and(|state| same(&state)),
                    "another's are listed",
                )
            }
        };
        self.count(what);
        if holds {
            return Ok(());
        }
        Err(format!(
            "{reader} was answered about {instance} {answer:?}, which was never so"
        ))
    }

    fn check_bounds(&mut self) -> Result<(), Violation> {
        if self.net.errands.len() > MOST_ERRANDS {
            return Err(format!("{} calls are under way", self.net.errands.len()));
        }
        for wire in &self.net.wires {
            let Some(daemon) = &mut self.hosts[host_of(wire.slot)] else {
                continue;
            };
            let outbox = daemon.floor.outbox(wire.token);
            let backlog = outbox.map_or(0, |outbox| outbox.backlog() + outbox.answer_bytes());
            if backlog > MOST_BACKLOG {
                return Err(format!("{backlog} bytes of answers wait for guest {}", wire.slot));
            }
        }
        Ok(())
    }
}
