//! The session of an instance: the token that it is known by, given to it by its host.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secret::{Secret, SecretKey};

/// The kind of the problem that a host is answered with whose instance gets no session in this life of its VM, because
/// somebody ended the one that it had.
pub const SESSION_ENDED: &str = "session-ended";

/// `CreateInstanceSession`: a host asks for the token of one of its instances, or for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateInstanceSession {
    /// The life of its VM that it is for. A later one ends the session of an earlier one.
    pub incarnation: u64,
    /// The session that is to end, because the guest lost what it had of it or is a copy of the one that had it. Without
    /// it, or if another session has begun since, the answer is a further token of the present session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<String>,
}

/// `IdentifyInstance`: an instance shows that it has its token, and says what it signs with from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentifyInstance {
    /// The public part of an Ed25519 key that the guest made, 32 bytes in base64: from now on only what is signed with
    /// it is the instance's. Absent: it goes on signing with the key that came with its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// An instance's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceSession {
    /// The session's id. A further token of the same session has the same.
    pub session: String,
    /// The token, `mli_...`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// The token's id: what a signature names its key by.
    pub token_id: String,
    /// The id of the key that the token is sealed with; when that is destroyed, the token is worth nothing.
    pub sealed_by: u32,
    /// The key for `hmac-sha256` that belongs to the token, in base64.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub key: SecretKey,
    /// When the token is no longer good.
    pub expires_at: Timestamp,
    /// How many seconds from now that is.
    pub expires_in_seconds: u32,
    /// After how many seconds from now the instance must have used it, or the session ends; absent if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identify_within_seconds: Option<u32>,
}

/// `CreateIdentityToken`: Moorline's word for who an instance is, for those who know Moorline's issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateIdentityToken {
    /// Whom it is for, as it calls itself.
    pub audience: String,
}

/// An identity token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityToken {
    /// A JSON Web Token, signed with ES256.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// When it is no longer good.
    pub expires_at: Timestamp,
}
