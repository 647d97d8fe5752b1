//! Other instances' data: from a view while it is here and fresh, otherwise by the control plane.

use std::time::{Duration, Instant};

use moorline_shared::PathPrefix;
use moorline_shared::api::data::Entry;
use moorline_shared::api::feed::{FeedItem, ViewId};
use moorline_shared::link::StreamId;
use moorline_shared::link::body::{Code, Freshness, List, Listed, Refused, Relay, Watch};
use moorline_shared::link::session::GuestEvent;

use super::{Agent, World, id, path, relay, remote, revision, view};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::{Answer, Ask, MissKey, Page, PageEntry, Question, Refusal, Reply};

fn watch_of(instance: u8) -> Watch {
    Watch {
        instance: Some(id(instance)),
        prefix: PathPrefix::ALL,
    }
}

fn entry_asked(world: &mut World) -> (usize, MissKey) {
    match world.asked() {
        Ask {
            shard,
            question: Question::Entry(key),
            ..
        } => (shard, key),
        other => panic!("{other:?} was asked instead of an entry"),
    }
}

fn interest_asked(world: &mut World) -> (Vec<ViewId>, Vec<ViewId>) {
    match world.asked().question {
        Question::Interest { add, remove } => (add, remove),
        other => panic!("{other:?} was asked instead of an interest"),
    }
}

fn foreign(reader: u8, instance: u8) -> ViewId {
    ViewId {
        reader: id(reader),
        instance: id(instance),
    }
}

fn give(world: &World, shard: usize, key: MissKey, entry: Entry) {
    world
        .handle()
        .answer(shard, id(1), Answer::Entry(key, Ok(Box::new(entry))));
}

fn refused(agent: &mut Agent) -> Refused {
    match agent.next() {
        GuestEvent::Refused(_, refused) => refused,
        other => panic!("{other:?} came instead of a refusal"),
    }
}

/// Two instances, and the first has read an entry of the second.
fn acquainted(world: &mut World) -> Agent {
    world.add(1, &[("a", "0")]);
    world.add(2, &[("shared", "0"), ("secret", "0")]);
    let mut agent = world.guest(1);
    let stream = agent.ask_get(Some(id(2)), "shared");
    let (shard, key) = entry_asked(world);
    give(world, shard, key, remote("shared", 5, "0"));
    assert_eq!(&agent.answer(stream).unwrap().value[..], b"0");
    assert_eq!(interest_asked(world), (vec![foreign(1, 2)], vec![]));
    agent
}

#[test]
fn a_view_that_lags_behind_what_the_reader_was_told_is_not_shown() {
    let mut world = World::new();
    let mut agent = acquainted(&mut world);
    world.apply(4, vec![view(1, 2, 4, &[])]);
    // The reader knows of a change at 5, so the view at 4, which has nothing, is the past.
    let list = List {
        instance: Some(id(2)),
        prefix: PathPrefix::ALL,
        after: None,
    };
    agent.ask_list(&list);
    assert!(matches!(world.asked().question, Question::Page { .. }));
    world.apply(5, vec![view(1, 2, 5, &[("shared", "0")])]);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(&agent.answer(stream).unwrap().value[..], b"0");
}

#[test]
fn the_control_plane_decides_and_then_the_feed_keeps_the_view() {
    let mut world = World::new();
    let mut agent = acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(&agent.answer(stream).unwrap().value[..], b"here");
    // The right is withdrawn: the entry leaves the view, and what is not there is asked for.
    let gone = FeedItem::Entry {
        view: foreign(1, 2),
        path: path("shared"),
        entry: None,
    };
    world.apply(7, vec![gone]);
    let stream = agent.ask_get(Some(id(2)), "shared");
    let (shard, key) = entry_asked(&mut world);
    let denied = Refusal::new(Code::Denied, "not allowed");
    world
        .handle()
        .answer(shard, id(1), Answer::Entry(key, Err(denied)));
    assert_eq!(agent.answer(stream).unwrap_err().code, Code::Denied as u16);
}

#[test]
fn what_was_refused_is_not_shown_as_it_was_before_that() {
    let mut world = World::new();
    let mut agent = acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    let stream = agent.ask_get(Some(id(2)), "late");
    let (shard, key) = entry_asked(&mut world);
    // The feed brings the entry as it was at 7. It was gone at 8, and that is what the control plane says.
    let late = |to| vec![view(1, 2, to, &[("late", "here"), ("shared", "here")])];
    world.apply(7, late(7));
    let no = Refusal::new(Code::NotFound, "no such entry").as_of(Some(revision(8)));
    world.handle().answer(shard, id(1), Answer::Entry(key, Err(no)));
    assert_eq!(agent.answer(stream).unwrap_err().code, Code::NotFound as u16);
    let stream = agent.ask_get(Some(id(2)), "late");
    assert_eq!(agent.answer(stream).unwrap_err().code, Code::NotFound as u16);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(
        &agent.answer(stream).unwrap().value[..],
        b"here",
        "the others are shown"
    );
    // It is made anew.
    world.apply(9, late(9));
    let stream = agent.ask_get(Some(id(2)), "late");
    assert_eq!(&agent.answer(stream).unwrap().value[..], b"here");
}

#[test]
fn a_guest_sees_nothing_of_a_view_that_another_guest_has() {
    let mut world = World::new();
    acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    world.add(3, &[("a", "0")]);
    let mut other = world.guest(3);
    other.ask_get(Some(id(2)), "shared");
    let (_, key) = entry_asked(&mut world);
    assert_eq!((key.reader, key.instance), (id(3), id(2)));
}

#[test]
fn many_ask_once_and_a_no_is_not_asked_for_again() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    for _ in 0..3 {
        agent.ask_get(Some(id(2)), "missing");
    }
    let (shard, key) = entry_asked(&mut world);
    // Another question proves that nothing else was asked before it.
    agent.ask_get(Some(id(2)), "other");
    assert_eq!(entry_asked(&mut world).1.path, path("other"));
    let no = Refusal::new(Code::NotFound, "no such entry");
    world.handle().answer(shard, id(1), Answer::Entry(key, Err(no)));
    for _ in 0..3 {
        assert_eq!(refused(&mut agent).code, Code::NotFound as u16);
    }
    agent.ask_get(Some(id(2)), "missing");
    assert_eq!(refused(&mut agent).code, Code::NotFound as u16);
}

#[test]
fn an_answer_that_comes_after_its_question_was_cancelled_goes_nowhere() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let first = agent.ask_get(Some(id(2)), "one");
    let (shard, key) = entry_asked(&mut world);
    agent.core.cancel(first, crate::link::now());
    agent.flush();
    // The stream's number is used again for another question, which the late answer must not reach.
    assert!(agent.get("a").is_ok());
    let second = agent.ask_get(Some(id(2)), "two");
    let (_, second_key) = entry_asked(&mut world);
    give(&world, shard, key, remote("one", 5, "one"));
    give(&world, shard, second_key, remote("two", 5, "two"));
    assert_eq!(&agent.answer(second).unwrap().value[..], b"two");
}

#[test]
fn a_guest_asks_within_its_budget() {
    let link = LinkConfig {
        upstream_per_second: 2,
        ..LinkConfig::default()
    };
    let mut world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    for n in 0..3 {
        agent.ask_get(Some(id(2)), &format!("p/{n}"));
    }
    assert!(matches!(agent.next(), GuestEvent::Busy(..)));
    entry_asked(&mut world);
    entry_asked(&mut world);
    assert!(world.asks.try_recv().is_err());
}

#[test]
fn reads_and_relays_have_a_budget_each() {
    let link = LinkConfig {
        upstream_per_second: 1,
        relays_per_second: 1,
        ..LinkConfig::default()
    };
    let mut world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let relay = relay("GET", "");
    agent.relay(relay.clone());
    assert!(matches!(world.asked().question, Question::Relay { .. }));
    agent.relay(relay);
    assert!(matches!(agent.next(), GuestEvent::Busy(..)));
    agent.ask_get(Some(id(2)), "p/1");
    entry_asked(&mut world);
    agent.ask_get(Some(id(2)), "p/2");
    assert!(matches!(agent.next(), GuestEvent::Busy(..)));
    assert!(world.asks.try_recv().is_err());
}

#[test]
fn a_listing_is_asked_for_until_the_view_is_here() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let mut list = List {
        instance: Some(id(2)),
        prefix: PathPrefix::ALL,
        after: Some(path("b")),
    };
    agent.ask_list(&list);
    let Ask {
        shard,
        question: Question::Page { asker, .. },
        ..
    } = world.asked()
    else {
        panic!("no page was asked for")
    };
    let listed = |at: &str| Listed {
        path: path(at),
        revision: revision(5),
        content_type: "text/plain".into(),
        length: 1,
    };
    let page = Page {
        revision: revision(5),
        entries: ["a", "b", "c"]
            .map(|at| PageEntry {
                listed: listed(at),
                secret: at == "c",
            })
            .into(),
    };
    world.handle().answer(shard, id(1), Answer::Page(asker, Ok(page)));
    let GuestEvent::Listing(_, listing, secrets) = agent.next() else {
        panic!("no listing came")
    };
    assert_eq!(listing.entries, [listed("c")]);
    assert!(secrets.has(0));
    assert_eq!(interest_asked(&mut world).0, [foreign(1, 2)]);
    world.apply(6, vec![view(1, 2, 6, &[("d", "0")])]);
    list.after = None;
    assert_eq!(agent.list(&list).entries.len(), 1);
}

fn begin_watch(world: &mut World, agent: &mut Agent, instance: u8) -> StreamId {
    let stream = agent.watch(Some(id(instance)), "");
    let Ask {
        shard,
        question: Question::Page { asker, .. },
        ..
    } = world.asked()
    else {
        panic!("no page was asked for")
    };
    let page = Page {
        revision: revision(5),
        entries: vec![],
    };
    world.handle().answer(shard, id(1), Answer::Page(asker, Ok(page)));
    stream
}

#[test]
fn a_watch_of_another_instance_brings_what_the_feed_does() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let stream = begin_watch(&mut world, &mut agent, 2);
    assert_eq!(interest_asked(&mut world).0, [foreign(1, 2)]);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "1")])]);
    let first = agent.batch(stream);
    assert_eq!((first.from, first.to), (None, revision(6)));
    agent.applied(stream, first.to);
    let withdrawn = FeedItem::Entry {
        view: foreign(1, 2),
        path: path("shared"),
        entry: None,
    };
    world.apply(7, vec![withdrawn]);
    assert_eq!(agent.batch(stream).items["shared"], None);
}

#[test]
fn a_watch_that_is_refused_ends() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let stream = agent.watch(Some(id(2)), "");
    let Ask {
        shard,
        question: Question::Page { asker, .. },
        ..
    } = world.asked()
    else {
        panic!("no page was asked for")
    };
    let no = Refusal::new(Code::NotFound, "no such instance");
    world.handle().answer(shard, id(1), Answer::Page(asker, Err(no)));
    assert!(matches!(agent.next(), GuestEvent::Refused(at, _) if at == stream));
    assert!(agent.get("a").is_ok());
}

#[test]
fn watched_views_stay_and_others_make_room() {
    let cache = CacheConfig {
        foreign_views: 2,
        ..CacheConfig::default()
    };
    let mut world = World::with(&LinkConfig::default(), &cache);
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    begin_watch(&mut world, &mut agent, 2);
    assert_eq!(interest_asked(&mut world).0, [foreign(1, 2)]);
    for (instance, removed) in [(3, vec![]), (4, vec![foreign(1, 3)])] {
        let stream = agent.ask_get(Some(id(instance)), "x");
        let (shard, key) = entry_asked(&mut world);
        give(&world, shard, key, remote("x", 5, "x"));
        agent.answer(stream).unwrap();
        assert_eq!(interest_asked(&mut world), (vec![foreign(1, instance)], removed));
    }
    assert_eq!(world.status(1).foreign_views, 2);
}

#[test]
fn without_the_control_plane_others_data_are_served_for_a_while_only() {
    let cache = CacheConfig {
        foreign_stale_after_seconds: 0,
        ..CacheConfig::default()
    };
    let mut world = World::with(&LinkConfig::default(), &cache);
    let mut agent = acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(agent.answer(stream).unwrap().freshness, Freshness::Fresh);
    world
        .handle()
        .feed_clock()
        .heard(moorline_shared::link::Moment(1));
    world.handle().feed_clock().lost();
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(agent.answer(stream).unwrap_err().code, Code::Unavailable as u16);
    assert_eq!(agent.get("a").unwrap().freshness, Freshness::Stale);
}

#[test]
fn a_view_that_lost_changes_is_as_old_as_the_loss() {
    let mut world = World::new();
    let mut agent = acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    for lost in [ViewId::own(id(1)), foreign(1, 2)] {
        world.handle().lose(lost, revision(7));
    }
    // The shard has heard of it once it answers.
    world.status(1);
    assert_eq!(agent.get("a").unwrap().freshness, Freshness::Stale);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(agent.answer(stream).unwrap().freshness, Freshness::Stale);
    agent.ask_list(&List {
        instance: Some(id(2)),
        prefix: PathPrefix::ALL,
        after: None,
    });
    let GuestEvent::Listing(_, listing, _) = agent.next() else {
        panic!("no listing came")
    };
    assert_eq!(listing.freshness, Freshness::Stale);
    world.apply(8, vec![view(1, 2, 8, &[("shared", "anew")])]);
    let stream = agent.ask_get(Some(id(2)), "shared");
    assert_eq!(agent.answer(stream).unwrap().freshness, Freshness::Fresh);
}

#[test]
fn others_data_that_lost_changes_are_served_for_a_while_only() {
    let cache = CacheConfig {
        foreign_stale_after_seconds: 0,
        ..CacheConfig::default()
    };
    let mut world = World::with(&LinkConfig::default(), &cache);
    let mut agent = acquainted(&mut world);
    world.apply(6, vec![view(1, 2, 6, &[("shared", "here")])]);
    world.handle().lose(foreign(1, 2), revision(7));
    world.status(1);
    let begun = Instant::now();
    let refused = loop {
        let stream = agent.ask_get(Some(id(2)), "shared");
        match agent.answer(stream) {
            Err(refused) => break refused,
            Ok(found) => assert_eq!(found.freshness, Freshness::Stale),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it is served for ever");
    };
    assert_eq!(refused.code, Code::Unavailable as u16);
    agent.core.watch(&watch_of(2), crate::link::now()).unwrap();
    agent.flush();
    assert!(matches!(agent.next(), GuestEvent::Refused(..)));
}

#[test]
fn what_must_be_younger_than_it_is_here_is_asked_for() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    world
        .handle()
        .feed_clock()
        .heard(moorline_shared::link::Moment(1));
    let get = moorline_shared::link::body::Get {
        instance: None,
        path: "a".into(),
        max_age_ms: Some(10),
    };
    let stream = agent.core.get(&get, crate::link::now()).unwrap();
    agent.flush();
    let (shard, key) = entry_asked(&mut world);
    assert_eq!((key.reader, key.instance), (id(1), id(1)));
    give(&world, shard, key, remote("a", 5, "now"));
    assert_eq!(&agent.answer(stream).unwrap().value[..], b"now");
    assert!(world.asks.try_recv().is_err(), "its own view needs no interest");
}

#[test]
fn a_relayed_request_and_its_answer_pass_as_they_are() {
    let mut world = World::new();
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let body = "x".repeat(100_000);
    let relay = Relay {
        headers: vec![("if-match".into(), "\"1.2\"".into())],
        ..relay("PUT", &body)
    };
    agent.relay(relay.clone());
    let Ask {
        shard,
        reader,
        question: Question::Relay { relay: asked, asker },
    } = world.asked()
    else {
        panic!("nothing was relayed")
    };
    assert_eq!(reader, id(1));
    assert_eq!(
        (&asked.method, &asked.target, &asked.headers),
        (&relay.method, &relay.target, &relay.headers)
    );
    assert_eq!(asked.body, relay.body);
    let reply = Reply {
        status: 412,
        headers: vec![("etag".into(), "\"1.3\"".into())],
        body: body.clone().into(),
    };
    world
        .handle()
        .answer(shard, id(1), Answer::Relayed(asker, Ok(reply)));
    let GuestEvent::Relayed(_, relayed) = agent.next() else {
        panic!("no answer came")
    };
    assert_eq!(
        (relayed.status, relayed.headers.len(), relayed.body.len()),
        (412, 1, body.len())
    );
}

#[test]
fn a_view_of_another_instance_that_is_too_large_is_asked_for_piece_by_piece() {
    let cache = CacheConfig {
        foreign_bytes: 1_000,
        ..CacheConfig::default()
    };
    let mut world = World::with(&LinkConfig::default(), &cache);
    let mut agent = acquainted(&mut world);
    let large = "x".repeat(2_000);
    world.apply(6, vec![view(1, 2, 6, &[("shared", &large)])]);
    agent.ask_get(Some(id(2)), "shared");
    assert_eq!(entry_asked(&mut world).1.path, path("shared"));
}
