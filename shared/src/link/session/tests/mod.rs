//! Both ends against each other through a wire that cuts bytes wherever it likes, and each against a liar.

mod bounds;
mod streams;
mod told;

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{
    AskError, Batch, DEAD_MS, DEFAULT_LIMITS, Deferred, Fault, Guest, GuestEvent, HEARTBEAT_MS, Host,
    HostEvent,
};
use crate::entry::Value;
use crate::id::InstanceId;
use crate::link::body::{
    Code, Found, Freshness, Get, Hello, HelloAck, Item, Limits, List, Listing, Mirrored, Relay, Relayed,
    Watch,
};
use crate::link::frame::{Last, MAX_BODY, StreamId, put_with};
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
            | HostEvent::Differs(_)
            | HostEvent::Poll
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

fn all() -> Watch {
    Watch {
        instance: None,
        prefix: PathPrefix::ALL,
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
            let GuestEvent::Found(stream, found, _) = event else { panic!("{event:?}") };
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
