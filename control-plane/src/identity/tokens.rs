//! Where tokens are made and checked: the one place that every way to show one goes through.

use std::cell::RefCell;
use std::sync::Arc;

use moorline_shared::Timestamp;
use moorline_shared::id::ClientName;
use moorline_shared::secret::SecretKey;

use super::draw;
use super::keys::Ring;
use super::records::SessionRecord;
use super::sessions::{FollowError, Sessions, Standing};
use super::token::{Bundle, Grant, KeyId, KeyRing, Kind, OpenError, Opening, Token, TokenId};
use crate::identity::records::SessionPurpose;

/// Makes tokens, and says whose they are. Clones share the sessions and the key ring.
#[derive(Clone, Debug)]
pub struct Tokens {
    sessions: Arc<Sessions>,
    ring: Ring,
}

/// A token that was made.
#[derive(Debug)]
pub struct Minted {
    /// What it is shown by.
    pub token: Token,
    /// Its id.
    pub id: TokenId,
    /// The key that sealed it.
    pub key: KeyId,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What is known of whoever shows a token.
#[derive(Debug)]
pub struct Known {
    /// What the token says.
    pub bundle: Bundle,
    /// The key that sealed it.
    pub key: KeyId,
}

/// Why a token is not taken. Callers are told only that it isn't; this is for records and tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// It doesn't open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is good for something else.
    #[error("the token is not of the kind that is shown here")]
    Kind,
    /// Its session doesn't stand.
    #[error("the token's session does not stand: {0:?}")]
    Session(Standing),
    /// There are no keys yet.
    #[error("no token can be checked before there is a key")]
    NoRing,
}

/// Why no token is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// There are no keys yet.
    #[error("no token can be made before there is a key")]
    NoRing,
    /// The kernel gives no randomness.
    #[error("no token can be made: the kernel gives no random bytes")]
    Random,
}

impl Tokens {
    /// Makes and checks tokens of these sessions with this ring.
    pub(super) const fn new(sessions: Arc<Sessions>, ring: Ring) -> Self {
        Self { sessions, ring }
    }

    /// The sessions.
    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The key ring.
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Waits until everything that was committed up to transaction `n` counts here. Cancel-safe.
    ///
    /// # Errors
    /// [`FollowError`] if the store ended or can't be read.
    pub async fn reach(&self, n: u64) -> Result<(), FollowError> {
        self.sessions.reach(n, &self.ring).await
    }

    /// Makes a token of a session that is good for `lifetime` seconds from `now`, and no longer than the session.
    ///
    /// Nothing is kept of it.
    ///
    /// # Errors
    /// [`MintError`] if there is no key or no randomness.
    pub fn mint(
        &self,
        kind: Kind,
        session: &SessionRecord,
        grant: Grant,
        client: Option<ClientName>,
        lifetime: u32,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        let random = draw::one().map_err(|_| MintError::Random)?;
        let incarnation = match &session.purpose {
            SessionPurpose::Instance(part) => Some(part.incarnation),
            SessionPurpose::Login | SessionPurpose::Program { .. } => None,
        };
        let bundle = Bundle {
            kind,
            token: random.id_in(&session.id),
            session: session.id,
            grant,
            issued: now,
            expires: now.plus_seconds(lifetime).min(session.expires_at),
            subject: session.principal.clone(),
            directory: session.directory.clone(),
            account: session.account.clone(),
            client,
            incarnation,
        };
        let sealed = self
            .ring
            .with(|ring| (ring.seal(&bundle, &random.nonce), ring.primary()));
        let (token, key) = sealed.ok_or(MintError::NoRing)?;
        Ok(Minted {
            token,
            id: bundle.token,
            key,
            expires_at: bundle.expires,
        })
    }

    /// Says whose token `text` is, if it is one of `kinds` and good at `now`, its session included.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why it is not. Whoever showed it is told no more than that, and the time.
    pub fn validate(&self, text: &str, kinds: &[Kind], now: Timestamp) -> Result<Known, TokenRefusal> {
        thread_local! {
            // One for each thread, since wiping one takes as long as opening a token.
            static OPENING: RefCell<Opening> = const { RefCell::new(Opening::new()) };
        }
        let check = |ring: &KeyRing| {
            OPENING.with_borrow_mut(|opening| {
                let token = ring.unseal(text, now, opening)?;
                if !kinds.contains(&token.kind()) {
                    return Err(TokenRefusal::Kind);
                }
                let (session, grant) = token.hangs_on();
                let bundle = self
                    .sessions
                    .if_stands(&session, grant, now, || token.bundle())
                    .map_err(TokenRefusal::Session)??;
                let key = token.key();
                Ok(Known { bundle, key })
            })
        };
        self.ring.with(check).unwrap_or(Err(TokenRefusal::NoRing))
    }

    /// The key that requests are signed with which go with the token `token`, sealed by key `sealed_by`. It is never
    /// kept: it is made of these two again. `None` if that key was destroyed.
    pub fn signing_key(&self, token: &TokenId, sealed_by: KeyId) -> Option<SecretKey> {
        self.ring.with(|ring| ring.signing_key(token, sealed_by))?
    }
}
