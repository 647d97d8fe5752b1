//! Proves to the control plane that a request is this instance's: signs it, with the token that the host gave it.
//!
//! [`Prover::relay`] is the way of every change. It signs the request anew each time that it is sent, with the key that
//! came with the token, or with a key of this guest's own as soon as the control plane knows that: [`Prover::keep`] makes
//! one for each session and has it known. From then on the host can't sign for this guest, though it has the token. An agent
//! that began anew may be given the session of the one before, which knows another key: then it asks for another session
//! ([`Line::begin_anew`]).
//!
//! The time in a signature must be the control plane's, which refuses others and says what time it is; see [`Clock`].

mod signer;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_shared::Timestamp;
use moorline_shared::api::SERVER_TIME;
use moorline_shared::api::session::IdentifyInstance;
use moorline_shared::entry::Value;
use moorline_shared::link::body::{Relay, Relayed};
use moorline_shared::signature::{Clock, Seconds};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::credentials::{Credentials, InstanceToken};
use crate::link::{AskFailure, Line};
use crate::platform::now;

use signer::{Key, OwnKey, keyed, signed};
pub use signer::{SignError, fresh_key};

/// How long a failed identification waits for its next try, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a session is tried at most that takes neither key. It begins with [`FIRST_PAUSE`] and doubles with each
/// session that was given up: a control plane that takes nothing of this guest's isn't made to keep one after the other.
const LONGEST_PATIENCE: Duration = Duration::from_hours(1);

const OK: u16 = 200;
const UNAUTHORIZED: u16 = 401;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It can't be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The host didn't answer.
    #[error(transparent)]
    Ask(#[from] AskFailure),
}

/// Signs requests and has the host pass them on. It belongs to one thread.
#[derive(Debug)]
pub struct Prover {
    line: Rc<Line>,
    credentials: Rc<Credentials>,
    clock: RefCell<Clock>,
    own: RefCell<Option<Rc<Own>>>,
}

/// This guest's own key for one session.
#[derive(Debug)]
struct Own {
    session: String,
    key: OwnKey,
}

/// A key of this guest's own that the control plane may know by now, and isn't sure to.
#[derive(Debug)]
struct Offer {
    own: Rc<Own>,
    /// How long it waits for its next try.
    pause: Duration,
    /// How long it has waited since it was refused first.
    waited: Duration,
}

impl Offer {
    fn make(token: &InstanceToken) -> Option<Self> {
        let session = token.session.clone();
        OwnKey::make().map(|key| Self {
            own: Rc::new(Own { session, key }),
            pause: FIRST_PAUSE,
            waited: Duration::ZERO,
        })
    }

    /// Whether it has been refused for as long as `patience`. Then that begins anew.
    fn is_given_up(&mut self, reason: &NotIdentified, patience: Duration) -> bool {
        let is_refused = matches!(reason, NotIdentified::Refused);
        let is_over = is_refused && self.waited >= patience;
        if is_over || !is_refused {
            self.waited = Duration::ZERO;
        }
        is_over
    }

    /// Returns how long to wait now.
    fn wait(&mut self) -> Duration {
        let pause = self.pause;
        self.waited += pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Why the control plane doesn't know a key of this guest's for sure.
#[derive(Debug, thiserror::Error)]
enum NotIdentified {
    /// It takes neither the key that came with the token nor this guest's own: it knows another, of an agent before this.
    #[error("it takes neither key of this guest's")]
    Refused,
    /// It answered something else.
    #[error("it answered with status {0}")]
    Status(u16),
    /// It was not asked, or didn't answer.
    #[error(transparent)]
    Prove(#[from] ProveError),
}

impl Prover {
    /// Signs with what is held in `credentials`, and sends over `line`.
    pub fn new(line: Rc<Line>, credentials: Rc<Credentials>) -> Self {
        Self {
            line,
            credentials,
            clock: RefCell::default(),
            own: RefCell::default(),
        }
    }

    /// Has the host pass a request on to the control plane, signed.
    ///
    /// Each call signs it anew. One without an idempotency key is given one. Without a token a request goes as it is, and
    /// the control plane says what is missing.
    ///
    /// Dropping the future takes the question back; whether the request is done is then not known, nor is it after a
    /// failure of which [`AskFailure::may_be_done`] says so.
    pub async fn relay(&self, plain: &Relay) -> Result<Relayed, ProveError> {
        let plain = &keyed(plain.clone())?;
        let Some(token) = self.credentials.session() else {
            return Ok(self.line.relay(plain).await?);
        };
        let own = self.own_of(&token);
        let answer = self.send(plain, &token, own.as_deref()).await?;
        // Meanwhile the control plane may have got to know this guest's own key, or the host may have given it a new token.
        match (answer.status, self.credentials.session()) {
            (UNAUTHORIZED, Some(newer)) => {
                let newer_own = self.own_of(&newer);
                if own.is_none() && newer_own.is_some() || newer.token_id != token.token_id {
                    return self.send(plain, &newer, newer_own.as_deref()).await;
                }
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    /// The key of this guest that the control plane knows in the token's session.
    fn own_of(&self, token: &InstanceToken) -> Option<Rc<Own>> {
        let own = self.own.borrow();
        own.as_ref()
            .filter(|own| own.session == token.session)
            .map(Rc::clone)
    }

    /// Sends a request; once more if the control plane says that it is another time.
    async fn send(
        &self,
        plain: &Relay,
        token: &InstanceToken,
        own: Option<&Own>,
    ) -> Result<Relayed, ProveError> {
        let key = own.map_or(Key::Shared(&token.key), |own| Key::Own(&own.key));
        let authority = self.line.identity().map(|own| own.authority).unwrap_or_default();
        let created = self.time();
        let request = signed(plain, &authority, token, key, created)?;
        let answer = self.line.relay(&request).await?;
        if answer.status == UNAUTHORIZED && self.learn(&answer, created) {
            let request = signed(plain, &authority, token, key, self.time())?;
            return Ok(self.line.relay(&request).await?);
        }
        Ok(answer)
    }

    /// The control plane's time, as far as it is known.
    fn time(&self) -> Seconds {
        self.clock.borrow().at(now(), calendar_ms())
    }

    /// Sets the clock by what the answer to what was signed at `created` says; whether that was another time.
    fn learn(&self, answer: &Relayed, created: Seconds) -> bool {
        let mut headers = answer.headers.iter();
        let said = headers.find(|(name, _)| name == SERVER_TIME);
        let time = said.and_then(|(_, text)| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| self.clock.borrow_mut().learn(time.millis(), created, now()))
    }

    /// Has a key of this guest's own known for each session that the host gives it, until `stop` is cancelled.
    ///
    /// Dropping the future is harmless: a key that may be known and isn't sure to be is not used.
    pub async fn keep(&self, stop: &CancellationToken) {
        // Nothing is lost with it: what was sent is sent again.
        let _ = stop.run_until_cancelled(self.keep_identified()).await;
    }

    async fn keep_identified(&self) {
        let (mut offered, mut patience) = (None, FIRST_PAUSE);
        loop {
            let token = self
                .credentials
                .until(|held| self.unidentified(held.session(now())?))
                .await;
            let again = offered
                .take()
                .filter(|offer: &Offer| offer.own.session == token.session);
            let Some(mut offer) = again.or_else(|| Offer::make(&token)) else {
                return tracing::error!(
                    "the kernel gives no random bytes, so that this guest has no key of its own"
                );
            };
            match self.identify(&token, &offer.own).await {
                Ok(()) => {
                    *self.own.borrow_mut() = Some(offer.own);
                    patience = FIRST_PAUSE;
                    continue;
                }
                Err(reason) => {
                    tracing::debug!(%reason, "the control plane doesn't know this guest's key yet");
                    if offer.is_given_up(&reason, patience) {
                        self.line.begin_anew();
                        patience = (patience * 2).min(LONGEST_PATIENCE);
                    }
                }
            }
            self.pause(offer.wait(), &token.session).await;
            offered = Some(offer);
        }
    }

    /// Waits for a while, or until the host gives a token of another session.
    async fn pause(&self, pause: Duration, session: &str) {
        let another = self.credentials.until(|held| {
            held.session(now())
                .is_some_and(|token| token.session != session)
                .then_some(())
        });
        // Either is a reason to go on.
        let _ = timeout(pause, another).await;
    }

    /// The token, if the control plane knows no key of this guest in its session.
    fn unidentified(&self, token: &Rc<InstanceToken>) -> Option<Rc<InstanceToken>> {
        self.own_of(token).is_none().then(|| Rc::clone(token))
    }

    async fn identify(&self, token: &InstanceToken, own: &Own) -> Result<(), NotIdentified> {
        let identity = self.line.identity().ok_or(AskFailure::Away);
        let identity = identity.map_err(ProveError::from)?;
        let asked = IdentifyInstance {
            public_key: Some(own.key.public()),
        };
        // A struct of one text is always JSON.
        let body = serde_json::to_vec(&asked).unwrap_or_default();
        let plain = Relay {
            method: "POST".to_owned(),
            target: format!("/v1/instances/{}/identify", identity.instance),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            length: 0,
            body: Value::from(bytes::Bytes::from(body)),
        };
        let plain = keyed(plain).map_err(ProveError::from)?;
        // If an earlier try was done and its answer lost, only this key counts already.
        for own in [None, Some(own)] {
            match self.send(&plain, token, own).await?.status {
                OK => return Ok(()),
                UNAUTHORIZED => {}
                status => return Err(NotIdentified::Status(status)),
            }
        }
        Err(NotIdentified::Refused)
    }
}

/// What this machine's calendar says, in milliseconds since 1970.
fn calendar_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
