//! What local requests and the driver share: the session core, and who waits for which answer.

mod driven;
mod shares;
mod watching;

pub use shares::Asking;
pub use watching::Watching;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::Revision;
use moorline_shared::agent::{Identity, LinkState, LinkStatus};
use moorline_shared::link::body::{
    Code, Found, Get, Item, List, Listing, Refused, Relay, Relayed, Secrets, Watch,
};
use moorline_shared::link::session::{AskError, Bound, Guest};
use moorline_shared::link::{Kind, Moment, StreamId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::platform::now;
use shares::Shares;

/// How long the host may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The way to the host. It belongs to one thread.
#[derive(Debug)]
pub struct Line {
    state: RefCell<State>,
    /// The driver has something to write.
    wake: Notify,
    /// A request ended, so that another may begin.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    endpoint: String,
    core: Guest,
    link: LinkState,
    since: Moment,
    last_error: Option<String>,
    identity: Option<Identity>,
    /// The next HELLO says nothing of this life: the mirror refused a batch, the host didn't believe the last HELLO, or
    /// whoever signs has no key that counts.
    anew: bool,
    /// The incarnation of whose mirror the last HELLO spoke.
    claimed: Option<u64>,
    asks: u64,
    waiting: BTreeMap<StreamId, Waiting>,
    shares: Shares,
}

impl State {
    /// Sends a request, if there is room for it in the host's bound and in the share of whoever asks.
    fn send(
        &mut self,
        (asking, bound): (Asking, Bound),
        send: impl FnOnce(&mut Guest, Moment) -> Result<StreamId, AskError>,
        now: Moment,
    ) -> Result<StreamId, AskError> {
        self.shares.forget_all_but(|stream| self.core.is_in_use(stream));
        if !self.shares.has_room(asking, bound, self.core.most(bound)) {
            return Err(AskError::TooMany);
        }
        let stream = send(&mut self.core, now)?;
        self.shares.asked(stream, asking, bound);
        Ok(stream)
    }
}

#[derive(Debug)]
struct Waiting {
    ask: u64,
    reply: Reply,
}

#[derive(Debug)]
enum Reply {
    Found(oneshot::Sender<Answer<(Found<'static>, Secrets)>>),
    Listing(oneshot::Sender<Answer<(Listing, Secrets)>>),
    Relayed(oneshot::Sender<Answer<Relayed>>),
    Watch(mpsc::Sender<Answer<WatchBatch>>),
}

type Answer<T> = Result<T, AskFailure>;

/// Why the host didn't do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskFailure {
    /// No session is open.
    #[error("the host is out of reach")]
    Away,
    /// The session ended before the answer came.
    #[error("the link to the host broke before the answer came")]
    Lost,
    /// The host is of an older build.
    #[error("the host doesn't understand {0:?} frames")]
    NotUnderstood(Kind),
    /// The host has too much to do.
    #[error("the host is busy")]
    Busy {
        /// When to ask again, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// The host said no.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The host ended the stream.
    #[error("the host broke the answer off")]
    Ended(Code),
    /// No answer came in time.
    #[error("the host didn't answer within 30 s")]
    NoAnswer,
    /// Method, target and headers are more than the link can carry.
    #[error("{0}; ask with fewer or shorter headers")]
    TooLong(AskError),
}

impl AskFailure {
    /// Whether a relayed request that failed so may be done all the same.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Lost | Self::Ended(_) | Self::NoAnswer => true,
            Self::Refused(refused) => Code::from_number(refused.code) == Code::Unsettled,
            Self::Away | Self::NotUnderstood(_) | Self::Busy { .. } | Self::TooLong(_) => false,
        }
    }
}

impl From<AskError> for AskFailure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotOpen => Self::Away,
            AskError::TooMany => Self::Busy {
                retry_after_ms: 1_000,
            },
            AskError::NotUnderstood(kind) => Self::NotUnderstood(kind),
            AskError::TooLong { .. } => Self::TooLong(error),
        }
    }
}

/// A batch of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// What it builds on; `None` for a snapshot.
    pub from: Option<Revision>,
    /// Where the watch stands then.
    pub to: Revision,
    /// What changed.
    pub items: Vec<Item>,
    /// Which of these are secret.
    pub secrets: Secrets,
}

/// Whether the host takes the guest for who it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) enum Life {
    First,
    Same,
    /// The host knows that it is another, and sends a snapshot.
    Another,
    /// It is another instance or deployment, but HELLO fitted it by chance: the host may believe that the mirror is in
    /// step.
    Mistaken,
}

impl Line {
    /// No session yet; `endpoint` is for people.
    pub fn new(endpoint: &impl ToString) -> Self {
        let state = State {
            endpoint: endpoint.to_string(),
            core: Guest::new(now()),
            link: LinkState::Connecting,
            since: now(),
            last_error: None,
            identity: None,
            anew: false,
            claimed: None,
            asks: 0,
            waiting: BTreeMap::new(),
            shares: Shares::default(),
        };
        Self {
            state: RefCell::new(state),
            wake: Notify::new(),
            freed: Notify::new(),
        }
    }

    /// Ends the session with the host, and has the next HELLO say that this guest has nothing of this life: then the host
    /// gives it another token in place of the one it has, and a snapshot.
    pub fn begin_anew(&self) {
        self.state.borrow_mut().anew = true;
        self.wake.notify_one();
    }

    /// Who the host says this guest is; `None` before the first session.
    pub fn identity(&self) -> Option<Identity> {
        self.state.borrow().identity.clone()
    }

    /// Whether no session is open, so that asking is in vain.
    pub fn is_away(&self) -> bool {
        !self.is_open()
    }

    /// Waits until a session is open. Dropping the future is harmless.
    pub async fn opened(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before the look, so that a session that opens in between is not missed.
            freed.as_mut().enable();
            if self.is_open() {
                return;
            }
            freed.await;
        }
    }

    /// How the link fares at `now`.
    pub fn status(&self, now: Moment) -> LinkStatus {
        let state = self.state.borrow();
        LinkStatus {
            state: state.link,
            endpoint: state.endpoint.clone(),
            for_ms: now.since(state.since),
            last_error: state.last_error.clone(),
        }
    }

    /// Asks for an entry, and whether it is secret: then the place 0 is marked. Dropping the future takes the question
    /// back, here and below.
    pub async fn get(&self, asking: Asking, get: &Get<'_>) -> Result<(Found<'static>, Secrets), AskFailure> {
        let send = |core: &mut Guest, now| core.get(get, now);
        self.ask((asking, Bound::Requests), send, Reply::Found).await
    }

    /// Asks for a page of a listing, and which of its entries are secret.
    pub async fn list(&self, asking: Asking, list: &List) -> Result<(Listing, Secrets), AskFailure> {
        let send = |core: &mut Guest, now| core.list(list, now);
        self.ask((asking, Bound::Requests), send, Reply::Listing).await
    }

    /// Has the host pass a request on to the control plane.
    pub async fn relay(&self, relay: &Relay) -> Result<Relayed, AskFailure> {
        let send = |core: &mut Guest, now| core.relay(relay.clone(), now);
        self.ask((Asking::Agent, Bound::Streams), send, Reply::Relayed)
            .await
    }

    /// Asks for batches of changes, and waits for the first, which is a snapshot.
    pub async fn watch(self: &Rc<Self>, asking: Asking, watch: &Watch) -> Result<Watching, AskFailure> {
        // The host sends one batch at a time, and a refusal may follow it.
        let (sender, batches) = mpsc::channel(2);
        let send = |core: &mut Guest, now| core.watch(watch, now);
        let (stream, ask) = self
            .open((asking, Bound::Streams), send, Reply::Watch(sender))
            .await?;
        let begun = Watching::begin(Rc::clone(self), stream, ask, batches);
        let begun = timeout(ANSWER_TIMEOUT, begun).await;
        begun.unwrap_or(Err(AskFailure::NoAnswer))
    }

    async fn ask<T>(
        &self,
        of: (Asking, Bound),
        send: impl FnMut(&mut Guest, Moment) -> Result<StreamId, AskError>,
        reply: impl FnOnce(oneshot::Sender<Answer<T>>) -> Reply,
    ) -> Answer<T> {
        let (sender, answer) = oneshot::channel();
        let (stream, ask) = self.open(of, send, reply(sender)).await?;
        let _ticket = Ticket {
            line: self,
            stream,
            ask,
        };
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.unwrap_or(Err(AskFailure::Lost)),
            Err(_) => Err(AskFailure::NoAnswer),
        }
    }

    /// Sends a request as soon as the host's bound on requests and the share of whoever asks allow it. What can't be
    /// sent in time was not sent.
    async fn open(
        &self,
        of: (Asking, Bound),
        send: impl FnMut(&mut Guest, Moment) -> Result<StreamId, AskError>,
        reply: Reply,
    ) -> Answer<(StreamId, u64)> {
        let sending = timeout(ANSWER_TIMEOUT, self.open_when_free(of, send, reply));
        sending.await.unwrap_or_else(|_| Err(AskError::TooMany.into()))
    }

    async fn open_when_free(
        &self,
        of: (Asking, Bound),
        mut send: impl FnMut(&mut Guest, Moment) -> Result<StreamId, AskError>,
        reply: Reply,
    ) -> Answer<(StreamId, u64)> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let now = now();
            if let Some(retry_after_ms) = self.state.borrow().shares.rest(of.0, now) {
                return Err(AskFailure::Busy { retry_after_ms });
            }
            // A statement of its own: the state must be free again when the answer is awaited or registered.
            let opened = self.state.borrow_mut().send(of, &mut send, now);
            match opened {
                Ok(stream) => return Ok((stream, self.wait_for(stream, reply))),
                Err(AskError::TooMany) => freed.await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_for(&self, stream: StreamId, reply: Reply) -> u64 {
        let mut state = self.state.borrow_mut();
        state.asks += 1;
        let ask = state.asks;
        state.waiting.insert(stream, Waiting { ask, reply });
        self.wake.notify_one();
        ask
    }

    /// Nobody waits for this answer any more.
    fn take_back(&self, stream: StreamId, ask: u64) {
        let mut state = self.state.borrow_mut();
        if state
            .waiting
            .get(&stream)
            .is_some_and(|waiting| waiting.ask == ask)
        {
            state.waiting.remove(&stream);
            state.core.cancel(stream, now());
            self.wake.notify_one();
        }
    }
}

/// Takes a question back when nobody waits for its answer any more.
struct Ticket<'a> {
    line: &'a Line,
    stream: StreamId,
    ask: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.line.take_back(self.stream, self.ask);
    }
}
