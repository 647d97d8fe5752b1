//! Who may speak as a guest: its root alone, whatever else in the guest can connect.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moorline_shared::api::feed::FeedItem;
use moorline_shared::link::body::{Code, LinkKey};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, KindSet, StreamId};
use moorline_shared::secret::SecretKey;
use tokio::sync::mpsc;

use super::{Agent, World, id, link_key, spec, view};
use crate::link::{Handover, LifeId};

fn key(n: u8) -> SecretKey {
    SecretKey::from([n; 32])
}

/// A guest whose VMM was given its key, and its agent.
fn keyed() -> (World, Agent) {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    let agent = world.guest(1);
    (world, agent)
}

/// A guest to which the first HELLO of its first life is given this key.
fn keyless(key: SecretKey) -> (World, mpsc::Receiver<Handover>) {
    let world = World::new();
    let recorder = world.begin_keyless(1, 1, key);
    let items = vec![FeedItem::Instance(spec(1)), view(1, 1, 1, &[("a", "0")])];
    world.apply(1, items);
    (world, recorder)
}

/// Waits until the shard asks for a record, and says that it is there.
fn record(world: &World, recorder: &mut mpsc::Receiver<Handover>, key: &SecretKey) {
    let handover = recorder.blocking_recv().expect("the shard goes on");
    let life = LifeId {
        instance: id(1),
        incarnation: 1,
    };
    assert_eq!((handover.life, &handover.key), (life, key));
    world.handle().hand_over(life);
}

/// The guest is told that it isn't believed and to go, and nothing else.
fn assert_denied(agent: &mut Agent, why: &str) {
    assert_eq!(
        agent.try_next(),
        Some(GuestEvent::Ended(StreamId::SESSION, Code::Denied)),
        "{why}"
    );
    match agent.try_next() {
        Some(GuestEvent::GoAway(said)) => assert!(said.reason.contains(why), "{}", said.reason),
        other => panic!("{other:?} came instead of GOAWAY: {why}"),
    }
    assert_eq!(agent.try_next(), None, "{why}");
}

#[test]
fn whoever_has_no_key_gets_nothing_and_takes_nobodys_place() {
    let (world, mut agent) = keyed();
    let faults = world.status(1).requests.faults;
    assert_denied(&mut Agent::dial_with(&world.socket(1), None), "no proof");
    assert_denied(
        &mut Agent::dial_with(&world.socket(1), Some(key(1))),
        "not made with",
    );
    let mut replayed = Agent::dial_with(&world.socket(1), None);
    replayed.hello.proof = agent.hello.proof;
    assert_denied(&mut replayed, "not made with");
    assert_eq!(world.status(1).requests.faults, faults + 3);
    assert!(agent.get("a").is_ok(), "the agent goes on");
}

fn agent_session(world: &World) -> u64 {
    world
        .status(1)
        .conversation
        .expect("the agent is connected")
        .session
}

#[test]
fn a_thousand_who_connect_do_not_disturb_the_agent() {
    let (world, mut agent) = keyed();
    let session = agent_session(&world);
    for n in 0..1_000 {
        let mut other = Agent::dial_with(&world.socket(1), None);
        if n % 100 == 0 {
            assert_denied(&mut other, "no proof");
            assert!(agent.get("a").is_ok());
        }
    }
    assert!(agent.get("a").is_ok());
    assert_eq!(agent_session(&world), session);
    // And it comes in again, beside as many as wait without a word.
    let _idle: Vec<_> = (0..64)
        .map(|_| UnixStream::connect(world.socket(1)).unwrap())
        .collect();
    assert!(world.guest(1).get("a").is_ok());
}

#[test]
fn whoever_connects_and_says_nothing_does_not_keep_the_agent_out() {
    let (world, agent) = keyed();
    drop(agent);
    let (socket, welcome) = (world.socket(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut silent = VecDeque::new();
            while !welcome.load(Ordering::Relaxed) {
                silent.push_back(UnixStream::connect(&socket).unwrap());
                if silent.len() == 256 {
                    silent.pop_front();
                }
            }
        });
        let begun = Instant::now();
        while !matches!(Agent::dial(&socket).try_next(), Some(GuestEvent::Ready(_))) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the agent is kept out");
        }
        welcome.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_first_hello_is_given_the_key_only_when_that_is_recorded() {
    let (world, mut recorder) = keyless(key(1));
    let mut agent = Agent::dial_with(&world.socket(1), None);
    agent.flush();
    let timeout = Some(Duration::from_millis(200));
    agent.socket.set_read_timeout(timeout).unwrap();
    let mut challenge = [0; 26];
    agent.socket.read_exact(&mut challenge).unwrap();
    agent.take(&challenge);
    agent.flush();
    let nothing = agent.socket.read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "it waits for the record");
    assert_denied(&mut Agent::dial_with(&world.socket(1), None), "no proof");

    let timeout = Some(Duration::from_secs(20));
    agent.socket.set_read_timeout(timeout).unwrap();
    record(&world, &mut recorder, &key(1));
    agent.ready();
    let given = LinkKey {
        incarnation: 1,
        key: key(1),
    };
    assert_eq!(agent.next(), GuestEvent::LinkKey(given));
    agent.mirror();
    assert!(agent.get("a").is_ok());

    assert_denied(&mut Agent::dial_with(&world.socket(1), None), "no proof");
    let mut again = Agent::dial_with(&world.socket(1), Some(key(1)));
    assert_eq!(again.ready().incarnation, 1);
    again.mirror();
    assert!(
        matches!(agent.try_next(), Some(GuestEvent::GoAway(_))),
        "its own next connection"
    );
}

#[test]
fn a_key_that_nobody_was_there_to_take_is_given_to_the_next() {
    let (world, mut recorder) = keyless(key(1));
    let mut gone = Agent::dial_with(&world.socket(1), None);
    let mut challenge = [0; 26];
    gone.socket.read_exact(&mut challenge).unwrap();
    gone.take(&challenge);
    gone.flush();
    recorder.blocking_recv().expect("the shard goes on");
    drop(gone);
    std::thread::scope(|scope| {
        scope.spawn(|| record(&world, &mut recorder, &key(1)));
        let mut next = loop {
            let mut next = Agent::dial_with(&world.socket(1), None);
            match next.try_next() {
                Some(GuestEvent::Ready(_)) => break next,
                // The shard has not seen yet that the one before is gone.
                Some(GuestEvent::Ended(..)) => {}
                other => panic!("{other:?} came instead of HELLO_ACK"),
            }
        };
        assert!(matches!(next.next(), GuestEvent::LinkKey(given) if given.key == key(1)));
    });
}

#[test]
fn a_copy_of_another_machine_is_told_to_come_without_its_key() {
    // A cloned disk and a restored snapshot bring the key of another life along.
    let (world, mut recorder) = keyless(key(1));
    let mut copy = Agent::dial_with(&world.socket(1), Some(link_key()));
    copy.hello.incarnation = Some(7);
    copy.hello.applied = Some(super::revision(1));
    assert_denied(&mut copy, "not made with");
    recorder.try_recv().unwrap_err();

    let mut copy = Agent::dial_with(&world.socket(1), None);
    copy.hello.incarnation = Some(7);
    copy.hello.applied = Some(super::revision(1));
    std::thread::scope(|scope| {
        scope.spawn(|| record(&world, &mut recorder, &key(1)));
        assert_eq!(copy.ready().incarnation, 1);
    });
    assert!(matches!(copy.next(), GuestEvent::LinkKey(_)));
    assert_eq!(
        copy.mirror().from,
        None,
        "a snapshot: what it had is another life's"
    );
}

#[test]
fn the_next_life_has_another_key_and_the_one_before_opens_nothing() {
    let (world, mut agent) = keyed();
    let _recorder = world.begin_keyless(1, 2, key(2));
    assert!(matches!(agent.try_next(), Some(GuestEvent::GoAway(_))));
    assert_denied(&mut Agent::dial(&world.socket(1)), "not made with");
}

#[test]
fn an_agent_that_knows_no_link_keys_is_told_to_be_updated() {
    let (world, mut recorder) = keyless(key(1));
    let mut old = Agent::dial_with(&world.socket(1), None);
    old.hello.kinds = KindSet::of(&[Kind::HelloAck, Kind::Begin, Kind::Part, Kind::Commit]);
    assert_denied(&mut old, "update");
    recorder.try_recv().unwrap_err();
}
