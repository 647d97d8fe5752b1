//! What a process of the guest that isn't root tries in order to speak as the guest.

use anyhow::{Context, Result, bail, ensure};
use moorline_shared::link::body::{Code, Hello};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{KindSet, Moment, PORT, StreamId};
use moorline_shared::secret::SecretKey;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// How long the host may take to close a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it only connects, and for how long at most: the host soon lets connections wait.
const CONNECTS: usize = 1_000;
const CONNECTING: Duration = Duration::from_secs(15);

/// How far a connection came.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The host took it for the guest.
    Welcomed,
    /// The host heard it out, and didn't believe it.
    Denied,
    /// The host closed it, and said nothing of why.
    Closed,
    /// It was never made: nothing was tried.
    Unreached(ErrorKind),
}

/// Tries everything that a process without privileges can, and fails if any of it leads anywhere, or if the host never
/// came to judge it.
///
/// `overheard` is a proof that the guest's root made, for a challenge of its own. There is one where the host tells
/// root by proofs; elsewhere it tells root by the port, and hears nobody else.
pub(crate) fn intrude(overheard: Option<[u8; 32]>) -> Result<()> {
    binds_no_port_of_roots()?;
    let other_key = Proof::By(SecretKey::from([0; 32]));
    let any_bytes = Proof::Bytes([0x5a; 32]);
    let mut tricks = vec![
        ("no proof", None),
        ("a proof by another key", Some(other_key)),
        ("any bytes for a proof", Some(any_bytes)),
    ];
    tricks.extend(overheard.map(|proof| ("a proof that was overheard", Some(Proof::Bytes(proof)))));
    let refusal = match overheard {
        Some(_) => Outcome::Denied,
        None => Outcome::Closed,
    };
    for (what, proof) in tricks {
        is_refused(what, proof.as_ref(), &refusal)?;
    }
    let until = Instant::now() + CONNECTING;
    let tries = (0..CONNECTS).take_while(|_| Instant::now() < until);
    let made = tries.filter(|_| connect().is_ok()).count();
    ensure!(made > 0, "no connection was made at all");
    println!("{made} connections were made, and led nowhere");
    Ok(())
}

/// The kernel has to say that it is not allowed: where there is no vsock, nobody can bind a port, root included.
fn binds_no_port_of_roots() -> Result<()> {
    let bound = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 1_000);
    let error = bound.err().context("a port below 1024 could be bound")?;
    ensure!(
        error.kind() == ErrorKind::PermissionDenied,
        "binding a port below 1024 failed otherwise: {error}"
    );
    println!("no port below 1024 can be bound");
    Ok(())
}

/// Speaks as an agent that has just started and as one that has data, and is refused like this at least once.
fn is_refused(what: &str, proof: Option<&Proof>, refusal: &Outcome) -> Result<()> {
    let outcomes = [dial(proof, None)?, dial(proof, Some(1))?];
    ensure!(
        !outcomes.contains(&Outcome::Welcomed),
        "with {what} it was welcome"
    );
    ensure!(
        outcomes.contains(refusal),
        "with {what} it was never {refusal:?} but {outcomes:?}"
    );
    println!("with {what} it got nothing: {outcomes:?}");
    Ok(())
}

/// Writes down a proof as the guest's root makes it, with the link key in this file, for others to try.
pub(crate) fn show_proof(key: &str) -> Result<()> {
    let key = std::fs::read(key).context("read the link key")?;
    let key = <[u8; 32]>::try_from(key).ok().context("a key has 32 bytes")?;
    let made = proof(&SecretKey::from(key), &[7; 16]);
    println!("{}", made.map(|byte| format!("{byte:02x}")).concat());
    Ok(())
}

/// A proof as [`show_proof`] writes it.
pub(crate) fn parse_proof(text: &str) -> Result<[u8; 32]> {
    ensure!(text.len() == 64 && text.is_ascii(), "a proof has 64 digits");
    let mut proof = [0; 32];
    for (byte, at) in proof.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).context("a proof is of hexadecimal digits")?;
    }
    Ok(proof)
}

enum Proof {
    By(SecretKey),
    Bytes([u8; 32]),
}

impl Proof {
    /// What stands in a HELLO that answers this challenge.
    fn answers(&self, nonce: &[u8; 16]) -> [u8; 32] {
        match self {
            Self::By(key) => proof(key, nonce),
            Self::Bytes(bytes) => *bytes,
        }
    }
}

fn connect() -> std::io::Result<VsockStream> {
    VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT)
}

/// Connects and says HELLO; how far that came. Fails when the host does neither one thing nor the other.
fn dial(said: Option<&Proof>, incarnation: Option<u64>) -> Result<Outcome> {
    let mut stream = match connect() {
        Ok(stream) => stream,
        Err(error) => return Ok(Outcome::Unreached(error.kind())),
    };
    let limited = stream.set_read_timeout(Some(PATIENCE));
    limited.context("set a time limit")?;
    let (mut core, mut came) = (Guest::new(Moment(0)), Vec::new());
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Ok(Outcome::Closed),
            Ok(count) => came.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("the host neither welcomes nor closes")
            }
            Err(_) => return Ok(Outcome::Closed),
        }
        while let Some(event) = next(&mut core, &mut came)? {
            match event {
                GuestEvent::Challenge(nonce) => {
                    let proof = said.map(|said| said.answers(&nonce));
                    core.hello(&hello(proof, incarnation), Moment(0));
                    say(&mut core, &mut stream);
                }
                GuestEvent::Ready(_) => return Ok(Outcome::Welcomed),
                GuestEvent::Ended(StreamId::SESSION, Code::Denied) => return Ok(Outcome::Denied),
                _ => {}
            }
        }
    }
}

/// The next event in what came, if it has one that is whole.
fn next(core: &mut Guest, came: &mut Vec<u8>) -> Result<Option<GuestEvent>> {
    loop {
        let received = core.receive(came, Moment(0)).context("understand the host")?;
        came.drain(..received.taken);
        if received.event.is_some() || received.taken == 0 {
            return Ok(received.event);
        }
    }
}

/// Writes what there is to say. If that fails, reading shows what the host said before it closed.
fn say(core: &mut Guest, stream: &mut VsockStream) {
    let output = core.outbox().output().to_vec();
    if stream.write_all(&output).is_ok() {
        core.outbox().wrote(output.len(), Moment(0));
    }
}

fn hello(proof: Option<[u8; 32]>, incarnation: Option<u64>) -> Hello {
    Hello {
        kinds: KindSet::ours(),
        build: "intruder".into(),
        boot_id: [0; 16],
        vmgenid: None,
        incarnation,
        applied: incarnation.map(|_| moorline_shared::Revision::new(1, 1)),
        journal: 0,
        proof,
    }
}
