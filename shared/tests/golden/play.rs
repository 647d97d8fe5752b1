//! The document's session, played by the two session cores, and its faults.

use bytes::Bytes;
use moorline_shared::Revision;
use moorline_shared::link::body::Code;
use moorline_shared::link::frame::StreamId;
use moorline_shared::link::session::{
    Batch, DEFAULT_LIMITS, Fault, Guest, GuestEvent, HEARTBEAT_MS, Host, HostEvent, Outbox, Told,
};
use moorline_shared::link::{KindSet, Moment};

use super::vectors::{Golden, Sending, bytes, golden, hex};
use super::{DOCUMENT, body, in_document};

const NOW: Moment = Moment(1);

/// The two ends after HELLO, as the document's session has them.
fn opened(golden: &Golden) -> (Host, Guest) {
    let (mut host, mut guest) = (Host::new(DEFAULT_LIMITS, nonce(golden), NOW), Guest::new(NOW));
    assert_eq!(sent(host.outbox()), golden.wire("challenge"));
    let heard = hear(&mut guest, &golden.wire("challenge"));
    assert_eq!(heard, Some(GuestEvent::Challenge(nonce(golden))));
    guest.hello(&body(&golden.wire("hello-first")), NOW);
    assert_eq!(sent(guest.outbox()), golden.wire("hello-first"));
    let hello = golden.wire("hello-first");
    let Some(HostEvent::Hello(hello)) = host.receive(&hello, NOW).unwrap().event else {
        panic!("no HELLO")
    };
    assert_eq!(hello.kinds, KindSet::ours());
    host.welcome(&hello, &body(&golden.wire("hello-ack")), NOW);
    assert_eq!(sent(host.outbox()), golden.wire("hello-ack"));
    assert!(matches!(
        hear(&mut guest, &golden.wire("hello-ack")),
        Some(GuestEvent::Ready(_))
    ));
    (host, guest)
}

fn nonce(golden: &Golden) -> [u8; 16] {
    bytes(&golden.proof.nonce).try_into().unwrap()
}

fn sent(outbox: &mut Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    while !outbox.output().is_empty() {
        let output = outbox.output();
        all.extend_from_slice(output);
        let count = output.len();
        outbox.wrote(count, NOW);
    }
    all
}

/// The last event of the frames.
fn hear(guest: &mut Guest, mut wire: &[u8]) -> Option<GuestEvent> {
    let mut last = None;
    while !wire.is_empty() {
        let received = guest.receive(wire, NOW).unwrap();
        wire = &wire[received.taken..];
        last = received.event.or(last);
    }
    last
}

fn batch(golden: &Golden, content: &str, from: Option<u64>, to: u64) -> Batch {
    Batch {
        from: from.map(|n| Revision::new(1, n)),
        to: Revision::new(1, to),
        content: Bytes::from(bytes(&golden.content(content).hex)),
    }
}

/// The document's session, frame by frame: which vectors have been sent.
struct Play {
    golden: Golden,
    host: Host,
    guest: Guest,
    played: Vec<String>,
}

impl Play {
    fn vectors(&mut self, from: &str, names: &[&str]) -> Vec<u8> {
        let from_them = |name: &&str| self.golden.vector(name).from == from;
        assert!(names.iter().all(from_them));
        self.played.extend(names.iter().map(ToString::to_string));
        names.iter().flat_map(|name| self.golden.wire(name)).collect()
    }

    /// What the guest has to send is these vectors; the host takes them.
    fn guest_sends(&mut self, names: &[&str]) {
        let wire = self.vectors("guest", names);
        assert_eq!(hex(&sent(self.guest.outbox())), hex(&wire), "{names:?}");
        let mut at = 0;
        while at < wire.len() {
            at += self.host.receive(&wire[at..], NOW).unwrap().taken;
        }
    }

    /// What the host has to send is these vectors; the guest takes them.
    fn host_sends(&mut self, names: &[&str]) -> Option<GuestEvent> {
        let wire = self.vectors("host", names);
        assert_eq!(hex(&sent(self.host.outbox())), hex(&wire), "{names:?}");
        hear(&mut self.guest, &wire)
    }

    fn pushed(&mut self, stream: StreamId, of: &str) {
        let names = ["begin", "part", "commit"].map(|part| format!("{part}-{of}"));
        let event = self.host_sends(&[&names[0], &names[1], &names[2]]);
        let Some(GuestEvent::Batch { stream: on, to, .. }) = event else {
            panic!("no batch: {event:?}")
        };
        assert_eq!(on, stream);
        self.guest.applied(stream, to, NOW);
        self.guest_sends(&[&format!("applied-{of}")]);
    }
}

#[test]
fn the_documents_session_is_what_the_two_cores_say() {
    let golden = golden();
    let (host, guest) = opened(&golden);
    let played = ["challenge", "hello-first", "hello-ack"]
        .map(str::to_owned)
        .into();
    let mut play = Play {
        golden,
        host,
        guest,
        played,
    };

    play.host
        .standing(&body(&play.golden.wire("standing-first")), NOW);
    assert!(matches!(
        play.host_sends(&["standing-first"]),
        Some(GuestEvent::Standing(_))
    ));

    play.host
        .batch(StreamId::SESSION, batch(&play.golden, "snapshot", None, 12));
    play.pushed(StreamId::SESSION, "snapshot");

    let stream = play.guest.get(&body(&play.golden.wire("get-own")), NOW).unwrap();
    play.guest_sends(&["get-own"]);
    play.host
        .found(stream, &body(&play.golden.wire("found-own")), Bytes::new(), NOW);
    assert!(matches!(
        play.host_sends(&["found-own"]),
        Some(GuestEvent::Found(..))
    ));

    let watch = play
        .guest
        .watch(&body(&play.golden.wire("watch-other")), NOW)
        .unwrap();
    play.guest_sends(&["watch-other"]);
    play.host.batch(watch, batch(&play.golden, "watched", None, 300));
    play.pushed(watch, "watch");

    play.guest.tick(Moment(NOW.0 + u64::from(HEARTBEAT_MS))).unwrap();
    play.guest_sends(&["ping"]);
    assert_eq!(play.host_sends(&["pong"]), None);

    play.guest.cancel(watch, NOW);
    play.guest_sends(&["cancel"]);
    assert_eq!(play.host_sends(&["reset"]), None);

    let stream = play
        .guest
        .relay(body(&play.golden.wire("relay-put")), NOW)
        .unwrap();
    play.guest_sends(&["relay-put"]);
    play.host
        .relayed(stream, &body(&play.golden.wire("relayed-put")), Bytes::new(), NOW);
    assert!(matches!(
        play.host_sends(&["relayed-put"]),
        Some(GuestEvent::Relayed(..))
    ));
    play.host
        .batch(StreamId::SESSION, batch(&play.golden, "changed", Some(12), 301));
    play.pushed(StreamId::SESSION, "change");

    let stream = play
        .guest
        .get(&body(&play.golden.wire("get-missing")), NOW)
        .unwrap();
    play.guest_sends(&["get-missing"]);
    play.host
        .refuse(stream, Code::NotFound, "there is no such entry", NOW);
    assert!(matches!(
        play.host_sends(&["refused-missing"]),
        Some(GuestEvent::Refused(..))
    ));

    play.host.go_away("the host daemon ends", 1_000, NOW);
    assert!(matches!(
        play.host_sends(&["goaway"]),
        Some(GuestEvent::GoAway(_))
    ));
    assert_eq!(play.played, play.golden.session);
    let section = DOCUMENT.split_once("\n## A whole session\n").unwrap().1;
    let shown = section.lines().filter_map(|line| line.strip_prefix("```frame "));
    assert!(
        shown.eq(&play.golden.session),
        "the document shows the session in another order"
    );
}

#[test]
fn what_the_host_gives_is_what_the_document_shows() {
    let golden = golden();
    let (mut host, mut guest) = opened(&golden);
    let names = ["session-token", "credential-aws", "link-key", "session-over"];
    let [token, aws, key, over] = names.map(|name| golden.wire(name));
    assert_eq!(host.session(&body(&token), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), token);
    assert_eq!(hear(&mut guest, &token), Some(GuestEvent::Session(body(&token))));
    assert_eq!(host.credential(&body(&aws), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), aws);
    assert_eq!(hear(&mut guest, &aws), Some(GuestEvent::Credential(body(&aws))));
    assert_eq!(host.link_key(&body(&key), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), key);
    assert_eq!(hear(&mut guest, &key), Some(GuestEvent::LinkKey(body(&key))));
    assert_eq!(host.session_over(&body(&over), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), over);
    assert_eq!(
        hear(&mut guest, &over),
        Some(GuestEvent::SessionOver(body(&over)))
    );
}

#[test]
fn a_mirror_is_compared_by_two_frames_at_the_most() {
    let golden = golden();
    let (mut host, mut guest) = opened(&golden);
    let [digest, differs] = ["digest-snapshot", "differs"].map(|name| golden.wire(name));
    assert_eq!(host.digest(&body(&digest), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), digest);
    assert_eq!(hear(&mut guest, &digest), Some(GuestEvent::Digest(body(&digest))));
    guest.differs(&body(&differs), NOW);
    assert_eq!(sent(guest.outbox()), differs);
    let heard = host.receive(&differs, NOW).unwrap().event;
    assert_eq!(heard, Some(HostEvent::Differs(body(&differs))));
    host.receive(&differs, NOW)
        .expect_err("a DIGEST is contradicted once");
}

#[test]
fn a_mirror_is_asked_for_by_two_frames_where_nothing_changed() {
    let golden = golden();
    let (mut host, mut guest) = opened(&golden);
    let [pull, question, as_of] = ["pull", "poll", "as-of"].map(|name| golden.wire(name));
    assert_eq!(host.pull(&body(&pull), NOW), Told::Queued);
    assert_eq!(sent(host.outbox()), pull);
    assert_eq!(hear(&mut guest, &pull), Some(GuestEvent::Pull(body(&pull))));
    for _ in 0..2 {
        assert_eq!(host.as_of(&body(&as_of), NOW), Told::Queued);
        assert_eq!(sent(host.outbox()), as_of);
        assert_eq!(hear(&mut guest, &as_of), Some(GuestEvent::AsOf(body(&as_of))));
        guest.tick(Moment(NOW.0 + 9_999)).unwrap();
        assert!(sent(guest.outbox()).is_empty(), "it is too early");
        guest.tick(Moment(NOW.0 + 10_000)).unwrap();
        // Behind a PING, which is due as well.
        let said = sent(guest.outbox());
        assert_eq!(
            said[said.len() - question.len()..said.len() - 1],
            question[..question.len() - 1]
        );
        assert_eq!(host.receive(&question, NOW).unwrap().event, Some(HostEvent::Poll));
    }
    host.receive(&question, NOW).expect_err("one question at a time");
}

#[test]
fn every_fault_ends_the_connection_at_its_last_frame() {
    let golden = golden();
    for fault in &golden.faults {
        in_document(&format!("| `{}` | {} |", fault.name, fault.to));
        let (mut host, mut guest) = if fault.before_hello {
            (Host::new(DEFAULT_LIMITS, [0; 16], NOW), Guest::new(NOW))
        } else {
            opened(&golden)
        };
        if let Some(sending) = &fault.sending {
            host.batch(StreamId::SESSION, sending.batch());
            sent(host.outbox());
        }
        let mut take = |wire: &[u8]| match &*fault.to {
            "host" => host.receive(wire, NOW).map(|incoming| incoming.taken),
            _ => guest.receive(wire, NOW).map(|received| received.taken),
        };
        let (last, before) = fault.frames.split_last().unwrap();
        for wire in before.iter().map(|frame| bytes(frame)) {
            assert_eq!(take(&wire), Ok(wire.len()), "{}", fault.name);
        }
        let found = take(&bytes(last)).expect_err(&fault.name);
        assert_eq!(class(&found), fault.class, "{}: {found}", fault.name);
    }
}

impl Sending {
    fn batch(&self) -> Batch {
        Batch {
            from: None,
            to: Revision::new(self.to.0, self.to.1),
            content: vec![0; self.length].into(),
        }
    }
}

fn class(fault: &Fault) -> &'static str {
    match fault {
        Fault::Frame(_) => "frame",
        Fault::Body(_) => "body",
        Fault::Unexpected { .. } => "place",
        Fault::TooMuch { .. } => "too-much",
        Fault::Digest => "digest",
        Fault::NoHello | Fault::NoWelcome | Fault::Slow | Fault::Silent | Fault::NotReading => "time",
    }
}
