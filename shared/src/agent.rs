//! The bodies of the agent's native local surface: HTTP/1.1 on a unix socket inside the guest, version 1.
//!
//! | request | for |
//! |---|---|
//! | `GET /v1/status` | people and health checks: [`Status`] |
//! | `GET /v1/data/{path}` | programs: the entry's bytes and nothing else, by any `curl` |
//! | `GET /v1/data/{prefix}/`, `GET /v1/data?prefix=` | what there is: [`Listing`], with the values by `values=true` |
//! | `GET /v1/entries/{path}` | one entry with what is known about it: [`EntryReading`] |
//! | `GET /v1/watch?prefix=&after=` | every change from now on or from a revision on: lines of [`WatchEvent`] |
//! | `PUT`, `POST`, `DELETE /v1/data/{path}` | the instance's own changes: put, append, delete |
//! | `GET /v1/writes` | which changes are under way or in doubt: [`OpenWrites`] |
//! | `GET /v1/writes/{key}` | what became of the change that was asked for under this key: [`WriteStatus`] |
//! | `GET /v1/credentials` | which credentials the agent holds, without their secrets: [`CredentialsHeld`] |
//! | `GET /v1/credentials/{role}` | the credentials of a role: [`RoleCredentials`] |
//! | data, entries and watch below `/v1/instances/{id}` | another instance's data, as far as its access lists allow |
//!
//! **Bytes and listings** carry `ETag`: an entry's revision, the mirror's for a listing, in the form `"EPOCH.N"`;
//! `If-None-Match` answers 304. They also carry [`AGE_MS`] and [`FRESHNESS`]. `max_age_ms=N` asks for nothing older
//! than that, which may cost a question to the host. An entry that is absent answers 404 with the `ETag` of its
//! removal where that is remembered, otherwise `"0.0"`.
//!
//! **Long poll**: `wait_for_change=true&last_etag=E&timeout_sec=N` on bytes and listings answers at once if the present
//! `ETag` isn't E, otherwise with the next change, and after N seconds (1 to 300, 60 by default) with the present state.
//! Without `last_etag` it waits for the next change.
//!
//! **Changes** go to the control plane through the host: `PUT` takes the raw bytes and `Content-Type`, with `ttl=` in
//! seconds and `visibility=` as parameters (`application/x-www-form-urlencoded`, which `curl --data` says of anything,
//! counts as no type); `POST` appends the raw bytes. `If-Match`, `If-None-Match` and
//! `Idempotency-Key` are passed on, and the control plane's answer comes back as it is, with the key that the change is
//! known by, which the agent makes if the program gave none. Either the control plane and the mirror have the change, or
//! neither. [`MIRRORED`] says `true` where the mirror has it already, so that what is read next is what was written, and
//! `false` where it has yet to come. What the mirror would have no room for is refused with 409 before it is sent. An
//! answer that is lost on its way is asked for again; if it can't be had in time, the answer is 503 `outcome-unknown`, and
//! the same request with the same key, now or after a restart of the program or the agent, finds out, or makes the
//! change: once at most. A change is made in the
//! instance's name, so only programs of root make any: the agent asks the kernel for the user of each connection
//! (`SO_PEERCRED`), and to others answers 403. Who reads what is for the guest's access rules to say; without any, secret
//! entries are root's and all else is everyone's. What a program may not read is to it as if it weren't there.
//!
//! **Credentials** are good until `expires_at` by the host's calendar, and the agent gives none out that has run out by its
//! own count. New ones take the place of old ones long before that. Right after the boot, or while the host still fetches
//! the first ones, a request for a role's credentials waits for them for a few seconds.
//!
//! Errors are [`crate::api::ProblemDetails`]. Parameters that no request knows are refused, not overlooked.

use serde::{Deserialize, Serialize};

use crate::api::ProblemDetails;
use crate::credential::CredentialKind;
use crate::entry::Value;
use crate::id::{IdempotencyKey, InstanceId, OperationId, RoleName};
use crate::link::body;
use crate::path::EntryPath;
use crate::revision::Revision;
use crate::time::Timestamp;

/// Where the agent listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/moorline/agent.sock";
/// The response header that says how long ago the answer was known to be the present state, in milliseconds.
pub const AGE_MS: &str = "moorline-age-ms";
/// The response header that says whether the answer is kept in step: `fresh` or `stale`.
pub const FRESHNESS: &str = "moorline-freshness";

/// The response header that says whether the mirror has the change that was made: `true` or `false`.
pub const MIRRORED: &str = "moorline-mirrored";

/// How far an answer can be trusted to be the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Kept in step with the master copy.
    Fresh,
    /// The host, or the control plane behind it, is out of reach; this is the last known state.
    Stale,
}

impl Freshness {
    /// The word in [`FRESHNESS`] and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
        }
    }
}

impl From<body::Freshness> for Freshness {
    fn from(wire: body::Freshness) -> Self {
        match wire {
            body::Freshness::Fresh => Self::Fresh,
            body::Freshness::Stale => Self::Stale,
        }
    }
}

/// `GET /v1/status`: who the guest is and how its agent fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's name and version.
    pub build: String,
    /// The connection to the host.
    pub link: LinkStatus,
    /// Who the host says this guest is; absent until the first session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What the agent holds; absent until the first snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorStatus>,
}

/// The connection to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Whether a session is open.
    pub state: LinkState,
    /// Where the agent dials.
    pub endpoint: String,
    /// For how many milliseconds it has been so.
    pub for_ms: u64,
    /// Why the last session ended or the last attempt failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Whether a session with the host is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// It is open.
    Connected,
    /// The agent dials, or waits before it dials again.
    Connecting,
}

/// Who the host says this guest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The instance.
    pub instance: InstanceId,
    /// Which life of the instance's VM this is.
    pub incarnation: u64,
    /// The deployment whose revisions the mirror has.
    pub authority: String,
    /// The session's number, as in the host's logs.
    pub session: u64,
}

/// What the agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Where the mirror stands.
    pub revision: Revision,
    /// How many entries there are.
    pub entries: u64,
    /// The length of all their values together, in bytes.
    pub bytes: u64,
    /// How long ago this was known to be the present state, in milliseconds: since the host last spoke, or since it last
    /// heard of the control plane if it has lost that.
    pub age_ms: u64,
    /// Whether it is kept in step.
    pub freshness: Freshness,
}

/// An entry in a listing or in a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name within the instance.
    pub path: EntryPath,
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: String,
    /// How many bytes there are.
    pub length: u64,
    /// The bytes; absent in listings that didn't ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// `GET /v1/entries/{path}`: an entry and how far it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReading {
    /// Its name within the instance.
    pub path: EntryPath,
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: String,
    /// How many bytes there are.
    pub length: u64,
    /// The bytes.
    pub value: Value,
    /// How long ago this was known to be the present state, in milliseconds.
    pub age_ms: u64,
    /// Whether it is kept in step.
    pub freshness: Freshness,
}

/// A listing: one state, never half of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The state it shows.
    pub revision: Revision,
    /// How long ago this was known to be the present state, in milliseconds.
    pub age_ms: u64,
    /// Whether it is kept in step.
    pub freshness: Freshness,
    /// The entries in byte order of their paths.
    pub entries: Vec<Entry>,
}

/// A line of `GET /v1/watch`. The first is a bookmark, unless the watch resumes.
///
/// Each line can be applied again without harm. A watch that resumes may see once more what ran out at the revision it
/// resumes from: that happens without a commit, so no revision says whether it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WatchEvent {
    /// Changes that became visible together, as far as they are watched.
    Changes {
        /// Where the mirror stands with them.
        revision: Revision,
        /// What became of which entry.
        changes: Vec<EntryChange>,
    },
    /// Nothing else happened up to here: the point to resume from.
    Bookmark {
        /// Where the mirror stands.
        revision: Revision,
    },
    /// Changes were lost to the watcher: list again, then watch from the listing's revision. The stream ends here.
    Resync {
        /// The oldest revision from which a watch can begin.
        revision: Revision,
    },
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChange {
    /// Which entry.
    pub path: EntryPath,
    /// What it is now; absent if it is gone or may no longer be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// `GET /v1/writes`: the changes whose outcome isn't known yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWrites {
    /// In the order of their keys.
    pub writes: Vec<WriteStatus>,
}

/// `GET /v1/writes/{key}`: what became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteStatus {
    /// What it was asked for under.
    pub key: IdempotencyKey,
    /// What became of it.
    pub state: WriteState,
    /// How it was asked for; absent where the agent knows of it by the control plane only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What it was asked of, as the control plane knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The control plane's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// The revision of the record: of the change, if it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Why it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemDetails>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteState {
    /// A program waits for it.
    UnderWay,
    /// Its answer was lost, and it may be made, now or in the next few minutes. The agent goes on asking.
    InDoubt,
    /// It was made.
    Made,
    /// The rules didn't allow it; nothing was changed.
    Refused,
    /// It was allowed and could not be done; nothing was changed.
    Failed,
    /// It never came to the control plane, and can't any more.
    NotMade,
}

impl WriteState {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnderWay => "under_way",
            Self::InDoubt => "in_doubt",
            Self::Made => "made",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NotMade => "not_made",
        }
    }
}

/// `GET /v1/credentials`: what the agent holds, by name only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsHeld {
    /// The instance's own token; absent where the agent has none that is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionHeld>,
    /// The roles whose credentials it has, in the order of their names.
    pub roles: Vec<RoleHeld>,
}

/// The instance's own token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHeld {
    /// The session's id.
    pub session: String,
    /// The token's id.
    pub token_id: String,
    /// For how many milliseconds it is good.
    pub expires_in_ms: u64,
}

/// A role's credentials, without the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleHeld {
    /// The role.
    pub role: RoleName,
    /// What kind of credentials.
    pub kind: CredentialKind,
    /// When they run out, by the host's calendar.
    pub expires_at: Timestamp,
    /// For how many milliseconds they are good.
    pub expires_in_ms: u64,
}

/// `GET /v1/credentials/{role}`: a role's credentials, all of one making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCredentials {
    /// The role, the kind and the times.
    #[serde(flatten)]
    pub held: RoleHeld,
    /// The secrets: a JSON object with the fields that the kind has, see [`crate::credential`].
    pub credentials: CredentialFields,
}

/// The fields of a credential, by its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CredentialFields {
    /// Of kind `aws`.
    Aws(crate::credential::Aws),
    /// Of kind `bearer`.
    Bearer(crate::credential::Bearer),
}
