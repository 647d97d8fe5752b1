//! Sessions that end, run out of time, or are replaced by others.

use super::*;
use crate::credentials::table::session::REPLACE_EVERY_MS;

#[test]
fn a_restored_machine_gets_another_session_in_place_of_its_own() {
    let mut world = World::serving(&["own"]);
    world.greet(1, 1);
    assert!(world.wanted.is_empty() && world.has(1, &role("own")).is_some());
    world.greet(1, 2);
    assert_eq!(
        (world.has(1, &Item::Session), world.has(1, &role("own"))),
        (None, None)
    );
    let wanted = world.wanted.values().next().unwrap();
    assert_eq!(wanted.instead_of.as_deref(), Some("s-1"));
    // That the one before is over is what was asked for.
    world.revoke(1, "s-1");
    // It is asked for the same until it comes, though the guest connects once more.
    world.answer(&Item::Session, None);
    world.greet(1, 2);
    world.pass(2 * MINUTE);
    assert_eq!(
        world.wanted.values().next().unwrap().instead_of.as_deref(),
        Some("s-1")
    );
    world.answer_all(60 * MINUTE);
    assert!(world.has(1, &Item::Session).is_some() && world.has(1, &role("own")).is_some());
    world.pass(40 * MINUTE);
    assert_eq!(world.wanted.values().next().unwrap().instead_of, None);
}

/// Whether somebody has identified with a session.
#[derive(Clone, Copy)]
enum Identified {
    Yes,
    No,
}

/// Answers the fetch of a session.
fn answer_session(world: &mut World, identified: Identified) {
    let found = world
        .wanted
        .iter()
        .find(|(_, wanted)| wanted.item == Item::Session);
    let ticket = *found.unwrap().0;
    let wanted = world.wanted.remove(&ticket).unwrap();
    let Come::Session(grant, _) = come(&wanted, 1, Moment(world.now.0 + 60 * MINUTE)) else {
        panic!()
    };
    let window = match identified {
        Identified::Yes => None,
        Identified::No => Some(Moment(world.now.0 + 5 * MINUTE)),
    };
    let come = Come::Session(grant, window);
    world.table.fetched(ticket, Ok(come), world.now);
    world.settle();
}

fn replaces(world: &World) -> bool {
    let mut sessions = world
        .wanted
        .values()
        .filter(|wanted| wanted.item == Item::Session);
    sessions.any(|wanted| wanted.instead_of.is_some())
}

#[test]
fn an_agent_that_begins_anew_gets_another_session() {
    let mut world = World::new(7);
    world.set(1, &[]);
    world.begin(1);
    answer_session(&mut world, Identified::No);
    world.hello(1, 1, Speaker::New);
    world.hello(1, 1, Speaker::Known);
    assert!(
        world.wanted.is_empty(),
        "the first one has its session, and keeps it"
    );
    world.hello(1, 1, Speaker::New);
    assert!(replaces(&world), "the key of the one before is gone");
    assert_eq!(world.has(1, &Item::Session), None);
    answer_session(&mut world, Identified::No);
    world.hello(1, 1, Speaker::Known);
    assert!(world.wanted.is_empty());
}

#[test]
fn an_agent_and_a_host_daemon_that_both_begin_anew_find_out_whose_session_it_is() {
    for identified in [Identified::Yes, Identified::No] {
        let is = matches!(identified, Identified::Yes);
        let mut world = World::new(7);
        world.set(1, &[]);
        world.begin(1);
        world.hello(1, 1, Speaker::New);
        answer_session(&mut world, identified);
        assert_eq!(replaces(&world), is);
    }
    let mut world = World::new(7);
    world.set(1, &[]);
    world.begin(1);
    answer_session(&mut world, Identified::Yes);
    world.hello(1, 1, Speaker::Known);
    assert!(
        world.wanted.is_empty(),
        "an agent that outlived the daemon goes on"
    );
    world.hello(1, 1, Speaker::New);
    assert!(
        replaces(&world),
        "one that has found out that its key isn't the one that counts gets another"
    );
}

#[test]
fn a_session_that_was_ended_stays_ended_in_this_life() {
    let mut world = World::serving(&["own", "a"]);
    world.revoke(1, "s-none");
    world.revoke(1, "s-1");
    assert_eq!(
        (world.has(1, &Item::Session), world.has(1, &role("own"))),
        (None, None)
    );
    assert!(world.has(1, &role("a")).is_some());
    world.greet(1, 1);
    world.pass(30 * MINUTE);
    assert!(!world.wanted.values().any(|wanted| wanted.item == Item::Session));
    world.begin(1);
    assert!(world.wanted.values().any(|wanted| wanted.item == Item::Session));
}

#[test]
fn one_that_was_not_used_in_time_is_asked_for_when_the_guest_comes() {
    let mut world = World::new(7);
    world.set(1, &[]);
    world.begin(1);
    let (ticket, wanted) = world.wanted.pop_first().unwrap();
    let Come::Session(grant, _) = come(&wanted, 1, Moment(world.now.0 + 60 * MINUTE)) else {
        panic!()
    };
    let window = Moment(world.now.0 + 5 * MINUTE);
    world
        .table
        .fetched(ticket, Ok(Come::Session(grant, Some(window))), world.now);
    world.settle();
    world.pass(4 * MINUTE);
    world.greet(1, 1);
    assert!(world.wanted.is_empty());
    world.pass(2 * MINUTE);
    world.greet(1, 1);
    assert_eq!(world.wanted.len(), 1);
}

#[test]
fn an_agent_that_begins_anew_for_ever_gets_another_session_every_ten_seconds_and_loses_what_it_has_at_once() {
    let mut world = World::serving(&["own"]);
    let (begun, mut replaced) = (world.now, 0);
    while world.now.since(begun) < 10 * MINUTE {
        world.hello(1, 1, Speaker::New);
        let has = (world.has(1, &Item::Session), world.has(1, &role("own")));
        assert_eq!(has, (None, None), "an earlier agent's are good");
        // Neither does it come sooner by what else asks for it.
        world.table.know(Knowledge::Doubt, world.now);
        world.greet(1, 1);
        world.table.know(Knowledge::Certain, world.now);
        world.settle();
        replaced += u64::from(replaces(&world));
        world.answer_all(60 * MINUTE);
        world.pass(500);
    }
    let most = 10 * MINUTE / REPLACE_EVERY_MS;
    assert!((most - 1..=most + 1).contains(&replaced), "{replaced} sessions");
    // Once it stays, it has one.
    world.pass(REPLACE_EVERY_MS);
    world.answer_all(60 * MINUTE);
    assert!(world.has(1, &Item::Session).is_some() && world.has(1, &role("own")).is_some());
}

#[test]
fn a_machine_that_was_restored_while_the_daemon_began_anew_gets_another_session() {
    let mut before = World::new(7);
    before.set(1, &["own"]);
    before.begin(1);
    before.hello(1, 1, Speaker::New);
    before.answer_all(60 * MINUTE);
    // The guest comes before the feed, before its session, or afterwards.
    for (said, at) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)] {
        let mut world = World::after(before.kept.clone(), 7);
        let greet = |world: &mut World, now| (now == at).then(|| world.greet(1, said));
        world.begin(1);
        greet(&mut world, 0);
        world.set(1, &["own"]);
        greet(&mut world, 1);
        answer_session(&mut world, Identified::Yes);
        greet(&mut world, 2);
        // A daemon that ends here has the next one see the same.
        assert_eq!((replaces(&world), &world.kept), (said == 2, &before.kept));
        world.answer_all(60 * MINUTE);
        assert!(world.has(1, &Item::Session).is_some() && world.has(1, &role("own")).is_some());
        assert_eq!(world.kept[&id(1)].id, [said; 16]);
        // It is of that generation from now on.
        world.greet(1, said);
        assert!(!replaces(&world));
    }
}

#[test]
fn a_generation_is_of_one_life_and_kept_as_long_as_that_and_its_instance() {
    let mut world = World::serving(&[]);
    world.greet(1, 1);
    world.begin(1);
    answer_session(&mut world, Identified::Yes);
    world.greet(1, 2);
    assert!(!replaces(&world), "another life is another machine");
    assert_eq!(world.kept[&id(1)].incarnation, 2);
    world.end(1);
    assert!(world.kept.is_empty());
    let of_nobody = Generation {
        incarnation: 1,
        id: [1; 16],
    };
    let mut world = World::after([(id(1), of_nobody), (id(2), of_nobody)].into(), 7);
    world.set(1, &[]);
    world.table.complete();
    world.settle();
    assert_eq!(world.kept.keys().copied().collect::<Vec<_>>(), [id(1)]);
}
