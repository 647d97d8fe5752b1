//! `lab-guest`, the lab's helper inside a test guest.
//!
//! * `lab-guest serve PORT` runs the lab's commands; PORT is the virtio-serial device.
//! * `lab-guest vsock-echo PORT BYTES` connects to the host (CID 2), sends that many bytes while it reads them
//!   back, and fails unless they come back as they went.

#![forbid(unsafe_code)]

mod echo;
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
        _ => bail!("usage: lab-guest serve PORT | lab-guest vsock-echo PORT BYTES"),
    }
}
