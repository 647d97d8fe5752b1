//! What the store keeps of the certificate authority, and how it comes there.

use moorline_shared::api::ProblemDetails;
use moorline_shared::{InstanceId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::operation::Effect;
use crate::model::record::{Record, key};
use crate::model::{Content, Env, Operation, Problem, ServiceModel, Stop, View};
use crate::services::AnyOp;
use crate::store::Key;

/// What an authority consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// The trust domain of the identities that it vouches for: the deployment's name when it was made.
    pub domain: String,
    /// Its certificate, DER in base64.
    pub certificate: String,
    /// Its key, PKCS #8, sealed with the master key and bound to the certificate's digest, in base64.
    pub sealed_key: String,
}

/// The authority as the store keeps it. There is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// What it consists of.
    #[serde(flatten)]
    pub material: Material,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record for AuthorityRecord {
    const KIND: &'static str = "authority";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = ();
    type Collection = ();

    fn key((): &()) -> Key {
        key(b"authority/current")
    }

    fn own_key(&self) -> Key {
        Self::key(&())
    }

    fn prefix((): &()) -> String {
        "authority/".to_owned()
    }
}

/// The operations on the authority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Makes this the deployment's authority, if it has none yet. The control plane does it at its first start.
    AdoptAuthority(Material),
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        "AdoptAuthority"
    }

    fn effect(&self) -> Effect {
        Effect::Change
    }

    fn instances(&self) -> Vec<InstanceId> {
        Vec::new()
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }

    fn conceal(&mut self) {
        let Self::AdoptAuthority(material) = self;
        "sealed".clone_into(&mut material.sealed_key);
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Authority(op)
    }
}

/// Nothing is refused here.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        match *self {}
    }
}

/// The rules for the authority.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    /// The authority in force, which is another one than asked for if there was one before.
    type Reply = Material;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Result<Material, Stop<Refusal>> {
        let Op::AdoptAuthority(material) = op;
        if let Some(there) = v.get::<AuthorityRecord>(&())? {
            return Ok(there.into_inner().material);
        }
        v.put(&AuthorityRecord {
            material: material.clone(),
            created_at: env.now,
        });
        Ok(material.clone())
    }
}
