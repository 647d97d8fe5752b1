//! Bounds on what one end may make the other keep, and on how long it may take.

use super::*;

/// Frames of a guest that keeps no bound.
fn asks(streams: impl Iterator<Item = u32>, kind: Kind, body: &[u8]) -> BytesMut {
    let mut wire = BytesMut::new();
    for stream in streams {
        put_with(&mut wire, kind, Last::Yes, StreamId(stream), |out| {
            out.extend_from_slice(body);
        });
    }
    wire
}

#[test]
fn a_guest_that_grants_no_credit_is_answered_a_bounded_number_of_times() {
    let limits = Limits {
        streams: 2,
        requests: 3,
        credit: 1_000,
        ..DEFAULT_LIMITS
    };
    let relay = Relay {
        method: "GET".into(),
        target: "/x".into(),
        headers: vec![],
        length: 0,
        body: Value::default(),
    };
    let mut pair = Pair::open(limits);
    pair.up = asks(
        (1..40).step_by(2),
        Kind::Relay,
        &postcard::to_stdvec(&relay).unwrap(),
    );
    let answer = Bytes::from(vec![0; 5_000]);
    let input = std::mem::take(&mut pair.up);
    let (mut at, mut relays) = (0, 0);
    while at < input.len() {
        let incoming = pair.host.receive(&input[at..], pair.now).unwrap();
        at += incoming.taken;
        if let Some(HostEvent::Relay(stream, _)) = incoming.event {
            relays += 1;
            let relayed = Relayed {
                status: 200,
                headers: vec![],
                length: 5_000,
                body: Value::default(),
            };
            pair.host.relayed(stream, &relayed, answer.clone(), pair.now);
        }
    }
    assert_eq!(relays, 2, "answers wait beyond the bound on streams");

    let mut pair = Pair::open(limits);
    pair.values.insert("v".into(), Bytes::from(vec![1; 100_000]));
    pair.up = asks(
        (1..40).step_by(2),
        Kind::Get,
        &postcard::to_stdvec(&get("v")).unwrap(),
    );
    pair.host_reads();
    assert_eq!(
        pair.host.outbox().answering(),
        5,
        "answers wait beyond the bound on requests"
    );
}

#[test]
fn a_batch_can_be_applied_only_once_it_was_sent() {
    let limits = Limits {
        credit: 1_000,
        ..DEFAULT_LIMITS
    };
    for (length, sent) in [(1_000, true), (1_001, false)] {
        let mut pair = Pair::open(limits);
        let batch = Batch {
            from: None,
            to: Revision::new(1, 2),
            content: vec![0; length].into(),
        };
        pair.host.batch(StreamId::SESSION, batch);
        while !pair.host.outbox().output().is_empty() {
            let count = pair.host.outbox().output().len();
            pair.host.outbox().wrote(count, pair.now);
        }
        let mut wire = BytesMut::new();
        put_with(&mut wire, Kind::Applied, Last::No, StreamId::SESSION, |out| {
            out.extend_from_slice(&[1, 2]);
        });
        let applied = pair.host.receive(&wire, pair.now);
        assert_eq!(applied.is_ok(), sent, "{length} bytes: {applied:?}");
        assert_eq!(pair.host.can_push(StreamId::SESSION), sent);
    }
}

#[test]
fn a_guest_that_has_no_word_for_batches_is_sent_none() {
    let mut host = Host::new(DEFAULT_LIMITS, [0; 16], Moment(0));
    let kinds = KindSet::of(&[Kind::Get, Kind::Found, Kind::Data]);
    host.welcome(&Hello { kinds, ..hello() }, &ack(DEFAULT_LIMITS), Moment(0));
    assert!(!host.can_push(StreamId::SESSION));
}

#[test]
fn more_watches_than_the_bound_are_told_to_come_back() {
    let mut pair = Pair::open(Limits {
        streams: 2,
        ..DEFAULT_LIMITS
    });
    let watch = Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    };
    for _ in 0..2 {
        pair.guest.watch(&watch, pair.now).unwrap();
    }
    assert!(
        pair.guest.watch(&watch, pair.now).is_err(),
        "an honest guest keeps the bound itself"
    );
    pair.settle(usize::MAX);
    let mut wire = BytesMut::new();
    let body = postcard::to_stdvec(&watch).unwrap();
    put_with(&mut wire, Kind::Watch, Last::Yes, StreamId(99), |out| {
        out.extend_from_slice(&body);
    });
    assert_eq!(pair.host.receive(&wire, pair.now).unwrap().event, None);
    assert!(!pair.host.awaits(StreamId(99)));
}

#[test]
fn deferred_requests_are_bounded() {
    let mut host = Host::new(
        Limits {
            requests: 1,
            ..DEFAULT_LIMITS
        },
        [0; 16],
        Moment(0),
    );
    host.welcome(
        &hello(),
        &ack(Limits {
            requests: 1,
            ..DEFAULT_LIMITS
        }),
        Moment(0),
    );
    assert_eq!(host.defer(StreamId(1), Moment(0)), Deferred::Open);
    assert_eq!(host.defer(StreamId(3), Moment(0)), Deferred::TooMany);
}

#[test]
fn the_slow_the_silent_and_the_deaf_are_hung_up_on() {
    let at = |ms: u64| Moment(1 + ms);
    let mut host = Host::new(DEFAULT_LIMITS, [0; 16], at(0));
    assert_eq!(host.tick(at(10_001)), Err(Fault::NoHello));

    let mut pair = Pair::open(DEFAULT_LIMITS);
    assert_eq!(pair.host.receive(&[9, 0], at(0)).unwrap().taken, 0);
    assert_eq!(pair.host.receive(&[9, 0, 0], at(9_000)).unwrap().taken, 0);
    assert_eq!(pair.host.tick(at(10_001)), Err(Fault::Slow));

    let mut pair = Pair::open(DEFAULT_LIMITS);
    assert_eq!(pair.host.tick(at(30_000)), Ok(()));
    assert_eq!(pair.host.tick(at(30_001)), Err(Fault::Silent));

    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.host.go_away("test", 0, at(0));
    pair.host.receive(&ping(), at(30_000)).unwrap();
    assert_eq!(pair.host.tick(at(30_002)), Err(Fault::NotReading));
}

fn ping() -> BytesMut {
    let mut ping = BytesMut::new();
    put_with(&mut ping, Kind::Ping, Last::No, StreamId::SESSION, |out| {
        out.extend_from_slice(&[1]);
    });
    ping
}

/// A host with an answer for a guest that has read what it granted credit for.
fn answering(credit: u32) -> Pair {
    let mut pair = Pair::open(Limits {
        credit,
        ..DEFAULT_LIMITS
    });
    pair.values.insert("v".into(), Bytes::from(vec![1; 100_000]));
    pair.up = asks(
        std::iter::once(1),
        Kind::Get,
        &postcard::to_stdvec(&get("v")).unwrap(),
    );
    pair.host_reads();
    loop {
        let output = pair.host.outbox().output().len();
        pair.host.outbox().wrote(output, pair.now);
        if output == 0 {
            return pair;
        }
    }
}

#[test]
fn a_guest_that_grants_no_credit_is_hung_up_on_although_it_says_that_it_lives() {
    let at = |ms: u64| Moment(1 + ms);
    let mut pair = answering(1_000);
    assert_eq!(pair.host.outbox().answer_bytes(), 100_000 - 8_000 - 1_000);
    assert_eq!(pair.host.tick(at(0)), Ok(()));
    pair.host.receive(&ping(), at(30_000)).unwrap();
    let pong = pair.host.outbox().output().len();
    pair.host.outbox().wrote(pong, at(30_000));
    assert_eq!(pair.host.tick(at(30_000)), Ok(()));
    assert_eq!(pair.host.tick(at(30_001)), Err(Fault::NotReading));
}

#[test]
fn a_guest_that_grants_credit_slowly_lives_on() {
    let at = |ms: u64| Moment(1 + ms);
    let mut pair = answering(1_000);
    for ms in (0..100_000).step_by(1_000) {
        if ms % 25_000 == 0 {
            let credit = asks(std::iter::once(1), Kind::Credit, &[10]);
            pair.host.receive(&credit, at(ms)).unwrap();
            let piece = pair.host.outbox().output().len();
            pair.host.outbox().wrote(piece, at(ms));
        }
        assert_eq!(pair.host.tick(at(ms)), Ok(()), "after {ms} ms");
    }
}

#[test]
fn an_idle_session_beats() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    for beat in 1..20 {
        pair.now = Moment(beat * u64::from(HEARTBEAT_MS) + 1);
        assert_eq!(
            (pair.guest.tick(pair.now), pair.host.tick(pair.now)),
            (Ok(()), Ok(()))
        );
        pair.settle(usize::MAX);
    }
}

#[test]
fn list_answers_come() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let list = List {
        instance: None,
        prefix: PathPrefix::ALL,
        after: None,
    };
    let stream = pair.guest.list(&list, pair.now).unwrap();
    pair.settle(3);
    assert!(matches!(&pair.heard[..], [GuestEvent::Listing(id, ..)] if *id == stream));
}

#[test]
fn the_guests_next_tick_is_never_in_the_past_once_it_ticked() {
    let mut guest = Guest::new(Moment(0));
    let mut wire = BytesMut::new();
    put_with(&mut wire, Kind::Challenge, Last::No, StreamId::SESSION, |out| {
        out.extend_from_slice(&[7; 16]);
    });
    // Challenged late, and answered never: what is due is the end of patience, not a heartbeat.
    guest.receive(&wire, Moment(9_000)).unwrap();
    guest.hello(&hello(), Moment(9_000));
    guest.outbox().output();
    guest.outbox().wrote(0, Moment(9_000));
    for _ in 0..10 {
        let due = guest.next_tick();
        if guest.tick(due) == Err(Fault::NoWelcome) {
            assert_eq!(due, Moment(19_001));
            return;
        }
        assert!(guest.next_tick() > due, "a driver would spin");
    }
    panic!("the guest waited for ever");
}

#[test]
fn a_tick_loses_nothing_of_what_waits() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.values.insert("v".into(), Bytes::from(vec![7; 100_000]));
    for _ in 0..20 {
        pair.guest.get(&get("v"), pair.now).unwrap();
    }
    while pair.step(777) {
        pair.host.tick(pair.now).unwrap();
        pair.guest.tick(pair.now).unwrap();
    }
    assert_eq!(pair.heard.len(), 20);
    let whole =
        |event: &GuestEvent| matches!(event, GuestEvent::Found(_, found, _) if found.value.len() == 100_000);
    assert!(pair.heard.iter().all(whole));
}

#[test]
fn who_asks_and_cancels_is_bounded_too() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let begun = |ask: &mut dyn FnMut(&mut Guest, Moment) -> Result<StreamId, AskError>, pair: &mut Pair| {
        (0..1_000).find(|_| match ask(&mut pair.guest, pair.now) {
            Ok(stream) => {
                pair.guest.cancel(stream, pair.now);
                false
            }
            Err(error) => error == AskError::TooMany,
        })
    };
    let watches = begun(&mut |guest, now| guest.watch(&all(), now), &mut pair);
    assert_eq!(watches, Some(usize::from(DEFAULT_LIMITS.streams)));
    let gets = begun(&mut |guest, now| guest.get(&get("a"), now), &mut pair);
    assert_eq!(gets, Some(usize::from(DEFAULT_LIMITS.requests)));
    // The host ends them all, and there is room again.
    pair.settle(usize::MAX);
    assert!(pair.guest.watch(&all(), pair.now).is_ok() && pair.guest.get(&get("a"), pair.now).is_ok());
}

proptest! {
    #[test]
    fn a_relay_fits_into_frames_whatever_its_head(head in 0usize..20_000, body in 0usize..40_000) {
        let mut pair = Pair::open(DEFAULT_LIMITS);
        let relay = Relay {
            method: "PUT".into(),
            target: "/x".into(),
            headers: vec![("if-match".into(), "x".repeat(head))],
            length: 0,
            body: Value::from(Bytes::from(vec![b'r'; body])),
        };
        let asked = pair.guest.relay(relay.clone(), pair.now);
        if matches!(asked, Err(AskError::TooLong { .. })) {
            prop_assert!(head > MAX_BODY - 100);
            return Ok(());
        }
        pair.settle(1_000);
        prop_assert_eq!(&pair.relayed[0].headers, &relay.headers);
        prop_assert_eq!(pair.relayed[0].body.len(), body);
    }
}

#[test]
fn what_is_sent_after_a_rest_has_not_been_stuck_since() {
    let at = |ms: u64| Moment(1 + ms);
    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.host.batch(StreamId::SESSION, batch(None, 1, 50_000));
    assert!(!pair.host.outbox().output().is_empty());
    assert_eq!(pair.host.tick(at(9_000)), Ok(()));
    let mut ping = BytesMut::new();
    put_with(&mut ping, Kind::Ping, Last::No, StreamId::SESSION, |out| {
        out.extend_from_slice(&[1]);
    });
    pair.host.receive(&ping, at(20_000)).unwrap();
    assert_eq!(pair.host.tick(at(9_000 + DEAD_MS)), Ok(()));
    assert_eq!(pair.host.tick(at(9_001 + DEAD_MS)), Err(Fault::NotReading));
}

#[test]
fn what_was_said_while_a_guest_stood_still_is_no_news() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.host.receive(&ping(), pair.now).unwrap();
    let pong = pair.host.outbox().output().to_vec();
    let late = Moment(pair.now.0 + 30_001);
    assert_eq!(pair.guest.receive(&pong[..3], late), Err(Fault::Silent));
    assert_eq!(pair.guest.receive(&pong, late), Err(Fault::Silent));
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let just = Moment(pair.now.0 + 30_000);
    assert!(pair.guest.receive(&pong, just).is_ok());
}
