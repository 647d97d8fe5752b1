//! What a process of the guest that isn't root tries in order to speak as the guest.

use anyhow::{Context, Result, bail, ensure};
use moorline_shared::link::body::Hello;
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{KindSet, Moment, PORT};
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
    /// The host or the device closed it, or it was never made.
    Closed,
}

/// Tries everything that a process without privileges can, and fails if any of it leads anywhere.
///
/// `overheard` is a proof that the guest's root made, for a challenge of its own.
pub(crate) fn intrude(overheard: Option<[u8; 32]>) -> Result<()> {
    let port = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 1_000);
    ensure!(port.is_err(), "a port below 1024 could be bound");
    println!("no port below 1024 can be bound");
    let tricks = [
        ("no proof", None),
        (
            "a proof by another key",
            Some(Proof::By(SecretKey::from([0; 32]))),
        ),
        ("any bytes for a proof", Some(Proof::Bytes([0x5a; 32]))),
        ("a proof that was overheard", overheard.map(Proof::Bytes)),
    ];
    for (what, proof) in tricks {
        for incarnation in [None, Some(1)] {
            let outcome = dial(proof.as_ref(), incarnation)?;
            ensure!(outcome == Outcome::Closed, "with {what} it was welcome");
        }
        println!("with {what} it got nothing");
    }
    let until = Instant::now() + CONNECTING;
    let tries = (0..CONNECTS).take_while(|_| Instant::now() < until);
    let made = tries.filter(|_| connect().is_ok()).count();
    println!("{made} connections were made, and led nowhere");
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

fn connect() -> std::io::Result<VsockStream> {
    VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT)
}

/// Connects and says HELLO; how far that came. Fails when the host does neither one thing nor the other.
fn dial(said: Option<&Proof>, incarnation: Option<u64>) -> Result<Outcome> {
    let Ok(mut stream) = connect() else {
        return Ok(Outcome::Closed);
    };
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("set a time limit")?;
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
        loop {
            let received = core.receive(&came, Moment(0)).context("understand the host")?;
            came.drain(..received.taken);
            if received.taken == 0 {
                break;
            }
            match received.event {
                Some(GuestEvent::Challenge(nonce)) => {
                    let proof = said.map(|said| match said {
                        Proof::By(key) => proof(key, &nonce),
                        Proof::Bytes(bytes) => *bytes,
                    });
                    core.hello(&hello(proof, incarnation), Moment(0));
                    let output = core.outbox().output().to_vec();
                    if stream.write_all(&output).is_err() {
                        return Ok(Outcome::Closed);
                    }
                    core.outbox().wrote(output.len(), Moment(0));
                }
                Some(GuestEvent::Ready(_)) => return Ok(Outcome::Welcomed),
                _ => {}
            }
        }
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
