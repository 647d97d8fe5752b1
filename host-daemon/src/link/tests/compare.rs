//! Mirrors that are compared with what the host has.

use moorline_shared::Digest;
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::link::body::Differs;
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, KindSet};

use super::{Agent, World, revision};
use crate::config::{CacheConfig, LinkConfig};

fn world() -> World {
    let link = LinkConfig {
        sync_seconds: 1,
        ..LinkConfig::default()
    };
    World::with(&link, &CacheConfig::default())
}

/// What entries come to that last changed at the `n`-th revision.
fn digest(n: u64, entries: &[(&str, &str)]) -> Digest {
    ViewDigest::of(entries.iter().map(|(path, value)| Row {
        path,
        revision: revision(n),
        content_type: "text/plain",
        secret: false,
        value: Digest::of(value.as_bytes()),
    }))
}

/// What the next frame but a heartbeat's says that the mirror is.
fn compared(agent: &mut Agent) -> (u64, Digest) {
    match agent.try_next() {
        Some(GuestEvent::Digest(said)) => (said.revision.n, said.digest),
        other => panic!("{other:?} came in place of DIGEST"),
    }
}

#[test]
fn a_mirror_in_step_is_compared_by_one_frame_again_and_again() {
    let world = world();
    world.add(1, &[("a", "x"), ("b/c", "y")]);
    let mut agent = world.guest(1);
    let right = digest(1, &[("a", "x"), ("b/c", "y")]);
    assert_eq!(compared(&mut agent), (1, right));
    assert_eq!(compared(&mut agent), (1, right));
    world.set(1, "a", 2, None);
    world.set(1, "b/c", 3, None);
    world.set(1, "d", 4, Some("z"));
    let mut last = agent.mirror();
    while last.to < revision(4) {
        last = agent.mirror();
    }
    assert_eq!(compared(&mut agent), (4, digest(4, &[("d", "z")])));
}

#[test]
fn a_guest_that_has_something_else_is_sent_everything() {
    let world = world();
    world.add(1, &[("a", "x")]);
    let mut agent = world.guest(1);
    let (at, _) = compared(&mut agent);
    let revision_said = Some(revision(at));
    let differs = Differs {
        revision: revision_said,
    };
    agent.core.differs(&differs, crate::link::now());
    let snapshot = agent.mirror();
    assert_eq!((snapshot.from, snapshot.to), (None, revision(1)));
    assert_eq!(snapshot.items["a"].as_deref(), Some("x"));
    assert_eq!(compared(&mut agent).0, 1);
}

#[test]
fn a_guest_that_was_not_asked_may_not_complain() {
    let world = World::new();
    world.add(1, &[("a", "x")]);
    let mut agent = world.guest(1);
    let differs = Differs { revision: None };
    agent.core.differs(&differs, crate::link::now());
    assert_eq!(agent.try_next(), None, "the host hangs up");
}

#[test]
fn a_guest_that_does_not_know_of_comparing_is_left_alone() {
    let world = world();
    world.add(1, &[("a", "x")]);
    let mut agent = Agent::dial(&world.socket(1));
    let known = Kind::ALL.iter().filter(|kind| **kind != Kind::Digest);
    agent.hello.kinds = KindSet::of(&known.copied().collect::<Vec<_>>());
    agent.ready();
    agent.mirror();
    let mut beside = world.guest(1);
    compared(&mut beside);
    // The other took its place, and nothing else was said to it meanwhile.
    assert!(matches!(agent.try_next(), Some(GuestEvent::GoAway(_))));
}
