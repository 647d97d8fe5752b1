//! Attackers that are let in: they say HELLO as an agent does, and then send what no agent would, as fast as it goes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use moorline_shared::link::Kind;
use moorline_shared::link::body::{Code, Differs, Ended, Get, GoAway, List, Relay, Watch};
use moorline_shared::link::frame::MAX_BODY;
use moorline_shared::{InstanceId, PathPrefix};

use super::LARGE;
use super::tally::Tally;
use crate::frames::{frame, get, header, last};
use crate::guest::Connected;
use crate::plan::Attack;
use crate::signer;
use crate::socket::{Ready, Socket};

/// How much is made ready to be sent at once: as much as a host reads at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// For how long one that never reads stays, once its host takes no more.
const STAY: Duration = Duration::from_millis(500);
/// How long is waited for a socket before it is told how far it came.
const LOOK: Duration = Duration::from_millis(100);
/// Between two reads of a polite guest.
const PAUSE: Duration = Duration::from_millis(2);
/// The body of a write: close to the longest frame.
const VALUE_BYTES: usize = 12 * 1024;
/// How many paths are written: more than there is room for.
const PATHS: u32 = 2_000;

/// The numbers of streams that a guest may open, one after the other.
fn streams() -> impl Iterator<Item = u32> {
    (1..=u32::MAX).step_by(2)
}

/// Sends what is made for stream after stream as fast as the host takes it, and lets go of all that comes.
pub(super) fn flood(guest: &Path, tally: &mut Tally, make: impl FnMut(u32) -> Vec<u8>) -> Result<()> {
    pour(&mut Connected::open(guest)?.into_socket()?, tally, make)
}

fn pour(socket: &mut Socket, tally: &mut Tally, mut make: impl FnMut(u32) -> Vec<u8>) -> Result<()> {
    let (mut waiting, mut sink) = (Vec::new(), vec![0; READ_BYTES]);
    let mut streams = streams();
    loop {
        while waiting.len() < BATCH_BYTES {
            waiting.extend(make(streams.next().context("there are no more streams")?));
            tally.act();
        }
        let sent = socket.send_some(&waiting)?;
        waiting.drain(..sent);
        while socket.receive(&mut sink)? > 0 {}
        if sent == 0 {
            socket.wait(Ready::Either, LOOK)?;
            tally.tell();
        }
    }
}

/// One read after the other, with a pause between them.
pub(super) fn read_politely(guest: &Path, tally: &mut Tally) -> Result<()> {
    let mut socket = Connected::open(guest)?.into_socket()?;
    let mut sink = vec![0; READ_BYTES];
    for stream in streams() {
        socket.send(&get(stream, "name"))?;
        while socket.receive(&mut sink)? == 0 {
            socket.wait(Ready::Read, LOOK)?;
        }
        tally.act();
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Asks for what is large until nothing more is taken, without ever reading.
pub(super) fn never_read(guest: &Path, tally: &mut Tally) -> Result<()> {
    let mut socket = Connected::open(guest)?.into_socket()?;
    let until = Instant::now() + STAY;
    for stream in streams() {
        let request = get(stream, LARGE);
        let mut sent = 0;
        while sent < request.len() {
            sent += socket.send_some(&request[sent..])?;
            if sent < request.len() {
                socket.wait(Ready::Write, LOOK)?;
                tally.tell();
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
        tally.act();
    }
    Ok(())
}

/// Reads of what is large.
pub(super) fn read(stream: u32) -> Vec<u8> {
    get(stream, LARGE)
}

/// Pages of everything.
pub(super) fn list(stream: u32) -> Vec<u8> {
    let body = List {
        instance: None,
        prefix: everything(),
        after: None,
    };
    last(Kind::List, stream, &body)
}

fn everything() -> PathPrefix {
    "".parse().expect("the empty prefix is one")
}

/// A watch of everything, which is not wanted any more by the time that it begins.
pub(super) fn watch_and_let_go(stream: u32) -> Vec<u8> {
    let watch = Watch {
        instance: None,
        prefix: everything(),
    };
    let cancelled = Ended {
        code: Code::Cancelled as u16,
    };
    [
        last(Kind::Watch, stream, &watch),
        last(Kind::Cancel, stream, &cancelled),
    ]
    .concat()
}

/// Paths that are none, and the root.
pub(super) fn ask_for_odd_paths(stream: u32) -> Vec<u8> {
    let odd = [
        "",
        "/",
        "..",
        "../../etc/shadow",
        "a//b",
        "%2e%2e%2f",
        "a\0b",
        "-rf",
        "\u{202e}evil",
    ];
    get(stream, odd[stream as usize / 2 % odd.len()])
}

/// Entries of instances that there are none of, each another.
pub(super) fn ask_for_unknown_things(stream: u32) -> Vec<u8> {
    let mut id = [0xee; 16];
    id[..4].copy_from_slice(&stream.to_be_bytes());
    let body = Get {
        instance: Some(InstanceId::from_bytes(id)),
        path: "no/such/entry".into(),
        max_age_ms: None,
    };
    last(Kind::Get, stream, &body)
}

/// Requests for the control plane that nobody signed.
pub(super) fn relay_unsigned(stream: u32) -> Vec<u8> {
    let body = Relay {
        method: "PUT".into(),
        target: "/v1/instances/00000000-0000-0000-0000-000000000001/data/name".into(),
        headers: vec![("content-type".into(), "application/json".into())],
        length: 0,
        body: "x".repeat(VALUE_BYTES).as_str().into(),
    };
    last(Kind::Relay, stream, &body)
}

/// Writes of its own entries, one path after the other, until there is no room and then on.
pub(super) fn write_signed(plan: &Attack, tally: &mut Tally) -> Result<()> {
    let (mut guest, session) = Connected::open_with_session(&plan.guest)?;
    let authority = guest.take_authority();
    let value = serde_json::json!({ "value": "w".repeat(VALUE_BYTES) }).to_string();
    let write = |stream: u32| {
        let target = format!("/v1/instances/{}/data/w/{}", plan.instance, stream % PATHS);
        let signed = signer::signed(&session, &authority, "PUT", &target, value.as_bytes());
        let mut headers = signed.unwrap_or_default();
        headers.push(("content-type".into(), "application/json".into()));
        let body = Relay {
            method: "PUT".into(),
            target,
            headers,
            length: 0,
            body: value.as_str().into(),
        };
        last(Kind::Relay, stream, &body)
    };
    pour(&mut guest.into_socket()?, tally, write)
}

/// Says that its mirror is not what it should be, whatever it is.
pub(super) fn claim_to_differ(_: u32) -> Vec<u8> {
    frame(Kind::Differs, 0, 0, &Differs { revision: None })
}

/// Begins everything at once, leaves half a frame, and is gone.
pub(super) fn disappear(guest: &Path, tally: &mut Tally) -> Result<()> {
    let mut socket = Connected::open(guest)?.into_socket()?;
    let half = header(u32::try_from(MAX_BODY)?, Kind::Relay as u8, 0, 7);
    let begun = [
        watch_and_let_go(1),
        read(3),
        ask_for_unknown_things(5),
        half.to_vec(),
    ];
    tally.act();
    socket.send(&begun.concat())
}

/// The end of a session, at length.
pub(super) fn goodbye() -> Vec<u8> {
    let reason = format!("\x1b]0;title\x07\nforged line {}", "x".repeat(10_000));
    frame(
        Kind::GoAway,
        1,
        0,
        &GoAway {
            reason,
            reconnect_after_ms: 0,
        },
    )
}
