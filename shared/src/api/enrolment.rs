//! How a host comes to have a certificate, keeps it, and loses it.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{HostId, OperationId};
use crate::revision::Revision;
use crate::secret::SecretKey;
use crate::ttl::Ttl;

/// For how long an enrolment token is good if nothing else is said, in seconds: an hour.
pub const TOKEN_SECONDS: u32 = 3_600;
/// The longest time that one can be good for, in seconds: a week.
pub const MAX_TOKEN_SECONDS: u32 = 7 * 86_400;

/// `CreateEnrolmentToken`: lets whoever has a secret become a host, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateEnrolmentToken {
    /// The SHA-256 digest of the secret, which is 32 random bytes that the caller made.
    pub digest: Digest,
    /// For how many seconds it is good, a week at most; an hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
}

/// An enrolment token, but for its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolmentTokenMade {
    /// Who may enrol with it.
    pub host: HostId,
    /// When it is no longer good.
    pub expires_at: Timestamp,
    /// The SHA-256 digest of the certificate of the control plane's authority, by which the host will know it.
    pub authority: Digest,
    /// The operation.
    pub operation: OperationId,
    /// When it was committed.
    pub revision: Revision,
}

/// `EnrolHost`: a machine shows the secret and asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolHost {
    /// The secret of the enrolment token, in base64.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub secret: SecretKey,
    /// A request for a certificate (PKCS #10) of a P-256 key that the machine made, DER in base64. Only its key counts.
    pub request: String,
}

/// `RenewHostCertificate`: a host asks for its next certificate, by the one that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewHostCertificate {
    /// A request for a certificate (PKCS #10) of a new P-256 key, DER in base64. Who didn't hear the answer asks again with
    /// the same key.
    pub request: String,
}

/// A host's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostCertificateIssued {
    /// The certificate, in PEM.
    pub certificate: String,
    /// The certificate of the authority, in PEM.
    pub authority: String,
    /// Its number, in hexadecimal: what the host's key is known by.
    pub serial: String,
    /// One more than that of the host's certificate before.
    pub generation: u64,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The operation.
    pub operation: OperationId,
    /// When it was committed.
    pub revision: Revision,
}
