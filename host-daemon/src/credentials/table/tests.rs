//! The table against what must hold of it, whatever happens.

mod revoked;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::{Revocation, Revoked};
use moorline_shared::api::instances::Desired;
use moorline_shared::credential::{Bearer, Credential};
use moorline_shared::link::Moment;
use moorline_shared::secret::{Secret, SecretKey};
use moorline_shared::{InstanceId, Revision, Timestamp};
use proptest::prelude::*;

use super::{Action, Come, Item, Knowledge, Table, Ticket, Wanted};
use crate::credentials::config::Roles;
use crate::credentials::generations::Generation;
use crate::link::tests::{id, spec};
use crate::link::{Grant, LifeId, Notice, RoleGrant, SessionGrant, Speaker};

const MINUTE: u64 = 60_000;

/// Two roles of commands, one of the instance's own token, one that is for another account.
fn roles() -> Roles {
    let text = "[a]\nsource = 'exec'\ncommand = ['/a']\nfetches_at_once = 2\n[b]\nsource = 'exec'\ncommand = ['/b']\n\
        [own]\nsource = 'moorline'\n[theirs]\nsource = 'moorline'\naccounts = ['other']\n";
    toml::from_str(text).unwrap()
}

fn role(name: &str) -> Item {
    Item::Role(name.parse().unwrap())
}

/// Whose something is, in the place of its secret.
fn mark(wanted: &Wanted, number: u64) -> String {
    format!(
        "{}/{}/{:?}/{number}",
        wanted.instance, wanted.incarnation, wanted.item
    )
}

fn come(wanted: &Wanted, number: u64, deadline: Moment) -> Come {
    let mark = mark(wanted, number);
    match &wanted.item {
        Item::Session => {
            let grant = SessionGrant {
                session: format!("s-{number}"),
                token: Secret::from(mark),
                token_id: number.to_string(),
                sealed_by: 1,
                key: SecretKey::from([1; 32]),
                deadline,
            };
            Come::Session(grant, None)
        }
        Item::Role(_) => {
            let token = Secret::from(mark);
            Come::Role(RoleGrant {
                credential: Credential::Bearer(Bearer { token }),
                deadline,
                expires_at: Timestamp::from_millis(0).unwrap(),
            })
        }
    }
}

/// A daemon and its guests, as far as the table goes.
struct World {
    table: Table,
    now: Moment,
    number: u64,
    wanted: BTreeMap<Ticket, Wanted>,
    /// What each guest has in the present life of its VM: the mark and the deadline.
    guests: BTreeMap<(InstanceId, Item), (String, Moment)>,
    lives: BTreeMap<InstanceId, u64>,
    fetches: u64,
    /// Which generations are on disk.
    kept: BTreeMap<InstanceId, Generation>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self::after(BTreeMap::new(), seed)
    }

    /// Instance 1 in its first life, with these roles and all that it is to have, for an hour.
    fn serving(roles: &[&str]) -> Self {
        let mut world = Self::new(7);
        world.set(1, roles);
        world.begin(1);
        world.answer_all(60 * MINUTE);
        world
    }

    /// A daemon that finds what an earlier one kept of generations.
    fn after(kept: BTreeMap<InstanceId, Generation>, seed: u64) -> Self {
        let mut table = Table::new(roles(), kept.clone(), seed);
        table.know(Knowledge::Certain, Moment(1_000));
        Self {
            table,
            now: Moment(1_000),
            number: 0,
            wanted: BTreeMap::new(),
            guests: BTreeMap::new(),
            lives: BTreeMap::new(),
            fetches: 0,
            kept,
        }
    }

    fn set(&mut self, n: u8, roles: &[&str]) {
        let mut spec = spec(n);
        spec.roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        self.table.set(&spec, self.now);
        self.settle();
    }

    fn begin(&mut self, n: u8) {
        let incarnation = self.lives.get(&id(n)).map_or(1, |life| life + 1);
        self.lives.insert(id(n), incarnation);
        self.guests.retain(|(instance, _), _| *instance != id(n));
        self.table.notice(Notice::Began(self.life(n)), self.now);
        self.settle();
    }

    fn end(&mut self, n: u8) {
        self.guests.retain(|(instance, _), _| *instance != id(n));
        self.table.notice(Notice::Ended(self.life(n)), self.now);
        self.settle();
    }

    /// The last life of an instance's VM, or one that never was.
    fn life(&self, n: u8) -> LifeId {
        LifeId {
            instance: id(n),
            incarnation: self.lives.get(&id(n)).copied().unwrap_or(0),
        }
    }

    fn greet(&mut self, n: u8, generation: u8) {
        self.hello(n, generation, Speaker::Known);
    }

    fn hello(&mut self, n: u8, generation: u8, speaker: Speaker) {
        let notice = Notice::Greeted {
            life: self.life(n),
            generation: Some([generation; 16]),
            speaker,
        };
        self.table.notice(notice, self.now);
        self.settle();
    }

    fn has(&self, n: u8, item: &Item) -> Option<&str> {
        let (mark, deadline) = self.guests.get(&(id(n), item.clone()))?;
        (self.now < *deadline).then_some(mark.as_str())
    }

    /// Does what the table says, and looks at it.
    fn settle(&mut self) {
        self.table.tick(self.now);
        for action in self.table.take_actions() {
            match action {
                Action::Fetch(ticket, wanted) => {
                    self.fetches += 1;
                    let same =
                        |other: &Wanted| other.instance == wanted.instance && other.item == wanted.item;
                    assert!(
                        !self.wanted.values().any(same),
                        "fetched twice at once: {wanted:?}"
                    );
                    assert_eq!(Some(&wanted.incarnation), self.lives.get(&wanted.instance));
                    self.wanted.insert(ticket, wanted);
                }
                Action::Abandon(ticket) => drop(self.wanted.remove(&ticket).expect("it was under way")),
                Action::Tell(instance, incarnation, grant) => {
                    assert_eq!(Some(&incarnation), self.lives.get(&instance));
                    self.told(instance, grant);
                }
                Action::Keep(instance, Some(generation)) => {
                    let before = self.kept.insert(instance, generation);
                    assert_ne!(before, Some(generation), "it is written for nothing");
                }
                Action::Keep(instance, None) => drop(self.kept.remove(&instance).expect("it was kept")),
            }
        }
        for (item, lane) in &self.table.lanes {
            let under_way = self.wanted.values().filter(|wanted| wanted.item == *item).count();
            assert_eq!(under_way, usize::from(lane.under_way()), "{item:?}");
            assert!(*item != role("a") || under_way <= 2);
        }
    }

    fn told(&mut self, instance: InstanceId, grant: Grant) {
        let (item, held) = match grant {
            Grant::Session(session) => (
                Item::Session,
                Some((session.token.expose().to_owned(), session.deadline)),
            ),
            Grant::NoSession | Grant::SessionOver(_) => (Item::Session, None),
            Grant::Role(role, grant) => {
                let Credential::Bearer(bearer) = &grant.credential else {
                    panic!()
                };
                (
                    Item::Role(role),
                    Some((bearer.token.expose().to_owned(), grant.deadline)),
                )
            }
            // A guest keeps what it has when it is told that more comes.
            Grant::Announced(_) => return,
            Grant::RanOut(role) | Grant::Withdrawn(role) => (Item::Role(role), None),
        };
        match held {
            Some((mark, deadline)) => {
                let whose = format!("{instance}/{}/{item:?}/", self.lives[&instance]);
                assert!(mark.starts_with(&whose), "{mark} was given to {whose}");
                assert!(deadline > self.now, "what has run out was given");
                self.guests.insert((instance, item), (mark, deadline));
            }
            None => drop(self.guests.remove(&(instance, item))),
        }
    }

    /// What is under way for an item comes, and lasts so long; `None` for a failure.
    fn answer(&mut self, item: &Item, lasts_ms: Option<u64>) {
        let tickets: Vec<_> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| wanted.item == *item)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            let Some(wanted) = self.wanted.remove(&ticket) else {
                continue;
            };
            self.number += 1;
            // What is made of a token lasts as long as it.
            let own = wanted.session.as_ref().filter(|_| wanted.item == role("own"));
            let lasts = |ms| own.map_or(Moment(self.now.0 + ms), |session| session.deadline);
            let result = lasts_ms.map(|ms| come(&wanted, self.number, lasts(ms)));
            self.table
                .fetched(ticket, result.ok_or_else(|| "no".to_owned()), self.now);
            self.settle();
        }
    }

    fn answer_all(&mut self, lasts_ms: u64) {
        while let Some(item) = self.wanted.values().next().map(|wanted| wanted.item.clone()) {
            self.answer(&item, Some(lasts_ms));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now = Moment(self.now.0 + ms);
        self.settle();
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Set(u8, u8),
    Gone(u8),
    Terminated(u8),
    Begin(u8),
    End(u8),
    Greet(u8, u8),
    Answer(u8, u64),
    Fail(u8),
    Late(u8),
    Revoke(u8),
    DestroyKey,
    Know(Knowledge),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..3u8, 0..32u8).prop_map(|(n, roles)| Event::Set(n, roles)),
        1 => (0..3u8).prop_map(Event::Gone),
        1 => (0..3u8).prop_map(Event::Terminated),
        2 => (0..3u8).prop_map(Event::Begin),
        1 => (0..3u8).prop_map(Event::End),
        2 => (0..3u8, 0..3u8).prop_map(|(n, generation)| Event::Greet(n, generation)),
        8 => (0..4u8, 0..90 * MINUTE).prop_map(|(item, lasts)| Event::Answer(item, lasts)),
        2 => (0..4u8).prop_map(Event::Fail),
        1 => (0..4u8).prop_map(Event::Late),
        1 => (0..3u8).prop_map(Event::Revoke),
        1 => Just(Event::DestroyKey),
        1 => Just(Event::Know(Knowledge::Doubt)),
        2 => Just(Event::Know(Knowledge::Certain)),
        5 => (0..30 * MINUTE).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 200..300)
}

const NAMES: [&str; 5] = ["a", "b", "own", "theirs", "unknown"];

fn item(n: u8) -> Item {
    [Item::Session, role("a"), role("b"), role("own")][usize::from(n)].clone()
}

fn play(world: &mut World, event: Event) {
    match event {
        Event::Set(n, bits) => {
            let named = NAMES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
            let named: Vec<_> = named.map(|(_, name)| *name).collect();
            world.set(n, &named);
        }
        Event::Gone(n) => {
            world.table.gone(id(n));
            world.settle();
        }
        Event::Terminated(n) => {
            let mut spec = spec(n);
            spec.desired = Desired::Terminated;
            world.table.set(&spec, world.now);
            world.settle();
            assert!(!world.guests.keys().any(|(instance, _)| *instance == id(n)));
        }
        Event::Begin(n) => world.begin(n),
        Event::End(n) => world.end(n),
        Event::Greet(n, generation) => world.greet(n, generation),
        Event::Answer(n, lasts) => world.answer(&item(n), Some(lasts)),
        Event::Fail(n) => world.answer(&item(n), None),
        // A fetch that was given up, or that another answered already.
        Event::Late(n) => world
            .table
            .fetched(Ticket(u64::from(n)), Err("late".to_owned()), world.now),
        Event::Revoke(n) => {
            let held = world.guests.get(&(id(n), Item::Session)).cloned();
            let number = held.and_then(|(mark, _)| mark.rsplit('/').next().map(str::to_owned));
            if let Some(number) = number {
                world.revoke(n, &format!("s-{number}"));
                assert_eq!(world.has(n, &Item::Session), None);
                assert_eq!(world.has(n, &role("own")), None);
            }
        }
        Event::DestroyKey => {
            let sealed = world.guests.keys().filter(|(_, held)| *held == Item::Session);
            let sealed: Vec<_> = sealed.map(|(instance, _)| *instance).collect();
            world
                .table
                .revoked(&revocation(Revoked::Key { id: 1 }, 1), world.now);
            world.settle();
            let left = |(instance, held): &(InstanceId, Item)| falls(held) && sealed.contains(instance);
            assert!(!world.guests.keys().any(left));
        }
        Event::Know(knowledge) => {
            world.table.know(knowledge, world.now);
            world.settle();
        }
        Event::Pass(ms) => world.pass(ms),
    }
}

/// Whether it hangs on the session.
fn falls(held: &Item) -> bool {
    *held == Item::Session || *held == role("own")
}

fn revocation(revoked: Revoked, lasts: i64) -> Revocation {
    let time = |ms| Timestamp::from_millis(ms).unwrap();
    Revocation {
        sequence: Revision::new(1, 1),
        revoked,
        not_before: time(0),
        until: time(lasts),
    }
}

impl World {
    fn revoke(&mut self, n: u8, session: &str) {
        let revoked = Revoked::Session {
            instance: id(n),
            id: session.to_owned(),
        };
        self.table.revoked(&revocation(revoked, 3_600_000), self.now);
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_a_guest_has_its_own_and_nothing_that_ran_out(events in events(), seed: u64) {
        let mut world = World::new(seed);
        for event in events {
            // A late answer may be to a fetch that is still wanted; then it is one that failed.
            if let Event::Late(n) = event {
                world.wanted.remove(&Ticket(u64::from(n)));
            }
            play(&mut world, event);
            let shown = world.table.status(world.now);
            let doubt = world.table.knowledge() == Knowledge::Doubt;
            for ((instance, held), (_, deadline)) in &world.guests {
                prop_assert!(!(doubt && falls(held)), "{:?} is given to whoever connects, and may be revoked", held);
                prop_assert!(*deadline > world.now);
                let of = shown.get(instance).into_iter().flatten();
                let found = of.filter(|status| status.role.clone().map_or(Item::Session, Item::Role) == *held);
                prop_assert_eq!(found.filter_map(|status| status.kind.as_ref()).count(), 1);
            }
            let debugged = format!("{:?} {:?}", world.table, shown);
            prop_assert!(world.guests.values().all(|(mark, _)| !debugged.contains(mark)));
        }
    }

    #[test]
    fn while_sources_work_there_is_no_moment_without(seed: u64, lasts in 16 * MINUTE..26 * 60 * MINUTE, slow in 0..2_000u64) {
        let mut world = World::new(seed);
        world.set(1, &["a", "b", "own"]);
        world.begin(1);
        world.answer_all(lasts);
        let end = world.now.0 + 3 * lasts;
        let items = [Item::Session, role("a"), role("b"), role("own")];
        while world.now.0 < end {
            let next = world.table.next().expect("something is to be done");
            world.pass(next.since(world.now).max(1));
            // What takes its time takes nothing away meanwhile.
            for wait in [0, slow] {
                world.pass(wait);
                for item in &items {
                    prop_assert!(world.has(1, item).is_some(), "{:?} at {:?}", item, world.now);
                    let (_, deadline) = &world.guests[&(id(1), item.clone())];
                    let window = if *item == Item::Session || *item == role("own") { 0 } else { 15 * MINUTE };
                    prop_assert!(deadline.since(world.now) >= window.min(lasts / 3).saturating_sub(2 * slow));
                }
            }
            world.answer_all(lasts);
        }
        prop_assert!(world.fetches < 4 * 12, "{} fetches", world.fetches);
    }
}

#[test]
fn a_failure_costs_the_one_role_of_the_one_instance() {
    let mut world = World::new(7);
    for n in 1..=5 {
        world.set(n, &["a", "b"]);
        world.begin(n);
    }
    // The command of `a` hangs, two at a time; everything else comes.
    world.answer(&Item::Session, Some(60 * MINUTE));
    while world.wanted.values().any(|wanted| wanted.item == role("b")) {
        world.answer(&role("b"), Some(60 * MINUTE));
    }
    for n in 1..=5 {
        assert!(world.has(n, &Item::Session).is_some() && world.has(n, &role("b")).is_some());
        assert_eq!(world.has(n, &role("a")), None);
    }
    world.answer(&role("a"), None);
    assert!(world.has(1, &role("b")).is_some());
    world.pass(2 * MINUTE);
    for _ in 0..5 {
        world.answer(&role("a"), Some(60 * MINUTE));
        world.pass(MINUTE);
    }
    assert!((1..=5).all(|n| world.has(n, &role("a")).is_some()));
}

#[test]
fn what_is_held_is_served_until_its_deadline_while_its_source_fails() {
    let mut world = World::serving(&["a"]);
    let deadline = world.now.0 + 60 * MINUTE;
    let before = world.has(1, &role("a")).unwrap().to_owned();
    while world.now.0 < deadline {
        assert_eq!(world.has(1, &role("a")), Some(before.as_str()));
        let wait = world.table.next().unwrap().since(world.now).max(1);
        world.pass(wait.min(deadline - world.now.0));
        world.answer(&role("a"), None);
        world.answer(&Item::Session, Some(60 * MINUTE));
    }
    assert_eq!(world.has(1, &role("a")), None);
    let status = &world.table.status(world.now)[&id(1)];
    let role = status.iter().find(|status| status.role.is_some()).unwrap();
    assert_eq!((role.kind.as_ref(), role.error.as_deref()), (None, Some("no")));
}

#[test]
fn roles_that_the_host_does_not_give_are_named_and_not_fetched() {
    let world = World::serving(&["theirs", "unknown"]);
    assert_eq!(world.fetches, 1);
    let status = &world.table.status(world.now)[&id(1)];
    let errors: BTreeSet<_> = status
        .iter()
        .filter_map(|status| status.error.as_deref())
        .collect();
    assert!(
        errors.iter().any(|error| error.contains("not for account main")),
        "{errors:?}"
    );
    assert!(
        errors.iter().any(|error| error.contains("add [roles.unknown]")),
        "{errors:?}"
    );
}
