//! How old what guests are told may be, and what they are told of that.

use moorline_shared::api::feed::{FeedItem, View, ViewEntry, ViewId};
use moorline_shared::link::body::{Code, Freshness, Get, List};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Moment, StreamId};
use moorline_shared::{PathPrefix, Revision, Timestamp};

use super::{Agent, World, entry, id, path, remote, revision};
use crate::cache::{CachedEntry, Image, Now};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::{Answer, MissKey, Question, Refusal, now};

const ALL: List = List {
    instance: None,
    prefix: PathPrefix::ALL,
    after: None,
};

/// A world in which nothing stale is served.
fn strict() -> World {
    let cache = CacheConfig {
        never_serve_after_seconds: 0,
        ..CacheConfig::default()
    };
    World::with(&LinkConfig::default(), &cache)
}

/// What an earlier daemon left of instance 1 at revision `n`.
fn image(n: u64) -> Image {
    let time = Timestamp::from_millis(0).unwrap();
    let moment = Moment(0);
    Image {
        instance: id(1),
        revision: revision(n),
        known: revision(n),
        behind_since: None,
        entries: vec![(
            path("a"),
            CachedEntry::new(entry(n, "kept"), Now { moment, time }),
        )],
    }
}

fn refusal(agent: &mut Agent) -> (Code, String) {
    match agent.next() {
        GuestEvent::Refused(_, refused) => (Code::from_number(refused.code), refused.message),
        other => panic!("{other:?} came instead of a refusal"),
    }
}

/// Waits until the host has said this of itself.
fn told(agent: &mut Agent, expected: (Freshness, Option<Revision>)) {
    let mut count = agent.standings.len().max(1);
    loop {
        let standing = agent.standing(count);
        if (standing.freshness, standing.revision) == expected {
            return;
        }
        count += 1;
    }
}

fn asked_for_entry(world: &mut World) -> (usize, MissKey) {
    let ask = world.asked();
    match ask.question {
        Question::Entry(key) => (ask.shard, key),
        other => panic!("{other:?} was asked instead of an entry"),
    }
}

#[test]
fn past_its_time_what_is_stale_is_refused_in_get_list_and_watch_and_the_mirror_hears_of_it() {
    let world = strict();
    world.add(1, &[("a", "x")]);
    let mut agent = world.guest(1);
    assert_eq!(&agent.get("a").unwrap().value[..], b"x");
    world.handle().feed_clock().lost();
    told(&mut agent, (Freshness::Stale, None));
    agent.ask_get(None, "a");
    let (code, message) = refusal(&mut agent);
    assert_eq!(code, Code::Unavailable);
    assert!(
        message.contains("has not heard of the control plane"),
        "{message}"
    );
    agent.ask_list(&ALL);
    assert_eq!(refusal(&mut agent).0, Code::Unavailable);
    agent.watch(None, "");
    assert_eq!(refusal(&mut agent).0, Code::Unavailable);
    world.handle().feed_clock().heard(now());
    told(&mut agent, (Freshness::Fresh, Some(revision(1))));
    assert_eq!(&agent.get("a").unwrap().value[..], b"x");
}

#[test]
fn a_guest_that_comes_while_nothing_is_served_has_its_mirror_filled_once_it_is() {
    let world = strict();
    world.handle().feed_clock().lost();
    world.add(1, &[("a", "x")]);
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    told(&mut agent, (Freshness::Stale, None));
    world.handle().feed_clock().heard(now());
    assert_eq!(agent.mirror().items["a"].as_deref(), Some("x"));
}

#[test]
fn what_an_earlier_daemon_left_is_served_with_its_age() {
    let world = World::nameless();
    let handle = world.handle();
    handle.feed_clock().lost();
    handle.feed_clock().restored(now(), 90_000);
    handle.restore(image(5));
    handle.deployment("test");
    world.begin(1, 1);
    let mut agent = world.guest(1);
    let found = agent.get("a").unwrap();
    assert_eq!(
        (&found.value[..], found.freshness),
        (&b"kept"[..], Freshness::Stale)
    );
    assert!((90_000..120_000).contains(&found.age_ms), "{}", found.age_ms);
    let listing = agent.list(&ALL);
    assert_eq!(
        (listing.revision, listing.freshness),
        (revision(5), Freshness::Stale)
    );
    let standing = agent.standing(1);
    assert_eq!(
        (standing.revision, standing.freshness),
        (Some(revision(5)), Freshness::Stale)
    );
    assert!(standing.age_ms >= 90_000);
}

/// The daemon that pushed revision 7 ended before that was on its disk.
#[test]
fn what_a_guest_has_seen_never_goes_back_over_a_restart() {
    let mut world = World::nameless();
    world.handle().feed_clock().lost();
    world.handle().restore(image(5));
    world.handle().deployment("test");
    world.begin(1, 1);
    let mut agent = Agent::dial(&world.socket(1));
    (agent.hello.applied, agent.hello.incarnation) = (Some(revision(7)), Some(1));
    agent.ready();
    told(&mut agent, (Freshness::Stale, None));
    agent.ask_list(&ALL);
    assert_eq!(refusal(&mut agent).0, Code::Unavailable);
    agent.ask_get(None, "a");
    let (shard, key) = asked_for_entry(&mut world);
    let away = Refusal::new(Code::Unavailable, "the control plane is away");
    world.handle().answer(shard, id(1), Answer::Entry(key, Err(away)));
    assert_eq!(refusal(&mut agent).1, "the control plane is away");
    world.set(1, "a", 8, Some("eight"));
    let pushed = agent.batch(StreamId::SESSION);
    assert_eq!(
        (pushed.to, pushed.items["a"].as_deref()),
        (revision(8), Some("eight"))
    );
}

/// What the guest was shown at revision 7 came to nothing by revision 9, where the control plane shows again what the
/// disk has of revision 5.
#[test]
fn a_guest_is_brought_on_from_what_the_disk_never_had() {
    let world = World::nameless();
    world.handle().feed_clock().lost();
    world.handle().restore(image(5));
    world.handle().deployment("test");
    world.begin(1, 1);
    let mut agent = Agent::dial(&world.socket(1));
    (agent.hello.applied, agent.hello.incarnation) = (Some(revision(7)), Some(1));
    agent.ready();
    let kept = ViewEntry {
        path: path("a"),
        entry: entry(5, "kept"),
    };
    let whole = View {
        view: ViewId::own(id(1)),
        revision: revision(9),
        entries: vec![kept],
    };
    let effects = world.apply(9, vec![FeedItem::View(whole)]);
    assert_eq!(effects.changed, [id(1)], "the next daemon has to know it, too");
    world.handle().feed_clock().heard(now());
    let pushed = agent.mirror();
    assert_eq!(
        (pushed.to, pushed.items["a"].as_deref()),
        (revision(9), Some("kept"))
    );
}

#[test]
fn a_reader_that_wants_it_younger_has_the_control_plane_asked_once_and_sees_nothing_older_after_that() {
    let mut world = World::new();
    world.add(1, &[("a", "x")]);
    let mut agent = world.guest(1);
    world.handle().feed_clock().lost();
    world.handle().feed_clock().restored(now(), 10_000);
    let young = Get {
        instance: None,
        path: "a".into(),
        max_age_ms: Some(5_000),
    };
    for _ in 0..3 {
        agent.core.get(&young, now()).unwrap();
    }
    agent.flush();
    let (shard, key) = asked_for_entry(&mut world);
    let present = remote("a", 9, "nine");
    world
        .handle()
        .answer(shard, id(1), Answer::Entry(key, Ok(Box::new(present))));
    for _ in 0..3 {
        match agent.next() {
            GuestEvent::Found(_, found, _) => {
                assert_eq!(
                    (&found.value[..], found.freshness),
                    (&b"nine"[..], Freshness::Fresh)
                );
            }
            other => panic!("{other:?} came instead of an answer"),
        }
    }
    agent.ask_get(None, "a");
    let (shard, key) = asked_for_entry(&mut world);
    let away = Refusal::new(Code::Unavailable, "the control plane is away");
    world.handle().answer(shard, id(1), Answer::Entry(key, Err(away)));
    assert_eq!(refusal(&mut agent).0, Code::Unavailable);
    world.set(1, "a", 9, Some("nine"));
    assert_eq!(agent.mirror().to, revision(9));
    assert_eq!(&agent.get("a").unwrap().value[..], b"nine");
}
