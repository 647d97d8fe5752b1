//! Hostile guests: the connection ends, other guests notice nothing, memory stays. Rows of the project's list of what
//! a guest may try are named by their subject.

use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use moorline_shared::link::body::{Code, Get};
use moorline_shared::link::frame::{Last, put_with};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::link::{Kind, StreamId};

use super::{Agent, World, id, link_key, relay, revision};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::{Admission, Answer, Ask, BeginError, Full, Question, Refusal, Reply};

/// Two guests, one of which is honest all the time.
fn world() -> (World, Agent) {
    let link = LinkConfig {
        connect_burst: 1_000,
        ..LinkConfig::default()
    };
    let world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("large", &"x".repeat(200_000)), ("a", "0")]);
    world.add(2, &[("a", "0")]);
    let honest = world.guest(2);
    (world, honest)
}

fn header(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut header = length.to_le_bytes().to_vec();
    header.extend([kind, flags]);
    header.extend(stream.to_le_bytes());
    header
}

/// Reads until the host hangs up; what came.
fn drain(socket: &mut UnixStream) -> usize {
    let (mut total, mut piece) = (0, vec![0; 65_536]);
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return total,
            Ok(count) => total += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return total,
            Err(error) => panic!("the host doesn't hang up: {error}"),
        }
    }
}

fn frame(kind: Kind, stream: u32, body: &impl serde::Serialize) -> BytesMut {
    let mut out = BytesMut::new();
    let body = postcard::to_stdvec(body).unwrap();
    put_with(&mut out, kind, Last::Yes, StreamId(stream), |out| {
        out.extend_from_slice(&body);
    });
    out
}

fn get(path: &str) -> Get<'_> {
    Get {
        instance: None,
        path: path.into(),
        max_age_ms: None,
    }
}

#[test]
fn bytes_that_are_no_frame_end_the_connection_before_and_after_hello() {
    let (world, mut honest) = world();
    let bad = [
        header(0, Kind::Get as u8, 1, 1),
        header(u32::MAX, Kind::Get as u8, 1, 1),
        header(16 * 1024 + 1, Kind::Get as u8, 1, 1),
        header(4, 0xff, 0, 1),
        header(4, Kind::Get as u8, 0x80, 1),
        [header(4, Kind::Get as u8, 1, 1), vec![0xff; 4]].concat(),
        [header(1, Kind::Ping as u8, 0, 0), vec![0xff]].concat(),
        frame(Kind::Get, 2, &get("a")).to_vec(),
        frame(Kind::Found, 1, &get("a")).to_vec(),
    ];
    for (at, bytes) in bad.iter().enumerate() {
        let mut raw = UnixStream::connect(world.socket(1)).unwrap();
        raw.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        raw.write_all(bytes).unwrap();
        assert!(drain(&mut raw) < 100, "case {at} before HELLO");
        let mut agent = world.guest(1);
        agent.socket.write_all(bytes).unwrap();
        drain(&mut agent.socket);
        assert!(honest.get("a").is_ok(), "case {at} disturbed another guest");
    }
    assert_eq!(world.status(1).requests.faults, 2 * bad.len() as u64);
}

#[test]
fn a_piece_of_a_frame_is_all_that_is_kept_of_it() {
    let (world, mut honest) = world();
    let whole = frame(Kind::Get, 1, &get("a"));
    let mut agent = world.guest(1);
    for byte in &whole {
        agent.socket.write_all(&[*byte]).unwrap();
        assert!(honest.get("a").is_ok());
    }
    let mut half = UnixStream::connect(world.socket(1)).unwrap();
    half.write_all(&whole[..4]).unwrap();
    assert!(honest.get("a").is_ok());
    // The answer is to the request that came byte by byte.
    let mut answer = [0; 10];
    agent.socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], Kind::Found as u8);
}

/// Sends requests without reading an answer until the host takes no more; how many bytes it took.
fn flood(agent: &mut Agent, request: impl Fn(u32) -> BytesMut) -> usize {
    let timeout = Some(Duration::from_millis(300));
    agent.socket.set_write_timeout(timeout).unwrap();
    let mut taken = 0;
    for n in 0.. {
        let bytes = request(2 * n + 1);
        let mut left = &bytes[..];
        while !left.is_empty() {
            match agent.socket.write(left) {
                Ok(count) => {
                    taken += count;
                    left = &left[count..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(error) => panic!("the host hung up: {error}"),
            }
        }
        assert!(taken < 16 * 1024 * 1024, "the host takes requests without end");
    }
    taken
}

#[test]
fn a_guest_that_never_reads_is_not_read_from() {
    type Request = fn(u32) -> BytesMut;
    let floods: [Request; 4] = [
        |stream| frame(Kind::Get, stream, &get("a")),
        |stream| frame(Kind::Get, stream, &get("large")),
        |stream| frame(Kind::Get, stream, &get("no/such/entry")),
        |_| frame(Kind::Ping, 0, &1u64),
    ];
    let (world, mut honest) = world();
    for request in floods {
        let mut agent = world.guest(1);
        flood(&mut agent, request);
        assert!(honest.get("a").is_ok());
        world.set(2, "b", world.status(2).revision.unwrap().n + 1, Some("b"));
        honest.mirror();
    }
}

#[test]
fn what_waited_for_a_slow_reader_comes_whole() {
    let (world, mut honest) = world();
    let mut agent = world.guest(1);
    let request = frame(Kind::Get, 1, &get("a"));
    let taken = flood(&mut agent, |_| request.clone());
    assert!(honest.get("a").is_ok());
    let (mut answers, mut input) = (0, Vec::new());
    let mut piece = vec![0; 65_536];
    while answers < taken / request.len() {
        let count = agent.socket.read(&mut piece).unwrap();
        assert!(count > 0, "the host hung up");
        input.extend_from_slice(&piece[..count]);
        let mut at = 0;
        while let Ok(Some((found, size))) =
            moorline_shared::link::frame::decode(&input[at..], moorline_shared::link::frame::MAX_BODY)
        {
            assert_eq!(found.kind, Kind::Found);
            (at, answers) = (at + size, answers + 1);
        }
        input.drain(..at);
    }
}

#[test]
fn connections_without_hello_are_few_and_the_oldest_goes() {
    let (world, mut honest) = world();
    let mut waiting: Vec<_> = (0..65)
        .map(|_| {
            let mut socket = UnixStream::connect(world.socket(1)).unwrap();
            let mut challenge = [0; 26];
            socket.read_exact(&mut challenge).unwrap();
            socket
        })
        .collect();
    drain(&mut waiting[0]);
    assert!(world.counted(|counts| &counts.crowded) >= 1);
    assert!(honest.get("a").is_ok());
    let mut agent = world.guest(1);
    assert!(agent.get("a").is_ok());
}

#[test]
fn a_guest_that_connects_too_often_waits_and_the_others_do_not() {
    let link = LinkConfig {
        connect_burst: 2,
        connect_interval_ms: 60_000,
        ..LinkConfig::default()
    };
    let world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "0")]);
    world.add(2, &[("a", "0")]);
    let _first = world.guest(1);
    let mut second = world.guest(1);
    assert_eq!(world.counted(|counts| &counts.crowded), 0);
    match Agent::dial(&world.socket(1)).try_next() {
        Some(GuestEvent::GoAway(said)) => assert_eq!(said.reconnect_after_ms, 60_000, "{}", said.reason),
        other => panic!("{other:?} came instead of GOAWAY"),
    }
    assert_eq!(world.counted(|counts| &counts.crowded), 1);
    assert!(second.get("a").is_ok());
    assert!(world.guest(2).get("a").is_ok());
}

#[test]
fn watches_are_bounded() {
    let (world, mut honest) = world();
    let mut agent = world.guest(1);
    let limit = u32::from(LinkConfig::default().streams);
    let watch = moorline_shared::link::body::Watch {
        instance: None,
        prefix: "a".parse().unwrap(),
    };
    for n in 0..limit {
        agent
            .socket
            .write_all(&frame(Kind::Watch, 2 * n + 1, &watch))
            .unwrap();
    }
    agent
        .socket
        .write_all(&frame(Kind::Watch, 2 * limit + 1, &watch))
        .unwrap();
    let mut kinds = Vec::new();
    while !kinds.contains(&(Kind::Busy as u8)) {
        let mut header = [0; 10];
        agent.socket.read_exact(&mut header).unwrap();
        kinds.push(header[4]);
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        agent.socket.read_exact(&mut vec![0; length as usize]).unwrap();
    }
    assert!(honest.get("a").is_ok());
}

#[test]
fn a_guest_that_applies_what_it_was_not_sent_is_hung_up_on() {
    let (world, mut honest) = world();
    let mut agent = world.guest(1);
    agent
        .core
        .applied(StreamId::SESSION, revision(77), crate::link::now());
    assert_eq!(agent.try_next(), None);
    assert!(honest.get("a").is_ok());
    assert_eq!(world.status(1).conversation, None);
}

#[test]
fn a_socket_that_is_used_again_belongs_to_the_next_instance() {
    let (world, _honest) = world();
    let mut old = world.guest(1);
    world.end(1, 1);
    assert!(matches!(old.next(), GuestEvent::GoAway(_)));
    world.begin_at(3, 1, 1);
    let mut next = Agent::dial(&world.socket(1));
    assert_eq!(next.ready().instance, id(3));
    assert!(
        next.get("a").is_err(),
        "the next instance sees nothing of the one before"
    );
}

#[test]
fn row_19_a_vm_that_there_is_no_room_for_does_not_begin() {
    let link = LinkConfig {
        guests: NonZeroUsize::new(2),
        ..LinkConfig::default()
    };
    let world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "0")]);
    world.add(2, &[("a", "0")]);
    let third = |world: &World| world.try_begin(3, 1, 3, Admission::Proof(link_key()));
    let error = third(&world).unwrap_err();
    assert!(
        matches!(error, BeginError::Full(Full(2))) && error.to_string().contains("link.guests"),
        "{error}"
    );
    assert!(!world.socket(3).exists(), "its socket is there");
    world.begin(1, 2);
    assert!(third(&world).is_err(), "another life needs no other room");
    world.end(2, 1);
    third(&world).unwrap();
    assert!(world.guest(1).get("a").is_ok());
}

#[test]
fn watches_that_are_begun_again_and_again_are_sent_a_bounded_amount() {
    let (world, mut honest) = world();
    let mut agent = world.guest(1);
    let begun = Instant::now();
    // 14 MB: so much is not had at once.
    for _ in 0..70 {
        let stream = agent.watch(None, "");
        assert_eq!(agent.batch(stream).items.len(), 2);
        agent.core.cancel(stream, crate::link::now());
        agent.flush();
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert!(honest.get("a").is_ok());
    assert!(agent.get("a").is_ok());
}

#[test]
fn answers_that_nobody_takes_are_few() {
    let (mut world, mut honest) = world();
    let mut agent = world.guest(1);
    let relay = relay("GET", "");
    for _ in 0..5 {
        agent.relay(relay.clone());
        let Ask {
            shard,
            reader,
            question: Question::Relay { asker, .. },
        } = world.asked()
        else {
            panic!("something else was asked")
        };
        let reply = Reply {
            status: 200,
            headers: Vec::new(),
            body: vec![b'x'; 3 << 20].into(),
        };
        world
            .handle()
            .answer(shard, reader, Answer::Relayed(asker, Ok(reply)));
    }
    assert!(honest.get("a").is_ok());
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 5 {
        match agent.next() {
            GuestEvent::Relayed(_, relayed) => {
                assert_eq!(relayed.body.bytes().len(), 3 << 20);
                answered += 1;
            }
            GuestEvent::Refused(_, no) => {
                assert_eq!(no.code, Code::TooMuch as u16, "{}", no.message);
                refused += 1;
            }
            other => panic!("{other:?} came instead of an answer"),
        }
    }
    assert_eq!((answered, refused), (2, 3));
}

#[test]
fn hello_after_hello_and_requests_before_it_end_the_connection() {
    let (world, mut honest) = world();
    let hello = frame(Kind::Hello, 0, &super::agent::hello());
    let mut agent = world.guest(1);
    agent.socket.write_all(&hello).unwrap();
    drain(&mut agent.socket);
    let mut raw = UnixStream::connect(world.socket(1)).unwrap();
    raw.write_all(&frame(Kind::Get, 1, &get("a"))).unwrap();
    drain(&mut raw);
    assert!(honest.get("a").is_ok());
}

#[test]
fn cancelled_requests_take_up_the_guests_share_until_they_are_answered() {
    let link = LinkConfig {
        streams: 4,
        requests: 1,
        relays_per_second: 1_000,
        ..LinkConfig::default()
    };
    let mut world = World::with(&link, &CacheConfig::default());
    world.add(1, &[("a", "0")]);
    let mut agent = world.guest(1);
    let relay = relay("PUT", &"x".repeat(100_000));
    let mut asked = Vec::new();
    for _ in 0..4 {
        let stream = agent.relay(relay.clone());
        asked.push(world.asked());
        agent.core.cancel(stream, crate::link::now());
        // The stream's end has come when the answer to what was asked later has.
        agent.get("a").unwrap();
    }
    let one_more = agent.relay(relay.clone());
    assert!(matches!(agent.next(), GuestEvent::Busy(stream, _) if stream == one_more));
    // That is no reason to keep it from reading.
    agent.ask_get(Some(id(2)), "x");
    assert!(matches!(world.asked().question, Question::Entry(_)));

    let Some(Ask {
        shard,
        reader,
        question: Question::Relay { asker, .. },
    }) = asked.pop()
    else {
        panic!("something else was asked")
    };
    let refused = Err(Refusal::new(Code::Unavailable, "too late"));
    world
        .handle()
        .answer(shard, reader, Answer::Relayed(asker, refused));
    world.statuses();
    agent.relay(relay);
    world.asked();
}
