//! The body of each kind of frame, in postcard. A body never changes; see the rule in [`super`].
//!
//! Bodies that a hot path reads borrow from the receive buffer. The pieces of a value, of a relayed body and of a
//! batch (kinds `DATA` and `PART`) are plain bytes.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::kind::KindSet;
use crate::digest::Digest;
use crate::entry::Value;
use crate::id::InstanceId;
use crate::path::{EntryPath, PathPrefix};
use crate::revision::Revision;
use crate::secret::{Secret, SecretKey};

/// `CHALLENGE`: what the proof in HELLO is made over. Frozen for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Fresh random bytes for this connection.
    pub nonce: [u8; 16],
}

/// `HELLO`. Frozen for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The kinds the guest understands.
    pub kinds: KindSet,
    /// The agent's name and version, for people; 128 bytes at most.
    pub build: String,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// The VM generation id, where the machine has one.
    pub vmgenid: Option<[u8; 16]>,
    /// The incarnation the guest last spoke as.
    pub incarnation: Option<u64>,
    /// The revision its mirror stands at.
    pub applied: Option<Revision>,
    /// How far its execution journal is confirmed.
    pub journal: u64,
    /// HMAC-SHA-256 of the challenge's nonce under the link key, where a key was given.
    pub proof: Option<[u8; 32]>,
}

/// `HELLO_ACK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    /// The kinds the host understands.
    pub kinds: KindSet,
    /// The session's number, for people and logs.
    pub session: u64,
    /// The instance the host takes the guest for.
    pub instance: InstanceId,
    /// This life of the instance's VM. Another than the guest's last means: drop credentials, reseed, sync again.
    pub incarnation: u64,
    /// The deployment whose revisions these are; a mirror of another deployment is dropped.
    pub authority: String,
    /// What the host allows on this connection.
    pub limits: Limits,
    /// The host's boot-time clock, in milliseconds.
    pub boottime_ms: u64,
    /// How often the guest says PING, in milliseconds. A guest that hears nothing for three of these, or for 30 s if that
    /// is longer, hangs up; a host that hears nothing for 30 s does.
    pub heartbeat_ms: u32,
}

/// What the host allows on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The longest body of a frame, in bytes. It is for people: whatever it says, both sides keep to
    /// [`MAX_BODY`](super::frame::MAX_BODY).
    pub body: u32,
    /// The most watches and relays in use at once.
    pub streams: u16,
    /// The most other requests in use at once.
    pub requests: u16,
    /// How many bytes of `DATA` and `PART` may be sent on a stream before the first `CREDIT`.
    pub credit: u32,
    /// The longest content of a batch, in bytes.
    pub batch: u32,
}

/// `PING` and `PONG`: the answer carries the question's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Any number.
    pub number: u64,
}

/// `GOAWAY`: the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// Why, for people.
    pub reason: String,
    /// When to dial again, in milliseconds from now.
    pub reconnect_after_ms: u32,
}

/// `BUSY`: the request on this stream was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// When to ask again, in milliseconds from now.
    pub retry_after_ms: u32,
}

/// `CREDIT`: so many more bytes of `DATA` and `PART` may come on this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes, 1 or more.
    pub bytes: u32,
}

/// `CANCEL` and `RESET`: why the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// One of [`Code`], as its number.
    pub code: u16,
}

/// `BEGIN`: a batch of changes to what the guest mirrors (stream 0) or watches (any other stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// What the batch builds on; `None` for a snapshot, which replaces everything.
    pub from: Option<Revision>,
    /// Where the mirror stands once it is applied.
    pub to: Revision,
    /// The length of the content, in bytes: what all `PART`s together have.
    pub length: u32,
}

/// `COMMIT`: the batch is whole. A guest whose bytes have another digest resets the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The same as in BEGIN.
    pub to: Revision,
    /// SHA-256 of the content.
    pub digest: Digest,
}

/// `APPLIED`: the guest's mirror stands at this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The batch's `to`.
    pub revision: Revision,
}

/// `STANDING`: how far the guest's mirror can be trusted, from now until the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where the host's own copy stands; `None` if it has none to give.
    pub revision: Option<Revision>,
    /// How long ago the host last knew that this is the present state, in milliseconds.
    pub age_ms: u32,
    /// Whether it is kept in step.
    pub freshness: Freshness,
}

/// `SESSION`: the instance's own token and the key that its requests are signed with. A new one takes the place of the
/// one before; both are good for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The session's id, as text.
    pub session: String,
    /// The token, `mli_...`.
    pub token: Secret,
    /// The token's id, as text: what a signature names its key by.
    pub token_id: String,
    /// The key for `hmac-sha256` that belongs to the token.
    pub key: SecretKey,
    /// For how many milliseconds from now it is good.
    pub expires_in_ms: u64,
}

/// `SESSION_OVER`: what the last `SESSION` gave is worth nothing any more, before its time. Another may follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOver {
    /// Why, for people.
    pub reason: String,
}

/// `CREDENTIAL`: what a role's credentials are from now on. They are there whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The role's name.
    pub role: String,
    /// The credentials; `None` if there are none any more.
    pub current: Option<CredentialDocument>,
}

/// Credentials of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDocument {
    /// What kind of credentials: `aws`, `bearer`.
    pub kind: String,
    /// A JSON object, with the fields that the kind has.
    pub document: Secret,
    /// For how many milliseconds from now they are good.
    pub expires_in_ms: u64,
    /// When that is by the host's calendar, in milliseconds since 1970, for programs that ask for a date.
    pub expires_at_ms: u64,
}

/// `LINK_KEY`: what the proof in HELLO is to be made with from the next connection on. The guest keeps it where only its
/// root may read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkKey {
    /// The incarnation that it is for.
    pub incarnation: u64,
    /// The key.
    pub key: SecretKey,
}

/// `DIGEST`: what the guest mirrors where nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorDigest {
    /// Where its mirror stands.
    pub revision: Revision,
    /// Of the entries there, as [`crate::digest::ViewDigest`] makes it.
    pub digest: Digest,
}

/// `DIFFERS`: the mirror isn't what DIGEST said, and is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// Where the mirror stands; `None` if there is none.
    pub revision: Option<Revision>,
}

/// `PULL`: the host pushes nothing to the mirror, and the guest asks. It counts as the guest's first question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// How long after each answer the guest asks again, in milliseconds.
    pub every_ms: u32,
}

/// `POLL`: what has changed of the mirror?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Which question of the session this is, from 1. Nobody has to look at it.
    pub number: u64,
}

/// `AS_OF`: of when the mirror is. Unlike with [`Standing`], what else comes from the host makes it no younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// Where the host's own copy stands; `None` if it has none to give. A mirror that stands there or later is of then.
    pub revision: Option<Revision>,
    /// How long before this came the host knew that its copy was the present state, in milliseconds.
    pub age_ms: u32,
    /// For how long from now on that counts as fresh, in milliseconds; 0 for not at all.
    pub fresh_for_ms: u32,
}

/// `SECRETS`: which entries of the batch, answer or page that comes next on the stream are secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Bit `n & 7` of byte `n >> 3` is set if the entry at place `n` is secret; places are counted from 0, and what lies
    /// beyond the last byte is not.
    places: Vec<u8>,
}

impl Secrets {
    /// Marks the entry at this place.
    pub fn mark(&mut self, place: usize) {
        let byte = place >> 3;
        if self.places.len() <= byte {
            self.places.resize(byte + 1, 0);
        }
        self.places[byte] |= 1 << (place & 7);
    }

    /// Whether the entry at this place is secret.
    pub fn has(&self, place: usize) -> bool {
        let byte = self.places.get(place >> 3);
        byte.is_some_and(|byte| byte & (1 << (place & 7)) != 0)
    }

    /// Whether none is marked.
    pub fn is_empty(&self) -> bool {
        self.places.iter().all(|byte| *byte == 0)
    }
}

impl FromIterator<usize> for Secrets {
    fn from_iter<I: IntoIterator<Item = usize>>(places: I) -> Self {
        let mut secrets = Self::default();
        places.into_iter().for_each(|place| secrets.mark(place));
        secrets
    }
}

/// The content of a batch is these one after the other, without a count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which entry.
    pub path: EntryPath,
    /// What it is now; `None` if it is gone or no longer to be seen.
    pub entry: Option<Mirrored>,
}

/// An entry as a guest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirrored {
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: String,
    /// For how many milliseconds from now it is valid; `None` for ever.
    pub valid_for_ms: Option<u64>,
    /// The bytes.
    pub value: Value,
}

/// `GET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get<'a> {
    /// Whose entry; `None` for the guest's own.
    pub instance: Option<InstanceId>,
    /// Which entry.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// The oldest answer that serves, in milliseconds; `None` for whatever the host has, which says how old it is.
    pub max_age_ms: Option<u32>,
}

/// `LIST`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Whose entries; `None` for the guest's own.
    pub instance: Option<InstanceId>,
    /// Which of them.
    pub prefix: PathPrefix,
    /// Only paths after this one, in byte order: the last of the page before.
    pub after: Option<EntryPath>,
}

/// `WATCH`: batches come on this stream until it is cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Whose entries; `None` for the guest's own.
    pub instance: Option<InstanceId>,
    /// Which of them.
    pub prefix: PathPrefix,
}

/// How far an answer can be trusted to be the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Kept in step with the master copy.
    Fresh,
    /// The control plane is out of reach; by policy the last known state is served.
    Stale,
}

/// `FOUND`: an entry. A value that doesn't fit goes on in `DATA`; the last frame of the answer ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found<'a> {
    /// When it last changed.
    pub revision: Revision,
    /// How long ago the host last knew that this is the present state, in milliseconds.
    pub age_ms: u32,
    /// Whether it is kept in step.
    pub freshness: Freshness,
    /// What the bytes are.
    #[serde(borrow)]
    pub content_type: Cow<'a, str>,
    /// The value's whole length in bytes.
    pub length: u32,
    /// The first piece of it.
    #[serde(borrow, serialize_with = "at_once")]
    pub value: Cow<'a, [u8]>,
}

/// Writes bytes as bytes: the same on the wire as number by number, and many times as fast.
fn at_once<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// `LISTING`: a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The state the page shows.
    pub revision: Revision,
    /// As in FOUND.
    pub age_ms: u32,
    /// As in FOUND.
    pub freshness: Freshness,
    /// The entries in byte order of their paths.
    pub entries: Vec<Listed>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// An entry in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path.
    pub path: EntryPath,
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: String,
    /// How many there are.
    pub length: u32,
}

/// `REFUSED`: the request on this stream was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of [`Code`], as its number.
    pub code: u16,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// When asking again may help, in milliseconds from now.
    pub retry_after_ms: Option<u32>,
}

/// `RELAY`: a request for the control plane. A body that doesn't fit goes on in `DATA`. `Debug` shows no header's value:
/// one of them is the instance's token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// `GET`, `PUT`, `POST` or `DELETE`.
    pub method: String,
    /// The path and query, as the guest wrote them.
    pub target: String,
    /// The headers, as the guest wrote them.
    pub headers: Vec<(String, String)>,
    /// The body's whole length in bytes.
    pub length: u32,
    /// The first piece of it.
    pub body: Value,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Relay")
            .field("method", &self.method)
            .field("target", &self.target)
            .field("headers", &names)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// `RELAYED`: the control plane's answer. A body that doesn't fit goes on in `DATA`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// The HTTP status.
    pub status: u16,
    /// The headers a guest may see.
    pub headers: Vec<(String, String)>,
    /// The body's whole length in bytes.
    pub length: u32,
    /// The first piece of it.
    pub body: Value,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Why a stream ended or a request was refused. Numbers stay; a reader takes an unknown one for `Internal`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// The code with this number.
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Internal,
                }
            }
        }
    };
}

codes! {
    /// Something failed that the other side can't mend.
    Internal = 1,
    /// The request is not well formed.
    Invalid = 2,
    /// There is no such entry, or the guest may not know of it.
    NotFound = 3,
    /// The guest may know of it and may not do this.
    Denied = 4,
    /// Over a bound; asking less helps.
    TooMuch = 5,
    /// What would answer is out of reach; asking later may help.
    Unavailable = 6,
    /// The asker no longer wants it.
    Cancelled = 7,
    /// Nobody can say whether it was done; the same with the same idempotency key finds out.
    Unsettled = 8,
}

#[cfg(test)]
mod tests {
    use super::{Found, Freshness, Relay, Secrets};
    use crate::entry::Value;
    use crate::revision::Revision;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn just_the_marked_places_are_secret(places in prop::collection::btree_set(0usize..2_000, 0..50), at in 0usize..3_000) {
            let secrets: Secrets = places.iter().copied().collect();
            prop_assert_eq!(secrets.has(at), places.contains(&at));
            prop_assert_eq!(secrets.is_empty(), places.is_empty());
        }
    }

    #[test]
    fn a_relay_shows_no_token() {
        let relay = Relay {
            method: "PUT".into(),
            target: "/v1/x".into(),
            headers: vec![("moorline-token".into(), "mli_secret".into())],
            length: 0,
            body: Value::default(),
        };
        let shown = format!("{relay:?}");
        assert!(
            shown.contains("moorline-token") && !shown.contains("mli_"),
            "{shown}"
        );
    }

    #[test]
    fn bytes_written_at_once_are_the_same_on_the_wire() {
        let value: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        let found = Found {
            revision: Revision::new(1, 300),
            age_ms: 7,
            freshness: Freshness::Stale,
            content_type: "text/plain".into(),
            length: 1_000,
            value: value.as_slice().into(),
        };
        let one_by_one = (
            found.revision,
            7u32,
            Freshness::Stale,
            "text/plain",
            1_000u32,
            &value,
        );
        let wire = postcard::to_stdvec(&found).unwrap();
        assert_eq!(wire, postcard::to_stdvec(&one_by_one).unwrap());
        assert_eq!(postcard::from_bytes::<Found<'_>>(&wire).unwrap(), found);
    }
}
