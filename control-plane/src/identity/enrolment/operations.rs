//! What can be asked about the certificates of hosts, and what is answered.

use moorline_shared::{Digest, HostId, InstanceId, Timestamp, Ttl};
use serde::{Deserialize, Serialize};

use super::records::{Certificate, HostKey};
use crate::model::operation::Effect;
use crate::model::{Content, Operation};
use crate::services::AnyOp;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Lets who has a secret become a host, once.
    CreateEnrolmentToken {
        /// Which host.
        host: HostId,
        /// The digest of the secret.
        digest: Digest,
        /// For how many seconds it is good.
        ttl: Ttl,
    },
    /// Makes a machine the host, by the secret of a token.
    EnrolHost {
        /// Which host.
        host: HostId,
        /// The digest of the secret that was shown.
        token: Digest,
        /// The machine's key.
        public_key: HostKey,
    },
    /// Gives a host its next certificate.
    RenewHostCertificate {
        /// Which host.
        host: HostId,
        /// The number of the certificate that was shown, in hexadecimal.
        serial: String,
        /// Its generation.
        generation: u64,
        /// The host's next key.
        public_key: HostKey,
    },
    /// Makes a host's certificates worth nothing.
    RevokeHost {
        /// Which host.
        host: HostId,
    },
    /// Removes a token that is no longer good.
    ForgetEnrolmentToken {
        /// The digest of its secret.
        token: Digest,
    },
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::CreateEnrolmentToken { .. } => "CreateEnrolmentToken",
            Self::EnrolHost { .. } => "EnrolHost",
            Self::RenewHostCertificate { .. } => "RenewHostCertificate",
            Self::RevokeHost { .. } => "RevokeHost",
            Self::ForgetEnrolmentToken { .. } => "ForgetEnrolmentToken",
        }
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
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Enrolment(op)
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// There is a token.
    Token {
        /// When it is no longer good.
        expires_at: Timestamp,
    },
    /// The host has this certificate.
    Issued(Certificate),
    /// Two machines use one certificate, and from now on neither may.
    Cloned,
    /// It was done.
    Done,
}
