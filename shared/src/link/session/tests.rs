//! Both ends against each other through a wire that cuts bytes wherever it likes, and each against a liar.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{Batch, DEFAULT_LIMITS, Deferred, Fault, Guest, GuestEvent, HEARTBEAT_MS, Host, HostEvent};
use crate::entry::Value;
use crate::id::InstanceId;
use crate::link::body::{
    Code, Found, Freshness, Get, Hello, HelloAck, Item, Limits, List, Listing, Mirrored, Relay, Relayed,
    Watch,
};
use crate::link::frame::{Last, StreamId, put_with};
use crate::link::{Kind, KindSet, Moment};
use crate::path::PathPrefix;
use crate::revision::Revision;

/// A host and a guest, and the bytes between them.
struct Pair {
    host: Host,
    guest: Guest,
    up: BytesMut,
    down: BytesMut,
    now: Moment,
    limits: Limits,
    heard: Vec<GuestEvent>,
    relayed: Vec<Relay>,
    values: BTreeMap<String, Bytes>,
}

impl Pair {
    fn new(limits: Limits) -> Self {
        let now = Moment(1);
        let (host, guest) = (Host::new(limits, [7; 16], now), Guest::new(now));
        let (up, down) = (BytesMut::new(), BytesMut::new());
        let (heard, relayed, values) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self {
            host,
            guest,
            up,
            down,
            now,
            limits,
            heard,
            relayed,
            values,
        }
    }

    fn open(limits: Limits) -> Self {
        let mut pair = Self::new(limits);
        pair.settle(usize::MAX);
        assert!(matches!(pair.heard.remove(0), GuestEvent::Challenge(nonce) if nonce == [7; 16]));
        assert!(matches!(pair.heard.remove(0), GuestEvent::Ready(_)));
        pair
    }

    /// Moves bytes, at most `step` at a time, until nothing moves any more.
    fn settle(&mut self, step: usize) {
        while self.step(step) {}
    }

    fn step(&mut self, step: usize) -> bool {
        let sent = self.guest.outbox().output();
        let up = sent.len().min(step);
        self.up.extend_from_slice(&sent[..up]);
        self.guest.outbox().wrote(up, self.now);
        let sent = self.host.outbox().output();
        let down = sent.len().min(step);
        self.down.extend_from_slice(&sent[..down]);
        self.host.outbox().wrote(down, self.now);
        self.host_reads();
        self.guest_reads();
        up + down > 0
    }

    fn host_reads(&mut self) {
        let input = std::mem::take(&mut self.up);
        let mut at = 0;
        loop {
            let incoming = self
                .host
                .receive(&input[at..], self.now)
                .expect("the guest is honest");
            at += incoming.taken;
            if incoming.taken == 0 {
                break;
            }
            if let Some(event) = incoming.event {
                self.host_acts(event);
            }
        }
        self.up.extend_from_slice(&input[at..]);
    }

    fn host_acts(&mut self, event: HostEvent<'_>) {
        match event {
            HostEvent::Hello(hello) => self.host.welcome(&hello, &ack(self.limits), self.now),
            HostEvent::Get(stream, get) => self.answer_get(stream, &get.path),
            HostEvent::List(stream, _) => {
                let (age_ms, freshness) = (0, Freshness::Fresh);
                let listing = Listing {
                    revision: Revision::ZERO,
                    age_ms,
                    freshness,
                    entries: vec![],
                    more: false,
                };
                self.host.listing(stream, &listing, self.now);
            }
            HostEvent::Relay(stream, relay) => {
                let body = relay.body.bytes().clone();
                self.relayed.push(relay);
                let length = u32::try_from(body.len()).unwrap();
                let relayed = Relayed {
                    status: 200,
                    headers: vec![],
                    length,
                    body: Value::default(),
                };
                self.host.relayed(stream, &relayed, body, self.now);
            }
            HostEvent::Watch(..)
            | HostEvent::Applied(..)
            | HostEvent::Cancelled(..)
            | HostEvent::GoAway(_) => {}
        }
    }

    fn answer_get(&mut self, stream: StreamId, path: &str) {
        let Some(value) = self.values.get(path) else {
            return self
                .host
                .refuse(stream, Code::NotFound, "no such entry", self.now);
        };
        let (first, rest) = (
            value.slice(..value.len().min(8_000)),
            value.slice(value.len().min(8_000)..),
        );
        let found = Found {
            revision: Revision::new(1, 2),
            age_ms: 3,
            freshness: Freshness::Fresh,
            content_type: "text/plain".into(),
            length: u32::try_from(value.len()).unwrap(),
            value: Cow::Borrowed(&first),
        };
        self.host.found(stream, &found, rest, self.now);
    }

    fn guest_reads(&mut self) {
        let input = std::mem::take(&mut self.down);
        let mut at = 0;
        loop {
            let received = self
                .guest
                .receive(&input[at..], self.now)
                .expect("the host is honest");
            at += received.taken;
            if received.taken == 0 {
                break;
            }
            match &received.event {
                Some(GuestEvent::Challenge(_)) => self.guest.hello(&hello(), self.now),
                Some(GuestEvent::Batch { stream, to, .. }) => self.guest.applied(*stream, *to, self.now),
                _ => {}
            }
            self.heard.extend(received.event);
        }
        self.down.extend_from_slice(&input[at..]);
    }
}

fn hello() -> Hello {
    Hello {
        kinds: KindSet::ours(),
        build: "test".into(),
        boot_id: [1; 16],
        vmgenid: None,
        incarnation: None,
        applied: None,
        journal: 0,
        proof: None,
    }
}

fn ack(limits: Limits) -> HelloAck {
    HelloAck {
        kinds: KindSet::ours(),
        session: 1,
        instance: InstanceId::from_bytes([2; 16]),
        incarnation: 1,
        authority: "test".into(),
        limits,
        boottime_ms: 5,
        heartbeat_ms: HEARTBEAT_MS,
    }
}

fn get(path: &str) -> Get<'_> {
    Get {
        instance: None,
        path: path.into(),
        max_age_ms: None,
    }
}

fn batch(from: Option<u64>, to: u64, size: usize) -> Batch {
    let entry = Mirrored {
        revision: Revision::new(1, to),
        content_type: "text/plain".into(),
        valid_for_ms: None,
        value: Value::from(Bytes::from(vec![b'x'; size])),
    };
    let item = Item {
        path: "a/b".parse().unwrap(),
        entry: Some(entry),
    };
    let content = postcard::to_stdvec(&item).unwrap().into();
    Batch {
        from: from.map(|n| Revision::new(1, n)),
        to: Revision::new(1, to),
        content,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_are_whole_however_the_wire_cuts(step in 1usize..5_000, sizes in prop::collection::vec(0usize..200_000, 1..8)) {
        let mut pair = Pair::open(DEFAULT_LIMITS);
        let mut asked = BTreeMap::new();
        for (i, size) in sizes.iter().enumerate() {
            let path = format!("v/{i}");
            pair.values.insert(path.clone(), Bytes::from(vec![u8::try_from(i).unwrap(); *size]));
            asked.insert(pair.guest.get(&get(&path), pair.now).unwrap(), i);
        }
        pair.settle(step);
        prop_assert_eq!(pair.heard.len(), sizes.len());
        for event in pair.heard {
            let GuestEvent::Found(stream, found) = event else { panic!("{event:?}") };
            let i = asked[&stream];
            prop_assert_eq!(found.value.len(), sizes[i]);
            prop_assert!(found.value.iter().all(|b| usize::from(*b) == i));
        }
    }

    #[test]
    fn batches_larger_than_the_credit_arrive_whole(step in 100usize..9_000, size in 0usize..1_000_000, credit in 1u32..100_000) {
        let mut pair = Pair::open(Limits { credit, ..DEFAULT_LIMITS });
        pair.host.batch(StreamId::SESSION, batch(None, 1, size));
        prop_assert!(!pair.host.can_push(StreamId::SESSION));
        pair.settle(step);
        let GuestEvent::Batch { items, to, from, .. } = &pair.heard[0] else { panic!("{:?}", pair.heard) };
        prop_assert_eq!((from, *to), (&None, Revision::new(1, 1)));
        prop_assert_eq!(items[0].entry.as_ref().unwrap().value.len(), size);
        prop_assert!(pair.host.can_push(StreamId::SESSION));
    }

    #[test]
    fn relays_pass_whole_both_ways(size in 0usize..300_000, step in 100usize..20_000) {
        let mut pair = Pair::open(DEFAULT_LIMITS);
        let body = Value::from(Bytes::from(vec![b'r'; size]));
        let relay = Relay { method: "PUT".into(), target: "/x".into(), headers: vec![], length: 0, body };
        pair.guest.relay(relay, pair.now).unwrap();
        pair.settle(step);
        prop_assert_eq!(pair.relayed[0].body.len(), size);
        prop_assert!(matches!(&pair.heard[0], GuestEvent::Relayed(_, r) if r.body.len() == size));
    }

    #[test]
    fn a_liar_ends_its_connection_and_nothing_else(frames in prop::collection::vec(
        (prop::sample::select(Kind::ALL), 0u32..6, prop::collection::vec(any::<u8>(), 1..60), any::<bool>()), 1..40)) {
        let mut wire = BytesMut::new();
        for (kind, stream, body, last) in frames {
            let last = if last { Last::Yes } else { Last::No };
            put_with(&mut wire, kind, last, StreamId(stream), |out| out.extend_from_slice(&body));
        }
        let mut pair = Pair::open(DEFAULT_LIMITS);
        let mut at = 0;
        while let Ok(incoming) = pair.host.receive(&wire[at..], pair.now) {
            at += incoming.taken;
            if incoming.taken == 0 { break; }
        }
        let mut pair = Pair::open(DEFAULT_LIMITS);
        let mut at = 0;
        while let Ok(received) = pair.guest.receive(&wire[at..], pair.now) {
            at += received.taken;
            if received.taken == 0 { break; }
        }
    }
}

#[test]
fn one_batch_is_unacknowledged_at_most() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.host.batch(StreamId::SESSION, batch(None, 1, 10));
    pair.host.batch(StreamId::SESSION, batch(Some(1), 2, 10));
    pair.settle(usize::MAX);
    assert_eq!(
        pair.heard.len(),
        1,
        "the second came before the first was applied"
    );
}

#[test]
fn many_small_batches_never_use_up_the_credit() {
    let mut pair = Pair::open(Limits {
        credit: 10_000,
        ..DEFAULT_LIMITS
    });
    let watch = Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    };
    let watch = pair.guest.watch(&watch, pair.now).unwrap();
    pair.settle(usize::MAX);
    for stream in [StreamId::SESSION, watch] {
        for to in 1..20 {
            pair.host.batch(stream, batch(Some(to - 1), to, 3_000));
            pair.settle(usize::MAX);
            assert!(
                pair.host.can_push(stream),
                "batch {to} on stream {stream} got stuck"
            );
        }
    }
}

#[test]
fn a_watch_is_cancelled_in_the_middle_of_a_batch() {
    let mut pair = Pair::open(Limits {
        credit: 1_000,
        ..DEFAULT_LIMITS
    });
    let watch = Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    };
    let stream = pair.guest.watch(&watch, pair.now).unwrap();
    pair.settle(usize::MAX);
    pair.host.batch(stream, batch(None, 1, 50_000));
    pair.step(2_000);
    pair.guest.cancel(stream, pair.now);
    pair.settle(100);
    assert_eq!(pair.heard, []);
    assert!(!pair.host.awaits(stream));
    assert_eq!(
        pair.guest.watch(&watch, pair.now),
        Ok(stream),
        "the number is free again"
    );
    pair.settle(usize::MAX);
    assert!(pair.host.awaits(stream));
}

fn all() -> Watch {
    Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    }
}

#[test]
fn a_request_is_cancelled_before_it_left() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    let watch = pair.guest.watch(&all(), now).unwrap();
    pair.guest.cancel(watch, now);
    pair.settle(usize::MAX);
    assert!(
        !pair.host.awaits(watch),
        "the host kept a watch that nobody wants"
    );
    assert_eq!(
        pair.guest.watch(&all(), now),
        Ok(watch),
        "the number is free again"
    );
}

#[test]
fn an_answer_in_pieces_is_cancelled_before_any_left() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    pair.values.insert("v".into(), Bytes::from(vec![1; 100_000]));
    // Both come in one read, so that the host has the answer still before it when it hears of the cancel.
    let stream = pair.guest.get(&get("v"), now).unwrap();
    pair.guest.cancel(stream, now);
    pair.settle(usize::MAX);
    assert_eq!(pair.heard, []);
    assert_eq!(
        pair.guest.get(&get("w"), now),
        Ok(stream),
        "the number is free again"
    );
}

#[test]
fn a_watch_that_the_host_ends_may_be_acknowledged_once_more() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    let watch = pair.guest.watch(&all(), now).unwrap();
    pair.settle(usize::MAX);
    pair.host.batch(watch, batch(None, 1, 10));
    // The batch arrives and is acknowledged, and then the watch ends before the host reads that.
    pair.down.extend_from_slice(pair.host.outbox().output());
    let sent = pair.host.outbox().output().len();
    pair.host.outbox().wrote(sent, now);
    pair.guest_reads();
    pair.host.refuse(watch, Code::TooMuch, "no room", now);
    pair.settle(usize::MAX);
    assert!(matches!(
        &pair.heard[..],
        [GuestEvent::Batch { .. }, GuestEvent::Refused(..)]
    ));
}

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
    let mut ping = BytesMut::new();
    put_with(&mut ping, Kind::Ping, Last::No, StreamId::SESSION, |out| {
        out.extend_from_slice(&[1]);
    });
    pair.host.receive(&ping, at(30_000)).unwrap();
    assert_eq!(pair.host.tick(at(30_002)), Err(Fault::NotReading));
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
    assert!(matches!(&pair.heard[..], [GuestEvent::Listing(id, _)] if *id == stream));
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
        if guest.tick(due) == Err(Fault::Silent) {
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
        |event: &GuestEvent| matches!(event, GuestEvent::Found(_, found) if found.value.len() == 100_000);
    assert!(pair.heard.iter().all(whole));
}
