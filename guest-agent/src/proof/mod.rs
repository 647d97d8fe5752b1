//! Proves to the control plane that a request is this instance's: signs it, with the token that the host gave it.
//!
//! [`Prover::relay`] is the way of every change. It signs the request anew each time that it is sent, with the key that
//! came with the token, or with a key of this guest's own as soon as the control plane knows that: [`Prover::keep`] makes
//! one for each session and has it known. From then on the host can't sign for this guest, though it has the token.
//!
//! The time in a signature must be the control plane's, which refuses others and says what time it is; see [`Clock`].

mod clock;
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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::credentials::{Credentials, InstanceToken};
use crate::link::{AskFailure, Line};
use crate::platform::now;

pub use clock::Clock;
use signer::{Key, OwnKey, keyed, signed};
pub use signer::{SignError, fresh_key};

/// How long a failed identification waits for its next try, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

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

impl Own {
    fn make(token: &InstanceToken) -> Option<Rc<Self>> {
        let session = token.session.clone();
        OwnKey::make().map(|key| Rc::new(Self { session, key }))
    }
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
        let answer = self.line.relay(&self.signed(plain, token, key)?).await?;
        if answer.status == UNAUTHORIZED && self.learn(&answer) {
            return Ok(self.line.relay(&self.signed(plain, token, key)?).await?);
        }
        Ok(answer)
    }

    fn signed(&self, plain: &Relay, token: &InstanceToken, key: Key<'_>) -> Result<Relay, ProveError> {
        let authority = self.line.identity().map(|own| own.authority).unwrap_or_default();
        let created = self.clock.borrow().at(now(), calendar_ms());
        Ok(signed(plain, &authority, token, key, created)?)
    }

    /// Sets the clock by what an answer says; whether it was wrong.
    fn learn(&self, answer: &Relayed) -> bool {
        let mut headers = answer.headers.iter();
        let said = headers.find(|(name, _)| name == SERVER_TIME);
        let time = said.and_then(|(_, text)| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| self.clock.borrow_mut().learn(time.millis(), now(), calendar_ms()))
    }

    /// Has a key of this guest's own known for each session that the host gives it, until `stop` is cancelled.
    ///
    /// Dropping the future is harmless: a key that may be known and isn't sure to be is not used.
    pub async fn keep(&self, stop: &CancellationToken) {
        // Nothing is lost with it: what was sent is sent again.
        let _ = stop.run_until_cancelled(self.keep_identified()).await;
    }

    async fn keep_identified(&self) {
        let (mut offered, mut pause) = (None, FIRST_PAUSE);
        loop {
            let token = self
                .credentials
                .until(|held| self.unidentified(held.session(now())?))
                .await;
            let again = offered
                .take()
                .filter(|own: &Rc<Own>| own.session == token.session);
            let is_first = again.is_none();
            let Some(own) = again.or_else(|| Own::make(&token)) else {
                return tracing::error!(
                    "the kernel gives no random bytes, so that this guest has no key of its own"
                );
            };
            pause = if is_first {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            match self.identify(&token, &own).await {
                Ok(()) => *self.own.borrow_mut() = Some(own),
                Err(reason) => {
                    tracing::debug!(%reason, "the control plane doesn't know this guest's key yet");
                    offered = Some(own);
                    self.pause(pause, &token.session).await;
                }
            }
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

    async fn identify(&self, token: &InstanceToken, own: &Own) -> Result<(), String> {
        let Some(identity) = self.line.identity() else {
            return Err("there is no session with the host".to_owned());
        };
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
        let plain = keyed(plain).map_err(|error| error.to_string())?;
        // If an earlier try was done and its answer lost, only this key counts already.
        let mut status = 0;
        for own in [None, Some(own)] {
            let answer = self
                .send(&plain, token, own)
                .await
                .map_err(|error| error.to_string())?;
            status = answer.status;
            if status != UNAUTHORIZED {
                break;
            }
        }
        if status == OK {
            Ok(())
        } else {
            Err(format!("it answered with status {status}"))
        }
    }
}

/// What this machine's calendar says, in milliseconds since 1970.
fn calendar_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
