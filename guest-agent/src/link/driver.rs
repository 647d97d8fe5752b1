//! Moves bytes between a socket and the session core, and acts on what the host says.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use moorline_shared::link::body::{self, Code, GoAway, HelloAck};
use moorline_shared::link::session::{Fault, Guest, GuestEvent};
use moorline_shared::link::{Kind, Moment, StreamId};
use tokio::io::ReadBuf;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize as _;

use super::Given;
use super::endpoint::Stream;
use super::line::{Life, Line, WatchBatch};
use crate::mirror::{Batch, Dated, Known, Refusal, Standing};
use crate::platform::now;

/// The most bytes given to the kernel at once: some guests' vsock stalls on larger writes.
const WRITE_BYTES: usize = 32 * 1024;
/// A frame and a part of the next one.
const BUFFER_BYTES: usize = 32 * 1024;

/// A host that says GOAWAY within so many milliseconds did so soon.
const SETTLED_MS: u64 = 30_000;

/// Why there is no session with the host.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Nobody listens there, or there is no such device yet.
    #[error("the host can't be reached")]
    Connect(#[source] io::Error),
    /// Nobody answered.
    #[error("the host didn't take the connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The connection broke.
    #[error("the connection to the host broke")]
    Broken(#[source] io::Error),
    /// The host closed it.
    #[error("the host closed the connection")]
    Closed,
    /// The host said what it may not say, or nothing for too long.
    #[error("the session with the host failed")]
    Fault(#[from] Fault),
    /// A batch that the mirror can't take.
    #[error("the host sent changes that don't fit")]
    Batch(#[from] Refusal),
    /// The host said goodbye.
    #[error("the host ended the session: {}", .0.reason)]
    GoAway(GoAway),
    /// What HELLO said of the mirror fitted another instance or deployment by chance.
    #[error("the host knows this guest as another instance than before")]
    Mistaken,
    /// Whoever signs for this guest has no key that counts.
    #[error("the control plane takes no key of this guest's, which asks for another session")]
    NoKey,
    /// The agent ends.
    #[error("the agent stops")]
    Stopped,
}

impl Lost {
    /// How long the host asked the guest to stay away.
    pub(super) fn asked_wait(&self) -> Duration {
        match self {
            Self::GoAway(said) => Duration::from_millis(u64::from(said.reconnect_after_ms)),
            _ => Duration::ZERO,
        }
    }

    /// The error and its causes as one text.
    pub fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

/// What came from the socket and is not a whole frame yet. It is used for one session after the other.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }
}

impl ReadBuffer {
    #[cfg(test)]
    pub(super) fn fill(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// A frame was taken. It may have been a secret, so that nothing of it is left behind.
    pub(super) fn take(&mut self, count: usize) {
        self.bytes[self.start..self.start + count].zeroize();
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Room for more. A frame that began far back is moved to the front; it is shorter than the buffer.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.bytes[self.end..].zeroize();
        }
        &mut self.bytes[self.end..]
    }
}

/// One connection's life.
pub(super) struct Driver<'a> {
    stream: Stream,
    line: &'a Line,
    given: &'a Given,
    buffer: &'a mut ReadBuffer,
    begun: Moment,
    progressed: bool,
    /// Why the host takes nothing more, once it doesn't.
    unwritable: Option<io::Error>,
}

impl<'a> Driver<'a> {
    /// A connection was just made.
    pub(super) fn begin(
        stream: Stream,
        line: &'a Line,
        given: &'a Given,
        buffer: &'a mut ReadBuffer,
    ) -> Self {
        buffer.clear();
        line.begin(Guest::new(now()));
        Self {
            stream,
            line,
            given,
            buffer,
            begun: now(),
            progressed: false,
            unwritable: None,
        }
    }

    /// Whether the session that ended so led anywhere: it brought something besides its welcome, and was not soon ended by
    /// the host. That happens when another agent says that it is this guest, and two that come back at once would take
    /// turns for ever.
    pub(super) fn led_anywhere(&self, lost: &Lost) -> bool {
        let sent_away = matches!(lost, Lost::GoAway(_)) && now().since(self.begun) < SETTLED_MS;
        self.progressed && !sent_away
    }

    /// Runs the session until it ends. Dropping the future cuts the connection.
    pub(super) async fn run(&mut self, stop: &CancellationToken) -> Lost {
        let line = self.line;
        let mut broken = std::pin::pin!(self.stream.broken());
        loop {
            let wait = Duration::from_millis(line.next_tick().since(now()));
            // Every arm keeps what it has in `self`, so that an arm that loses has lost nothing.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Lost::Stopped,
                lost = std::future::poll_fn(|cx| self.poll_exchange(cx)) => return lost,
                error = &mut broken => return Lost::Broken(error),
                () = line.woken() => {
                    if line.begins_anew() {
                        return Lost::NoKey;
                    }
                }
                () = tokio::time::sleep(wait) => {
                    if let Err(fault) = line.tick(now()) {
                        return fault.into();
                    }
                }
            }
        }
    }

    /// Writes and reads until neither goes on; ready only when the session is over.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        loop {
            self.poll_write(cx);
            if let Err(lost) = ready!(self.poll_read(cx)) {
                return Poll::Ready(lost);
            }
        }
    }

    /// Reads once, and acts on the frames that are whole.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        let mut room = ReadBuf::new(self.buffer.room());
        if let Err(error) = ready!(self.stream.poll_read(cx, &mut room)) {
            return Poll::Ready(Err(Lost::Broken(error)));
        }
        let count = room.filled().len();
        if count == 0 {
            let lost = self.unwritable.take().map_or(Lost::Closed, Lost::Broken);
            return Poll::Ready(Err(lost));
        }
        self.buffer.end += count;
        Poll::Ready(self.take_frames())
    }

    /// Writes what there is. A host that closed takes nothing more, but what it said before is still to be read: why it
    /// closed, and when to come back. That the connection is over is seen at the end of that.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        let mut core = self.line.core();
        while self.unwritable.is_none() {
            let output = core.outbox().output();
            if output.is_empty() {
                return;
            }
            let piece = &output[..output.len().min(WRITE_BYTES)];
            match self.stream.poll_write(cx, piece) {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) => self.unwritable = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => core.outbox().wrote(count, now()),
                Poll::Ready(Err(error)) => self.unwritable = Some(error),
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), Lost> {
        let now = now();
        loop {
            let received = self.line.core().receive(self.buffer.filled(), now)?;
            if received.taken == 0 {
                break;
            }
            self.buffer.take(received.taken);
            if let Some(event) = received.event {
                self.act(event, now)?;
            } else {
                // A heartbeat's answer, a piece of something, or the end of a stream that was let go.
                self.progressed = true;
                self.line.freed();
            }
        }
        if self.line.is_open() {
            self.given.mirror.heard(now);
        }
        Ok(())
    }

    fn act(&mut self, event: GuestEvent, now: Moment) -> Result<(), Lost> {
        match event {
            GuestEvent::Challenge(nonce) => {
                let proof = self.given.keys.proof(&nonce);
                self.line.hello(self.given.mirror.read().applied(), proof, now);
            }
            GuestEvent::Ended(StreamId::SESSION, Code::Denied) => {
                self.given.keys.denied();
                self.line.denied();
            }
            GuestEvent::Ready(ack) => self.ready(ack, now)?,
            GuestEvent::LinkKey(said) => self.given.keys.take(said.key),
            GuestEvent::Session(said) => self.given.credentials.take_session(said, now),
            GuestEvent::SessionOver(said) => {
                tracing::warn!(reason = said.reason, "the host took the instance's token back");
                self.given.credentials.take_session_back();
            }
            GuestEvent::Credential(said) => self.take_credential(&said, now),
            GuestEvent::Standing(said) => {
                self.given.credentials.told();
                self.given.mirror.stand(standing(said, now), now);
            }
            GuestEvent::Pull(said) => {
                tracing::info!(every_ms = said.every_ms, "the host has the mirror asked for");
            }
            GuestEvent::AsOf(said) => {
                self.given.credentials.told();
                self.given.mirror.stand(dated(said, now), now);
                self.line.asks_again();
            }
            GuestEvent::Digest(said) => self.compare(&said, now),
            GuestEvent::GoAway(said) => return Err(Lost::GoAway(said)),
            other => {
                self.progressed = true;
                self.given.credentials.told();
                self.take(other, now)?;
            }
        }
        Ok(())
    }

    fn ready(&self, ack: HelloAck, now: Moment) -> Result<(), Lost> {
        tracing::info!(instance = %ack.instance, session = ack.session, "session with the host");
        let standing = if ack.kinds.has(Kind::Standing) {
            Standing::Unsaid
        } else {
            Standing::default()
        };
        self.given.keys.believed();
        self.given.mirror.stand(standing, now);
        self.given.credentials.begin(&ack);
        if !ack.kinds.has(Kind::Credential) {
            self.given.credentials.told();
        }
        let life = self.line.ready(ack, now);
        if matches!(life, Life::Another | Life::Mistaken) {
            tracing::info!("another life of the machine: dropping the mirror");
            self.given.mirror.forget();
        }
        // Without a mirror the next HELLO makes no claim, and the host sends a snapshot.
        match life {
            Life::Mistaken => Err(Lost::Mistaken),
            Life::First | Life::Same | Life::Another => Ok(()),
        }
    }

    /// Looks whether the mirror is what the host says, and has it replaced if it isn't.
    fn compare(&self, said: &body::MirrorDigest, now: Moment) {
        let mirror = self.given.mirror.read();
        let revision = mirror.applied();
        let is_same = || revision == Some(said.revision) && mirror.digest() == said.digest;
        if mirror.is_ahead_of(said.revision) || is_same() {
            return;
        }
        tracing::warn!(at = %said.revision, "the mirror is not what the host has: asking for all of it anew");
        self.line.core().differs(&body::Differs { revision }, now);
    }

    /// One that can't be used costs nothing but itself: what was held before stays until it runs out.
    fn take_credential(&self, said: &body::Credential, now: Moment) {
        if let Err(error) = self.given.credentials.take_credential(said, now) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "a role's credentials were not taken");
        }
    }

    /// Changes go to the mirror or to a watch, answers to whoever asked.
    fn take(&self, event: GuestEvent, now: Moment) -> Result<(), Lost> {
        match event {
            GuestEvent::Batch {
                stream: StreamId::SESSION,
                from,
                to,
                items,
                secrets,
            } => {
                let batch = Batch {
                    from,
                    to,
                    items,
                    secrets,
                };
                self.given.mirror.apply(batch, now)?;
                self.line.core().applied(StreamId::SESSION, to, now);
            }
            GuestEvent::Batch {
                stream,
                from,
                to,
                items,
                secrets,
            } => {
                let batch = WatchBatch {
                    from,
                    to,
                    items,
                    secrets,
                };
                self.line.watched(stream, batch, now);
            }
            answer => self.line.answered(answer),
        }
        Ok(())
    }
}

/// What the host says of itself, in the mirror's words. A copy that the host can't give is as good as a lost control
/// plane: nobody knows what is in it.
fn standing(said: body::Standing, now: Moment) -> Standing {
    match (said.freshness, said.revision) {
        (body::Freshness::Fresh, Some(revision)) => Standing::InStep(revision),
        (_, stands) => {
            let age_ms = said.age_ms.into();
            Standing::Behind(stands, Known { at: now, age_ms })
        }
    }
}

/// The same of a host that says of when its copy is.
fn dated(said: body::AsOf, now: Moment) -> Standing {
    let known = Known {
        at: now,
        age_ms: said.age_ms.into(),
    };
    match said.revision {
        Some(revision) if said.fresh_for_ms > 0 => {
            let fresh_until = Moment(now.0 + u64::from(said.fresh_for_ms));
            Standing::AsOf(revision, Dated { known, fresh_until })
        }
        stands => Standing::Behind(stands, known),
    }
}
