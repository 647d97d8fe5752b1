//! What was revoked, what may have been, and what is vouched for.

use moorline_shared::Digest;
use moorline_shared::api::feed::Revoked;

use super::{Come, Item, Knowledge, MINUTE, World, id, revocation, role};
use crate::credentials::table::Vouched;

/// The digest of the token of the instance's session `number`.
fn token(number: u64) -> Digest {
    Digest::of(format!("{}/1/Session/{number}", id(1)).as_bytes())
}

#[test]
fn a_token_of_a_key_that_is_gone_is_taken_back_and_another_comes() {
    let mut world = World::serving(&["own", "a"]);
    world
        .table
        .revoked(&revocation(Revoked::Key { id: 2 }, 1), world.now);
    world.settle();
    assert!(world.has(1, &Item::Session).is_some() && world.wanted.is_empty());
    world
        .table
        .revoked(&revocation(Revoked::Key { id: 1 }, 1), world.now);
    world.settle();
    assert_eq!(
        (world.has(1, &Item::Session), world.has(1, &role("own"))),
        (None, None)
    );
    world.pass(1);
    let wanted: Vec<_> = world.wanted.values().map(|wanted| wanted.item.clone()).collect();
    assert_eq!(wanted, [Item::Session]);
    world.answer_all(60 * MINUTE);
    assert!(world.has(1, &Item::Session).is_some() && world.has(1, &role("own")).is_some());
}

#[test]
fn what_was_revoked_on_its_way_is_given_to_nobody() {
    let mut world = World::new(7);
    world.set(1, &["own"]);
    world.begin(1);
    world.revoke(1, "s-1");
    world.answer(&Item::Session, Some(60 * MINUTE));
    assert_eq!(world.has(1, &Item::Session), None);
    // The control plane says that there is no other in this life.
    world.pass(2_000);
    let (ticket, _) = world.wanted.pop_first().unwrap();
    world
        .table
        .fetched(ticket, Ok(Come::Ended("ended".to_owned())), world.now);
    world.settle();
    world.pass(60 * MINUTE);
    assert!(world.wanted.is_empty() && world.has(1, &Item::Session).is_none());
    let status = &world.table.status(world.now)[&id(1)];
    assert!(
        status
            .iter()
            .all(|status| status.error.as_deref() == Some("ended")),
        "{status:?}"
    );
}

#[test]
fn while_the_feed_is_silent_the_control_plane_is_asked_for_whoever_connects() {
    let mut world = World::serving(&["own", "a"]);
    world.table.know(Knowledge::Doubt, world.now);
    world.settle();
    assert_eq!(
        (world.has(1, &Item::Session), world.has(1, &role("own"))),
        (None, None)
    );
    assert!(
        world.has(1, &role("a")).is_some(),
        "the operator's command doesn't hang on the session"
    );
    world.greet(1, 1);
    world.pass(1);
    assert_eq!(
        world.wanted.values().next().map(|wanted| wanted.item.clone()),
        Some(Item::Session)
    );
    world.answer(&Item::Session, None);
    assert_eq!(world.has(1, &Item::Session), None);
    world.table.know(Knowledge::Certain, world.now);
    world.settle();
    assert!(world.has(1, &Item::Session).is_some() && world.has(1, &role("own")).is_some());
}

#[test]
fn a_request_is_vouched_for_while_its_session_is_known_to_stand() {
    let mut world = World::serving(&[]);
    let vouch = |world: &mut World, number| {
        let vouched = world.table.vouch(id(1), &token(number), world.now);
        world.settle();
        vouched
    };
    assert_eq!(vouch(&mut world, 1), Vouched::Good);
    // One of before this daemon, of which the control plane knows what it is.
    assert_eq!(vouch(&mut world, 9), Vouched::Good);
    world.table.know(Knowledge::Doubt, world.now);
    assert_eq!(vouch(&mut world, 1), Vouched::Asked);
    world.pass(1);
    world.answer(&Item::Session, Some(60 * MINUTE));
    let asked = |world: &World, number| world.table.vouch_asked(id(1), &token(number), world.now);
    assert_eq!(
        (asked(&world, 2), asked(&world, 9)),
        (Vouched::Good, Vouched::Good)
    );
    assert_eq!(
        asked(&world, 1),
        Vouched::Ended,
        "another session has taken its place"
    );
    world.revoke(1, "s-2");
    assert_eq!(
        (vouch(&mut world, 2), vouch(&mut world, 9)),
        (Vouched::Ended, Vouched::Ended)
    );
}
