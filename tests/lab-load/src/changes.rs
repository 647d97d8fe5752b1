//! One change after the other, each followed from its request to its line in the agent's watch.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::plan::{Changes, Place, Seen};
use crate::poll::Poll;
use crate::processor;
use crate::reply::Reply;
use crate::socket::Socket;

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long each value is, in bytes.
const VALUE_BYTES: usize = 64;
/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
const CONTROL: usize = 0;
const AGENT: usize = 1;

/// Makes the changes, and says how long each took.
///
/// Fails when the control plane refuses one, or the watch doesn't show it in ten seconds.
pub fn changes(plan: &Changes) -> Result<Seen> {
    processor::pin(plan.core)?;
    let mut run = Run::begin(plan)?;
    let mut seen = Seen::default();
    // A nonce, so that a line of an earlier run isn't taken for one of this.
    let nonce = std::process::id();
    for nth in 0..plan.count {
        let bare = run.bare(&format!("bare-{nonce}-{nth}."))?;
        seen.bare_ms.push(bare);
        let (reply, guest) = run.change(&format!("change-{nonce}-{nth}."))?;
        seen.reply_ms.push(reply);
        seen.guest_ms.push(guest);
    }
    Ok(seen)
}

struct Run<'a> {
    plan: &'a Changes,
    control: Socket,
    agent: Socket,
    poll: Poll,
    buffer: Vec<u8>,
}

impl<'a> Run<'a> {
    fn begin(plan: &'a Changes) -> Result<Self> {
        let control = Socket::connect(&plan.control)?;
        let mut agent = Socket::connect(&Place::Unix(plan.agent.clone()))?;
        let mut buffer = vec![0; READ_BYTES];
        agent.send(plan.watch.as_bytes())?;
        let mut came = Vec::new();
        // The watch has begun with its first line, a bookmark.
        while !contains(&came, b"bookmark") {
            let count = agent.receive(&mut buffer)?;
            came.extend_from_slice(&buffer[..count]);
        }
        control.stop_blocking()?;
        agent.stop_blocking()?;
        let poll = Poll::new()?;
        poll.add(&control, CONTROL)?;
        poll.add(&agent, AGENT)?;
        Ok(Self {
            plan,
            control,
            agent,
            poll,
            buffer,
        })
    }

    /// A commit that nobody follows, in milliseconds.
    fn bare(&mut self, mark: &str) -> Result<f64> {
        let request = self.put(&self.plan.bare, mark);
        let begun = Instant::now();
        self.control.send(request.as_bytes())?;
        let (reply, _) = self.follow(begun, None)?;
        Ok(milliseconds(reply))
    }

    /// A change of the guest's entry: when its reply came, and when the watch showed it, in milliseconds.
    fn change(&mut self, mark: &str) -> Result<(f64, f64)> {
        let request = self.put(&self.plan.entry, mark);
        let begun = Instant::now();
        self.control.send(request.as_bytes())?;
        let (reply, guest) = self.follow(begun, Some(mark.as_bytes()))?;
        Ok((milliseconds(reply), milliseconds(guest)))
    }

    /// Waits for the reply, and for `mark` in the watch where there is one.
    fn follow(&mut self, begun: Instant, mark: Option<&[u8]>) -> Result<(Duration, Duration)> {
        let (mut replied, mut shown) = (None, mark.is_none().then_some(Duration::ZERO));
        let (mut reply, mut watch) = (Vec::new(), Vec::new());
        loop {
            if let (Some(replied), Some(shown)) = (replied, shown) {
                return Ok((replied, shown));
            }
            ensure!(begun.elapsed() < PATIENCE, "a change was not seen in the guest");
            for place in self.poll.wait(PATIENCE)? {
                let socket = if place == AGENT {
                    &mut self.agent
                } else {
                    &mut self.control
                };
                let count = socket.receive(&mut self.buffer)?;
                let now = begun.elapsed();
                let came = if place == AGENT { &mut watch } else { &mut reply };
                came.extend_from_slice(&self.buffer[..count]);
                if place == CONTROL && Reply::Http.length(came).context("put an entry")?.is_some() {
                    replied = Some(now);
                } else if place == AGENT && mark.is_some_and(|mark| contains(came, mark)) {
                    shown = Some(now);
                }
            }
        }
    }

    fn put(&self, target: &str, mark: &str) -> String {
        let body = format!("{{\"value\":\"{mark:x<VALUE_BYTES$}\"}}");
        format!(
            "PUT {target} HTTP/1.1\r\nHost: control\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.plan.token,
            body.len()
        )
    }
}

fn contains(text: &[u8], mark: &[u8]) -> bool {
    text.windows(mark.len()).any(|part| part == mark)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
