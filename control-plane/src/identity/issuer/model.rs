//! What the store keeps of the keys of identity tokens, and who may have a token.

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::session::SESSION_ENDED;
use moorline_shared::entry::Value;
use moorline_shared::id::{ImageName, ZoneName};
use moorline_shared::{AccountId, HostId, InstanceId, Principal, Timestamp};
use serde::{Deserialize, Serialize};

use super::keys::{ROTATE_MS, is_over};
use crate::instances::records::InstanceRecord;
use crate::model::operation::Effect;
use crate::model::record::{Record, key};
use crate::model::{Content, Env, Kept, Operation, Page, Problem, Role, ServiceModel, Stop, View};
use crate::services::AnyOp;
use crate::store::Key;

/// The longest name of an audience, in bytes.
pub const MAX_AUDIENCE_BYTES: usize = 256;

/// A key that identity tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityKeyRecord {
    /// What tokens name it by.
    pub id: String,
    /// The public key, a point on P-256, uncompressed.
    pub public_key: Value,
    /// The key as PKCS #8, under the master key.
    pub sealed: Value,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record for IdentityKeyRecord {
    const KIND: &'static str = "identity-key";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = String;
    type Collection = ();

    fn key(id: &String) -> Key {
        key(format!("identity-key/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.id)
    }

    fn prefix((): &()) -> String {
        "identity-key/".to_owned()
    }
}

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Takes a new key in, unless the newest is young, and forgets those that nothing needs. The control plane does it.
    RotateIdentityKey {
        /// What tokens name it by.
        key: String,
        /// The public key.
        public_key: Value,
        /// The key, under the master key.
        sealed: Value,
    },
    /// Shows the keys, sealed.
    DescribeIdentityKeys {},
    /// Says what a token for the instance says; the token itself is made of it afterwards.
    CreateIdentityToken {
        /// Whose.
        instance: InstanceId,
        /// Whom it is for.
        audience: String,
    },
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::RotateIdentityKey { .. } => "RotateIdentityKey",
            Self::DescribeIdentityKeys {} => "DescribeIdentityKeys",
            Self::CreateIdentityToken { .. } => "CreateIdentityToken",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::RotateIdentityKey { .. } => Effect::Change,
            Self::DescribeIdentityKeys {} | Self::CreateIdentityToken { .. } => Effect::Read,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::CreateIdentityToken { instance, .. } => vec![*instance],
            _ => Vec::new(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }

    fn conceal(&mut self) {
        if let Self::RotateIdentityKey { sealed, .. } = self {
            *sealed = Value::from("sealed");
        }
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Issuer(op)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The keys, the oldest first.
    Keys(Vec<IdentityKeyRecord>),
    /// What a token says of the instance.
    Subject(Subject),
}

/// What a token says of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Whose it is.
    pub account: AccountId,
    /// Which it is.
    pub instance: InstanceId,
    /// Where it is.
    pub host: HostId,
    /// The host's zone.
    pub zone: ZoneName,
    /// What it booted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
}

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// It is not the caller's to ask for.
    #[error("{0} may not do this: only an instance and its host ask for the instance's identity tokens")]
    Denied(Principal),
    /// The instance doesn't exist, or isn't the caller's.
    #[error("there is no instance {0} here, or it is terminated")]
    UnknownInstance(InstanceId),
    /// Its session was ended, and nobody vouches for it in this life of its VM.
    #[error(
        "the session of instance {0} was ended: stop the instance and start it again, and it has another"
    )]
    SessionEnded(InstanceId),
    /// The audience can't be named so.
    #[error("an audience is 1 to {MAX_AUDIENCE_BYTES} printable ASCII characters without spaces")]
    Audience,
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::Denied(_) => ("access-denied", "Not allowed", 403, "authorization"),
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404, "instance"),
            Self::SessionEnded(_) => (SESSION_ENDED, "Its session was ended", 409, "instance"),
            Self::Audience => (
                "invalid-request",
                "The request is not well formed",
                422,
                "audience",
            ),
        };
        ProblemDetails::new(kind, title, status, self.to_string()).at(Some(field))
    }
}

type Step<T> = Result<T, Stop<Refusal>>;

/// The rules for identity tokens and their keys.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::RotateIdentityKey {
                key,
                public_key,
                sealed,
            } => {
                let new = IdentityKeyRecord {
                    id: key.clone(),
                    public_key: public_key.clone(),
                    sealed: sealed.clone(),
                    created_at: env.now,
                };
                rotate(v, env, new)
            }
            Op::DescribeIdentityKeys {} => {
                by_provider(env)?;
                keys(v).map(Reply::Keys)
            }
            Op::CreateIdentityToken { instance, audience } => subject(v, env, *instance, audience),
        }
    }
}

fn by_provider(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Provider => Ok(()),
        _ => Err(Stop::Refused(Refusal::Denied(env.caller.principal.clone()))),
    }
}

fn keys(v: &mut View<'_>) -> Step<Vec<IdentityKeyRecord>> {
    let kept = v.scan::<IdentityKeyRecord>(&(), &Page::ALL)?;
    let mut keys: Vec<_> = kept.into_iter().map(Kept::into_inner).collect();
    keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    Ok(keys)
}

fn rotate(v: &mut View<'_>, env: &Env, new: IdentityKeyRecord) -> Step<Reply> {
    by_provider(env)?;
    let mut all = keys(v)?;
    let is_young = |key: &IdentityKeyRecord| env.now.millis() - key.created_at.millis() < ROTATE_MS;
    if !all.last().is_some_and(is_young) {
        v.put(&new);
        all.push(new);
    }
    let (over, rest): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|key| is_over(key, &all, env.now));
    for key in over {
        v.delete::<IdentityKeyRecord>(&key.id);
    }
    Ok(Reply::Keys(rest))
}

fn subject(v: &mut View<'_>, env: &Env, id: InstanceId, audience: &str) -> Step<Reply> {
    let valid =
        (1..=MAX_AUDIENCE_BYTES).contains(&audience.len()) && audience.bytes().all(|b| b.is_ascii_graphic());
    if !valid {
        return Err(Stop::Refused(Refusal::Audience));
    }
    let found = v.get::<InstanceRecord>(&id)?;
    let unknown = || Stop::Refused(Refusal::UnknownInstance(id));
    let instance = found
        .filter(|instance| !instance.has_ended())
        .ok_or_else(unknown)?;
    match &env.caller.principal {
        Principal::Instance(caller) if *caller == id => {}
        Principal::Host(host) if *host == instance.host => {}
        Principal::Instance(_) | Principal::Host(_) => return Err(unknown()),
        other => return Err(Stop::Refused(Refusal::Denied(other.clone()))),
    }
    let instance = instance.into_inner();
    if instance.is_out_of_session() {
        return Err(Stop::Refused(Refusal::SessionEnded(id)));
    }
    Ok(Reply::Subject(Subject {
        account: instance.account,
        instance: id,
        host: instance.host,
        zone: instance.zone,
        image: instance.image,
    }))
}
