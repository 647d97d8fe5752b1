//! The lab's end of the port, for a lab guest that is itself the host of guests.

use anyhow::{Context, Result, bail, ensure};
use moorline_lab_guest::{Ending, Event, Request};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Far more than anything takes that is asked for in this way.
const PATIENCE: Duration = Duration::from_mins(2);
const SESSION: u64 = 1;
const COMMAND: u64 = 1;

/// Has the helper in the guest behind QEMU's `socket` run a command, and writes what that writes.
///
/// Fails when the command does, or the guest doesn't answer.
pub(crate) fn ask(socket: &str, uid: u32, command: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("connect to QEMU's socket")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("set a time limit")?;
    let mut events = BufReader::new(stream.try_clone().context("share the connection")?).lines();
    say(&mut stream, &Request::Hello { session: SESSION })?;
    let mut next = || {
        let line = events
            .next()
            .context("the guest is gone")?
            .context("read what the guest says")?;
        // What an earlier session left behind may be torn.
        Ok::<_, anyhow::Error>(serde_json::from_str::<Event>(&line).ok())
    };
    while !matches!(next()?, Some(Event::Hello { session: SESSION, .. })) {}
    let run = Request::Run {
        id: COMMAND,
        command: command.to_owned(),
        uid,
    };
    say(&mut stream, &run)?;
    loop {
        match next()? {
            Some(Event::Stdout { data, .. } | Event::Stderr { data, .. }) => {
                std::io::stdout()
                    .write_all(&data)
                    .context("pass on what the command writes")?;
            }
            Some(Event::Ended { ending, .. }) => {
                ensure!(ending == Ending::Code(0), "the command ended with {ending:?}");
                return Ok(());
            }
            other => bail!("the guest says {other:?}"),
        }
    }
}

fn say(stream: &mut UnixStream, request: &Request) -> Result<()> {
    let mut line = serde_json::to_vec(request).context("encode a request")?;
    line.push(b'\n');
    stream.write_all(&line).context("write to the guest")
}
