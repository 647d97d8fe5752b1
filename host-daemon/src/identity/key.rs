//! Keys of the host, made here, and the requests that certificates are asked for with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;

/// A key can't be made or used.
#[derive(Debug, thiserror::Error)]
#[error("the host's key can't be made or used")]
pub struct KeyError(#[from] rcgen::Error);

/// A new key of P-256.
pub(super) fn make() -> Result<KeyPair, KeyError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// The key as connections and signatures take it.
pub(super) fn der(key: &KeyPair) -> PrivatePkcs8KeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der())
}

/// A request for a certificate of this key, DER in base64. It names nobody: the control plane knows whom it is for.
pub(super) fn request(key: &KeyPair) -> Result<String, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key)?;
    Ok(STANDARD.encode(request.der()))
}
