//! Requests for certificates (PKCS #10), of which the key is taken and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};

use super::records::HostKey;

/// The longest request, in bytes.
const MAX_BYTES: usize = 4_096;

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is no request, or not of whom has the key.
    #[error("it must be a PKCS #10 request in base64, signed with its own key, of 4096 bytes at most")]
    Form,
    /// The key is of another kind.
    #[error("its key must be of P-256, and the signature ECDSA with SHA-256")]
    Kind,
}

/// The key that a request is for. Its signature shows that who made it has the private one.
pub fn key_of(request: &str) -> Result<HostKey, RequestError> {
    if request.len() > MAX_BYTES * 4 / 3 + 4 {
        return Err(RequestError::Form);
    }
    let der = STANDARD.decode(request).map_err(|_| RequestError::Form)?;
    let parsed = CertificateSigningRequestParams::from_der(&der.into());
    let key = parsed.map_err(|_| RequestError::Form)?.public_key;
    // 4, and the two coordinates: a point that is not compressed.
    let is_point = key.der_bytes().len() == 65 && key.der_bytes()[0] == 4;
    if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || !is_point {
        return Err(RequestError::Kind);
    }
    Ok(HostKey::new(key.subject_public_key_info()))
}
