//! Credentials of the role `backup`, as a host gives them one making after the other.

use moorline_shared::credential::{Aws, Credential};
use moorline_shared::link::body::{self, CredentialDocument};
use moorline_shared::secret::Secret;

/// For how long they are good where a test doesn't care, in milliseconds.
pub(crate) const LASTING: u64 = 60_000;

/// Credentials of one making: every part has the number.
pub(crate) fn making(n: u32, expires_in_ms: u64) -> body::Credential {
    let aws = Aws {
        access_key_id: format!("AKIA{n}"),
        secret_access_key: Secret::from(format!("sesame{n}")),
        session_token: Some(Secret::from(format!("token{n}"))),
        account_id: None,
    };
    body::Credential {
        current: Some(CredentialDocument {
            kind: "aws".to_owned(),
            document: Credential::Aws(aws).document(),
            expires_in_ms,
            expires_at_ms: 1_800_000_000_000,
        }),
        ..announced()
    }
}

/// That there is the role, and nothing of it yet.
pub(crate) fn announced() -> body::Credential {
    body::Credential {
        role: "backup".to_owned(),
        current: None,
    }
}
