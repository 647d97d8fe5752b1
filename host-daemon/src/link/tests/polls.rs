//! Guests that have to ask for what changes, and hosts that have to ask themselves.

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use moorline_shared::link::body::{Differs, Freshness, Poll, Pull};
use moorline_shared::link::frame::{Last, put_with};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, KindSet, StreamId};

use super::{Agent, World, revision};
use crate::config::{CacheConfig, LinkConfig, Upkeep};
use crate::link::now;

/// A host that has guests ask, and one guest with an entry.
fn world(sync: Upkeep, poll_seconds: u32) -> World {
    let link = LinkConfig {
        sync,
        poll_seconds,
        sync_seconds: 0,
        ..LinkConfig::default()
    };
    let world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "x")]);
    world
}

fn pull(agent: &mut Agent) -> Pull {
    match agent.next() {
        GuestEvent::Pull(pull) => pull,
        other => panic!("{other:?} came instead of PULL"),
    }
}

/// A guest whose first question is answered, and how long after an answer it is to ask.
fn asking(world: &World) -> (Agent, Duration) {
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    let pull = pull(&mut agent);
    let first = agent.as_of();
    assert_eq!(first.revision, Some(revision(1)));
    assert_eq!(agent.mirror().to, revision(1));
    assert_eq!(agent.standings, []);
    (agent, Duration::from_millis(pull.every_ms.into()))
}

/// Asks whether it is due or not, as a guest can that keeps to nothing.
fn ask(agent: &mut Agent) {
    let body = postcard::to_stdvec(&Poll { number: 7 }).unwrap();
    let mut out = BytesMut::new();
    put_with(&mut out, Kind::Poll, Last::No, StreamId::SESSION, |out| {
        out.extend_from_slice(&body);
    });
    agent.socket.write_all(&out).unwrap();
}

#[test]
fn nothing_comes_unasked_and_an_answer_brings_everything() {
    let world = world(Upkeep::Poll, 1);
    let (mut agent, every) = asking(&world);
    assert!((750..=1_250).contains(&every.as_millis()), "{every:?}");
    world.set(1, "a", 2, Some("y"));
    world.set(1, "b", 3, Some("z"));
    // What is answered behind the changes shows that they were not told before.
    assert_eq!(&agent.get("b").unwrap().value[..], b"z");
    ask(&mut agent);
    let answer = agent.as_of();
    assert_eq!(answer.revision, Some(revision(3)));
    let pushed = agent.mirror();
    assert_eq!((pushed.from, pushed.to), (Some(revision(1)), revision(3)));
    assert_eq!(pushed.items.len(), 2);
    world.set(1, "a", 4, None);
    ask(&mut agent);
    assert_eq!(agent.as_of().revision, Some(revision(4)));
    assert_eq!(agent.mirror().items["a"], None, "a withdrawal");
}

#[test]
fn who_asks_more_often_than_it_should_learns_no_more() {
    let world = world(Upkeep::Poll, 1);
    let (mut agent, every) = asking(&world);
    let begun = Instant::now();
    for n in 2..4 {
        world.set(1, "a", n, Some(&n.to_string()));
        ask(&mut agent);
        assert_eq!(agent.as_of().revision, Some(revision(n)));
        agent.mirror();
    }
    // The first answer had come a moment before.
    let elapsed = begun.elapsed() + Duration::from_millis(200);
    assert!(elapsed >= every * 2, "{elapsed:?}");
}

#[test]
fn a_kept_question_is_answered_when_the_host_falls_behind_and_when_it_is_in_step_again() {
    let world = world(Upkeep::LongPoll, 60);
    let (mut agent, _) = asking(&world);
    world.handle().feed_clock().lost();
    assert_eq!(agent.as_of().fresh_for_ms, 0);
    world.handle().feed_clock().heard(now());
    assert!(agent.as_of().fresh_for_ms > 0);
}

#[test]
fn a_question_is_kept_until_there_is_something_or_the_time_is_over() {
    let world = world(Upkeep::LongPoll, 1);
    let (mut agent, every) = asking(&world);
    assert_eq!(every, Duration::ZERO);
    // Nothing changes.
    assert_eq!(agent.as_of().revision, Some(revision(1)));
    for n in 2..6 {
        world.set(1, "a", n, Some(&n.to_string()));
        while agent.as_of().revision != Some(revision(n)) {}
        assert_eq!(agent.mirror().to, revision(n));
    }
}

#[test]
fn a_question_that_is_kept_for_an_hour_is_answered_by_a_change_at_once() {
    let world = world(Upkeep::LongPoll, 3_600);
    let (mut agent, _) = asking(&world);
    for n in 2..6 {
        world.set(1, "a", n, Some(&n.to_string()));
        let answer = agent.as_of();
        assert_eq!(answer.revision, Some(revision(n)));
        assert!(answer.fresh_for_ms >= 2_700_000, "{answer:?}");
        assert_eq!(agent.mirror().to, revision(n));
    }
}

#[test]
fn a_mirror_that_differs_is_replaced_by_the_next_answer() {
    let link = LinkConfig {
        sync: Upkeep::Poll,
        poll_seconds: 3_600,
        sync_seconds: 1,
        ..LinkConfig::default()
    };
    let world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "x")]);
    let (mut agent, _) = asking(&world);
    let said = agent.next();
    assert!(matches!(said, GuestEvent::Digest(_)), "{said:?}");
    let differs = Differs { revision: None };
    agent.core.differs(&differs, now());
    // Nor does it come before it is asked for.
    assert_eq!(&agent.get("a").unwrap().value[..], b"x");
}

#[test]
fn a_second_question_before_the_first_is_answered_ends_the_connection() {
    let world = world(Upkeep::LongPoll, 3_600);
    let (mut agent, _) = asking(&world);
    ask(&mut agent);
    assert_eq!(agent.try_next(), None);
    assert_eq!(world.status(1).requests.faults, 1);
}

#[test]
fn a_question_where_everything_is_pushed_ends_the_connection() {
    let world = World::new();
    world.add(1, &[("a", "x")]);
    let mut agent = world.guest(1);
    ask(&mut agent);
    assert_eq!(agent.try_next(), None);
}

#[test]
fn an_older_agent_that_cannot_ask_is_pushed_to() {
    for missing in [Kind::Pull, Kind::Poll, Kind::AsOf] {
        let world = world(Upkeep::Poll, 3_600);
        let mut agent = Agent::dial(&world.socket(1));
        let known = Kind::ALL.iter().filter(|kind| **kind != missing);
        agent.hello.kinds = KindSet::of(&known.copied().collect::<Vec<_>>());
        agent.ready();
        agent.mirror();
        assert_eq!(agent.standing(1).freshness, Freshness::Fresh);
        world.set(1, "a", 2, Some("y"));
        assert_eq!(agent.mirror().to, revision(2));
    }
}

#[test]
fn a_host_that_polls_says_of_when_mirrors_are() {
    let world = World::new();
    let clock = world.handle().feed_clock();
    clock.polls(10_000);
    world.add(1, &[("a", "x")]);
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    let first = agent.as_of();
    assert_eq!(first.revision, Some(revision(1)));
    assert!((10_000..=16_000).contains(&first.fresh_for_ms), "{first:?}");
    assert_eq!(agent.mirror().to, revision(1));
    clock.lost();
    assert_eq!(agent.standing(1).freshness, Freshness::Stale, "a poll failed");
    clock.heard(now());
    assert!(agent.as_of().fresh_for_ms > 10_000);
}

#[test]
fn an_older_agent_of_a_host_that_polls_is_told_the_age_of_its_mirror() {
    let world = World::new();
    let clock = world.handle().feed_clock();
    clock.polls(2);
    world.add(1, &[("a", "x")]);
    let mut agent = Agent::dial(&world.socket(1));
    let known = Kind::ALL.iter().filter(|kind| **kind != Kind::AsOf);
    agent.hello.kinds = KindSet::of(&known.copied().collect::<Vec<_>>());
    // The last two times that the host heard; it may tell of either.
    let mut heard = [Instant::now(); 2];
    clock.heard(now());
    agent.ready();
    agent.mirror();
    for n in 1..4 {
        let standing = agent.standing(n);
        assert_eq!(
            (standing.freshness, standing.revision),
            (Freshness::Stale, Some(revision(1)))
        );
        let most = heard[0].elapsed() + Duration::from_millis(1);
        assert!(u128::from(standing.age_ms) <= most.as_millis(), "{standing:?}");
        // The answer to a request shows the same host to be in step.
        assert_eq!(agent.get("a").unwrap().freshness, Freshness::Fresh);
        heard = [heard[1], Instant::now()];
        clock.heard(now());
    }
}
