//! The digest of a body, as the field `Content-Digest` (RFC 9530).

use super::field::{FieldError, byte_sequences, written_bytes};
use crate::digest::Digest;

/// The value of `Content-Digest` for a body with this SHA-256 digest.
pub fn write(digest: &Digest) -> String {
    format!("sha-256={}", written_bytes(digest.bytes()))
}

/// The SHA-256 digest in a field `Content-Digest`, which may have no other.
pub fn read(field: &str) -> Result<Digest, FieldError> {
    let members = byte_sequences(field)?;
    match &members[..] {
        [(algorithm, bytes)] if algorithm == "sha-256" => {
            let bytes: [u8; 32] = bytes[..].try_into().map_err(|_| FieldError::Form)?;
            Ok(bytes.into())
        }
        _ => Err(FieldError::Unknown),
    }
}
