//! `lab-guest`, the lab's helper inside a test guest.
//!
//! * `lab-guest serve PORT` runs the lab's commands; PORT is the virtio-serial device.
//! * `lab-guest vsock-echo PORT BYTES` connects to the host (CID 2), sends that many bytes while it reads them
//!   back, and fails unless they come back as they went.
//! * `lab-guest intrude [PROOF]` tries all that a process without privileges can to be taken for the guest by its host,
//!   and fails if any of it leads anywhere. PROOF is one that was overheard.
//! * `lab-guest show-proof KEY-FILE` writes down a proof by the guest's link key.
//! * `lab-guest ask SOCKET UID COMMAND` has the helper in a guest of this guest's run a command as a user; SOCKET is
//!   QEMU's for that guest's port.

#![forbid(unsafe_code)]

mod ask;
mod echo;
mod intrude;
mod serve;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", device] => serve::serve(device.as_ref()),
        ["vsock-echo", port, bytes] => echo::check(
            port.parse().context("PORT is a number below 4294967296")?,
            bytes.parse().context("BYTES is a number")?,
        ),
        ["ask", socket, uid, command] => ask::ask(socket, uid.parse().context("UID is a number")?, command),
        ["intrude"] => intrude::intrude(None),
        ["intrude", proof] => intrude::intrude(Some(intrude::parse_proof(proof)?)),
        ["show-proof", key] => intrude::show_proof(key),
        _ => bail!(
            "usage: lab-guest serve PORT | vsock-echo PORT BYTES | intrude [PROOF] | show-proof KEY-FILE | ask SOCKET UID COMMAND"
        ),
    }
}
