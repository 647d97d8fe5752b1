//! Secret entries: marked for the guests that know what that means, and kept from the others.

use moorline_shared::PathPrefix;
use moorline_shared::api::feed::{FeedEntry, FeedItem, ViewId};
use moorline_shared::link::body::{Code, List, Secrets};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, KindSet, StreamId};

use super::{Agent, World, entry, id, path, revision};

/// A change of an entry of instance 1.
fn change(n: u64, at: &str, value: &str, secret: bool) -> FeedItem {
    let entry = FeedEntry {
        secret,
        ..entry(n, value)
    };
    FeedItem::Entry {
        view: ViewId::own(id(1)),
        path: path(at),
        entry: Some(entry),
    }
}

fn world() -> World {
    let world = World::new();
    world.add(1, &[("a", "plain"), ("c", "plain")]);
    world.apply(2, vec![change(2, "b", "hunter2", true)]);
    world
}

/// A guest of a build that doesn't know of secret entries.
fn old_guest(world: &World) -> Agent {
    let mut agent = Agent::dial(&world.socket(1));
    let kinds: Vec<_> = Kind::ALL
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Secrets)
        .collect();
    agent.hello.kinds = KindSet::of(&kinds);
    agent.ready();
    agent
}

/// The next batch of the mirror: its paths, which of them are secret, and the batch's revision.
fn batch(agent: &mut Agent) -> Vec<(String, bool)> {
    match agent.next() {
        GuestEvent::Batch {
            stream,
            to,
            items,
            secrets,
            ..
        } => {
            agent.applied(stream, to);
            let items = items.iter().enumerate();
            items
                .map(|(place, item)| (item.path.to_string(), secrets.has(place)))
                .collect()
        }
        other => panic!("{other:?} came instead of a batch"),
    }
}

fn marks(secrets: &[(&str, bool)]) -> Vec<(String, bool)> {
    secrets
        .iter()
        .map(|(path, secret)| ((*path).to_owned(), *secret))
        .collect()
}

fn all() -> List {
    List {
        instance: None,
        prefix: PathPrefix::ALL,
        after: None,
    }
}

#[test]
fn a_secret_is_never_there_without_its_mark() {
    let world = world();
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    let first = batch(&mut agent);
    assert_eq!(first, marks(&[("a", false), ("b", true), ("c", false)]));
    let stream = agent.ask_get(None, "b");
    let found = agent.next();
    let GuestEvent::Found(on, found, secrets) = found else {
        panic!("{found:?} is no entry");
    };
    assert_eq!(
        (on, &found.value[..], secrets),
        (stream, &b"hunter2"[..], [0].into_iter().collect())
    );
    agent.ask_get(None, "a");
    assert!(matches!(agent.next(), GuestEvent::Found(_, _, secrets) if secrets == Secrets::default()));
    agent.ask_list(&all());
    let GuestEvent::Listing(_, listing, secrets) = agent.next() else {
        panic!("no listing came");
    };
    let named: Vec<_> = listing
        .entries
        .iter()
        .map(|listed| listed.path.to_string())
        .collect();
    assert_eq!(named, ["a", "b", "c"]);
    assert_eq!(secrets, [1].into_iter().collect());
    let watch = agent.watch(None, "b");
    let watched = agent.next();
    let GuestEvent::Batch { stream, secrets, .. } = watched else {
        panic!("{watched:?} is no batch");
    };
    assert_eq!((stream, secrets.has(0)), (watch, true));
}

#[test]
fn a_mark_comes_and_goes_with_the_entry() {
    let world = world();
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    batch(&mut agent);
    world.apply(3, vec![change(3, "a", "now secret", true)]);
    assert_eq!(batch(&mut agent), marks(&[("a", true)]));
    world.apply(4, vec![change(4, "a", "open again", false)]);
    assert_eq!(batch(&mut agent), marks(&[("a", false)]));
    assert_eq!(agent.get("a").unwrap().value[..], b"open again"[..]);
}

#[test]
fn a_guest_that_knows_no_marks_is_given_no_secret() {
    let world = world();
    let mut agent = old_guest(&world);
    assert_eq!(batch(&mut agent), marks(&[("a", false), ("c", false)]));
    assert_eq!(agent.get("b").unwrap_err().code, Code::NotFound as u16);
    let named: Vec<_> = agent
        .list(&all())
        .entries
        .into_iter()
        .map(|listed| listed.path)
        .collect();
    assert_eq!(named, [path("a"), path("c")]);
    world.apply(3, vec![change(3, "a", "now secret", true)]);
    let pushed = agent.batch(StreamId::SESSION);
    assert_eq!(
        (pushed.to, &pushed.items["a"]),
        (revision(3), &None),
        "it is gone for this guest"
    );
}
