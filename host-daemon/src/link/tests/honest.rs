//! What an honest guest gets.

use moorline_shared::api::feed::{FeedItem, ViewId};
use moorline_shared::link::body::{Code, Freshness, List};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, KindSet, StreamId};
use moorline_shared::{PathPrefix, Timestamp};

use super::{Agent, World, entry, id, path, revision, view};
use crate::cache::Now;
use crate::config::{CacheConfig, LinkConfig};

fn all() -> List {
    List {
        instance: None,
        prefix: PathPrefix::ALL,
        after: None,
    }
}

#[test]
fn a_guest_is_greeted_mirrored_answered_and_told_of_changes() {
    let world = World::new();
    world.add(1, &[("name", "one"), ("net/mac", "02:00")]);
    let mut agent = Agent::dial(&world.socket(1));
    let ack = agent.ready();
    assert_eq!(
        (ack.instance, ack.incarnation, &*ack.authority),
        (id(1), 1, "test")
    );
    let snapshot = agent.mirror();
    assert_eq!((snapshot.from, snapshot.to), (None, revision(1)));
    assert_eq!(snapshot.items["name"].as_deref(), Some("one"));
    assert_eq!(snapshot.items.len(), 2);

    let found = agent.get("net/mac").unwrap();
    assert_eq!(
        (&found.value[..], found.freshness),
        (&b"02:00"[..], Freshness::Fresh)
    );
    assert_eq!(agent.get("net").unwrap_err().code, Code::NotFound as u16);
    assert_eq!(agent.get("net/../x").unwrap_err().code, Code::Invalid as u16);

    world.set(1, "name", 2, Some("two"));
    let change = agent.mirror();
    assert_eq!((change.from, change.to), (Some(revision(1)), revision(2)));
    assert_eq!(change.items["name"].as_deref(), Some("two"));
    world.set(1, "name", 3, None);
    assert_eq!(agent.mirror().items["name"], None);
    assert_eq!(agent.get("name").unwrap_err().code, Code::NotFound as u16);
}

#[test]
fn what_changes_before_applied_comes_in_one_batch() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    let snapshot = agent.batch(StreamId::SESSION);
    for n in 2..10 {
        world.set(1, "a", n, Some(&n.to_string()));
    }
    world.set(1, "b", 10, Some("b"));
    world.set(1, "b", 11, None);
    agent.applied(StreamId::SESSION, snapshot.to);
    let merged = agent.mirror();
    assert_eq!((merged.from, merged.to), (Some(revision(1)), revision(11)));
    assert_eq!(merged.items["a"].as_deref(), Some("9"));
    assert_eq!(merged.items["b"], None);
    // Nothing else is on its way: the next thing that comes is the next change.
    world.set(1, "c", 12, Some("c"));
    assert_eq!(agent.mirror().items.len(), 1);
}

#[test]
fn a_mirror_that_stands_where_the_view_does_is_left_alone() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    for (incarnation, applied, stands) in [(1, 1, true), (0, 1, false), (1, 0, false)] {
        let mut agent = Agent::dial(&world.socket(1));
        agent.hello.incarnation = Some(incarnation);
        agent.hello.applied = Some(revision(applied));
        agent.ready();
        agent.ask_get(None, "a");
        let first = agent.next();
        assert_eq!(matches!(first, GuestEvent::Found(..)), stands, "{first:?}");
    }
}

#[test]
fn the_same_view_brought_anew_changes_only_where_the_mirror_stands() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let FeedItem::View(mut again) = view(1, 1, 1, &[("a", "0")]) else {
        unreachable!()
    };
    again.revision = revision(9);
    world.apply(9, vec![FeedItem::View(again)]);
    let stands = agent.mirror();
    assert_eq!((stands.to, stands.items.len()), (revision(9), 0));
    world.set(1, "b", 10, Some("b"));
    let change = agent.mirror();
    assert_eq!(change.items.keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn large_values_and_many_entries_come_in_pieces() {
    let world = World::new();
    let large = "x".repeat(200_000);
    let paths: Vec<_> = (0..600).map(|n| format!("list/of/entries/{n:04}")).collect();
    let mut entries: Vec<_> = paths.iter().map(|path| (&**path, "v")).collect();
    entries.push(("large", &large));
    world.add(1, &entries);
    let mut agent = world.guest(1);
    assert_eq!(&agent.get("large").unwrap().value[..], large.as_bytes());

    let mut list = List {
        prefix: "list".parse().unwrap(),
        ..all()
    };
    let mut seen = Vec::new();
    loop {
        let page = agent.list(&list);
        seen.extend(page.entries.iter().map(|entry| entry.path.to_string()));
        list.after = page.entries.last().map(|entry| entry.path.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, paths);
}

#[test]
fn a_watch_brings_what_is_there_and_then_what_changes_below_its_prefix() {
    let world = World::new();
    world.add(1, &[("net/mac", "02"), ("name", "one")]);
    let mut agent = world.guest(1);
    let stream = agent.watch(None, "net");
    let first = agent.batch(stream);
    assert_eq!((first.from, first.items.len()), (None, 1));
    agent.applied(stream, first.to);
    world.set(1, "name", 2, Some("two"));
    assert_eq!(agent.mirror().to, revision(2));
    world.set(1, "net/mac", 3, Some("04"));
    agent.mirror();
    let second = agent.batch(stream);
    assert_eq!((second.from, second.to), (Some(revision(1)), revision(3)));
    agent.core.cancel(stream, crate::link::now());
    world.set(1, "net/mac", 4, Some("06"));
    assert_eq!(agent.mirror().to, revision(4));
    assert!(agent.get("net/mac").is_ok());
}

#[test]
fn an_entry_whose_validity_ends_is_not_served_and_is_gone() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let Now { time, .. } = crate::link::clock::now_and_time();
    let mut short = entry(2, "short");
    short.expires_at = Timestamp::from_millis(time.millis() + 700);
    let item = FeedItem::Entry {
        view: ViewId::own(id(1)),
        path: path("short"),
        entry: Some(short),
    };
    world.apply(2, vec![item]);
    assert_eq!(agent.mirror().items["short"].as_deref(), Some("short"));
    assert_eq!(agent.mirror().items["short"], None);
    assert_eq!(agent.get("short").unwrap_err().code, Code::NotFound as u16);
}

#[test]
fn without_the_control_plane_its_own_data_are_served_and_called_stale() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    world.handle().feed_clock().lost();
    assert_eq!(agent.get("a").unwrap().freshness, Freshness::Stale);
    assert_eq!(agent.list(&all()).freshness, Freshness::Stale);
}

#[test]
fn a_view_over_its_quota_is_not_served_until_it_fits() {
    let cache = CacheConfig {
        entries: 2,
        ..CacheConfig::default()
    };
    let world = World::with(&LinkConfig::default(), &cache);
    world.add(1, &[("a", "0"), ("b", "0")]);
    let mut agent = world.guest(1);
    world.set(1, "c", 2, Some("0"));
    assert_eq!(agent.get("a").unwrap_err().code, Code::Unavailable as u16);
    world.apply(3, vec![view(1, 1, 3, &[("a", "3")])]);
    assert_eq!(agent.mirror().items["a"].as_deref(), Some("3"));
    assert!(agent.get("a").is_ok());
}

#[test]
fn the_next_connection_takes_the_place_of_the_first() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut first = world.guest(1);
    let mut second = world.guest(1);
    assert!(matches!(first.next(), GuestEvent::GoAway(_)));
    assert_eq!(first.try_next(), None);
    assert!(second.get("a").is_ok());
}

#[test]
fn another_life_begins_with_nothing_of_the_one_before() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    world.begin(1, 2);
    assert!(matches!(agent.next(), GuestEvent::GoAway(_)));
    assert_eq!(agent.try_next(), None);
    let mut agent = Agent::dial(&world.socket(1));
    agent.hello.incarnation = Some(1);
    agent.hello.applied = Some(revision(1));
    assert_eq!(agent.ready().incarnation, 2);
    assert_eq!(
        agent.mirror().from,
        None,
        "the mirror of another life is filled anew"
    );
    world.end(1, 1);
    assert!(
        agent.get("a").is_ok(),
        "the end of an earlier life changes nothing"
    );
    world.end(1, 2);
    assert!(matches!(agent.next(), GuestEvent::GoAway(_)));
    assert!(!world.socket(1).exists());
}

#[test]
fn a_guest_that_is_there_before_its_data_gets_them_when_they_come() {
    let world = World::new();
    world.begin(1, 1);
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    assert_eq!(agent.get("a").unwrap_err().code, Code::Unavailable as u16);
    world.apply(
        1,
        vec![FeedItem::Instance(super::spec(1)), view(1, 1, 1, &[("a", "0")])],
    );
    assert_eq!(agent.mirror().items["a"].as_deref(), Some("0"));
}

#[test]
fn before_the_control_plane_has_a_name_guests_are_told_to_come_again() {
    let world = World::nameless();
    world.begin(1, 1);
    let mut agent = Agent::dial(&world.socket(1));
    assert!(matches!(agent.next(), GuestEvent::GoAway(_)));
    assert_eq!(agent.try_next(), None);
    world.handle().deployment("test");
    assert_eq!(&*Agent::dial(&world.socket(1)).ready().authority, "test");
}

#[test]
fn another_deployment_takes_nothing_over() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    world.handle().deployment("other");
    assert!(matches!(agent.next(), GuestEvent::GoAway(_)));
    let mut agent = Agent::dial(&world.socket(1));
    assert_eq!(&*agent.ready().authority, "other");
    assert!(agent.get("a").is_err());
}

#[test]
fn nothing_is_kept_of_an_instance_that_left_and_whose_vm_ended() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    world.apply(2, vec![FeedItem::InstanceGone { instance: id(1) }]);
    assert_eq!(world.status(1).incarnation, 1, "its VM is still there");
    world.end(1, 1);
    assert_eq!(world.statuses(), []);
}

#[test]
fn status_tells_who_is_there() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    world.apply(2, vec![FeedItem::Instance(super::spec(2))]);
    let mut agent = world.guest(1);
    agent.get("a").unwrap();
    agent.get("b").unwrap_err();
    let status = world.status(1);
    let conversation = status.conversation.unwrap();
    assert_eq!(
        (&*conversation.build, conversation.applied),
        ("test", Some(revision(1)))
    );
    assert_eq!((status.requests.gets, status.requests.refused), (2, 1));
    assert_eq!(
        (status.incarnation, status.entries, status.revision),
        (1, 1, Some(revision(1)))
    );
    assert_eq!(world.status(2).conversation, None);
}

#[test]
fn the_end_of_the_daemon_tells_guests_when_to_come_again() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    world.drain();
    let GuestEvent::GoAway(told) = agent.next() else {
        panic!("no GOAWAY came")
    };
    assert_eq!(told.reconnect_after_ms, 1_000);
    assert_eq!(agent.try_next(), None);
    assert!(!world.socket(1).exists());
}

#[test]
fn guests_are_told_when_the_control_plane_is_lost_and_when_it_is_back() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let first = agent.standing(1);
    assert_eq!(
        (first.revision, first.freshness),
        (Some(revision(1)), Freshness::Fresh)
    );
    world.handle().feed_clock().lost();
    assert_eq!(agent.standing(2).freshness, Freshness::Stale);
    // One that comes meanwhile hears it at once.
    let mut next = world.guest(1);
    assert_eq!(next.standing(1).freshness, Freshness::Stale);
    world.handle().feed_clock().heard(crate::link::now());
    assert_eq!(next.standing(2).freshness, Freshness::Fresh);
}

#[test]
fn a_guest_whose_data_the_host_lost_track_of_is_told() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    agent.standing(1);
    world.handle().lose(ViewId::own(id(1)), revision(2));
    let lost = agent.standing(2);
    assert_eq!(
        (lost.revision, lost.freshness),
        (Some(revision(1)), Freshness::Stale)
    );
    world.apply(3, vec![view(1, 1, 3, &[("a", "1")])]);
    assert_eq!(agent.standing(3).freshness, Freshness::Fresh);
}

#[test]
fn a_guest_of_the_first_version_is_told_nothing_of_the_host() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = Agent::dial(&world.socket(1));
    let old = Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Standing);
    agent.hello.kinds = KindSet::of(&old.collect::<Vec<_>>());
    agent.ready();
    agent.mirror();
    world.handle().feed_clock().lost();
    let mut new = world.guest(1);
    new.standing(1);
    while agent.try_next().is_some() {}
    assert_eq!(agent.standings, []);
}
