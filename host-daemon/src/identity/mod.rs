//! By what the host is known: a key that was made here and never leaves, and a certificate of the control plane for it.
//!
//! [`enrol`] gets the first one by a token, [`renew`] each further one while the daemon runs, and [`files`] is where they
//! are kept. A [`HostIdentity`] is what the rest of the daemon has of it: it signs.

pub mod enrol;
pub mod files;
mod key;
pub mod renew;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use moorline_shared::enrolment::serial_text;
use moorline_shared::{HostId, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

/// The host's present certificate and key. Clones are the same one, and all have the next one when there is one.
#[derive(Clone, Debug)]
pub struct HostIdentity(Arc<RwLock<Arc<Present>>>);

/// A certificate and its key.
pub struct Present {
    certificate: CertificateDer<'static>,
    key: Zeroizing<PrivatePkcs8KeyDer<'static>>,
    signing: EcdsaKeyPair,
    host: HostId,
    serial: String,
    from: Timestamp,
    until: Timestamp,
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Present({} until {}, key hidden)", self.serial, self.until)
    }
}

/// Why a certificate and a key are of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is none, or says nothing of how long it is good.
    #[error("the certificate is damaged")]
    Certificate,
    /// The key is none of P-256.
    #[error("the key is damaged, or not of P-256")]
    Key,
    /// They don't belong together.
    #[error("the certificate is for another key")]
    Apart,
    /// The certificate is not a host's.
    #[error("the certificate names no host")]
    NoHost,
    /// The certificate is another host's.
    #[error("the certificate is another host's")]
    OtherHost,
}

impl Present {
    /// A certificate and its key, if they belong together.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let key = Zeroizing::new(key);
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| IdentityError::Certificate)?;
        let random = SystemRandom::new();
        let der = key.secret_pkcs8_der();
        let signing = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random);
        let signing = signing.map_err(|_| IdentityError::Key)?;
        let public = ring::signature::KeyPair::public_key(&signing).as_ref();
        if parsed.public_key().subject_public_key.data.as_ref() != public {
            return Err(IdentityError::Apart);
        }
        let (host, serial) = (host(&parsed)?, serial_text(parsed.raw_serial()));
        let (from, until) = (
            time(parsed.validity().not_before)?,
            time(parsed.validity().not_after)?,
        );
        Ok(Self {
            certificate,
            key,
            signing,
            host,
            serial,
            from,
            until,
        })
    }

    /// Which host the certificate is of.
    pub const fn host(&self) -> &HostId {
        &self.host
    }

    /// Signs with ECDSA of P-256 and SHA-256; 64 bytes, as in JOSE and RFC 9421.
    ///
    /// # Panics
    /// If the kernel gives no random bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signed = self.signing.sign(&SystemRandom::new(), message);
        signed.expect("the kernel gives random bytes").as_ref().to_vec()
    }

    /// By what the control plane finds the key that verifies: the number of the certificate, in hexadecimal.
    pub fn key_id(&self) -> &str {
        &self.serial
    }

    /// From when on, and until when, the certificate is good.
    pub const fn validity(&self) -> (Timestamp, Timestamp) {
        (self.from, self.until)
    }

    /// What a connection to the control plane shows.
    pub fn shown(&self) -> moorline_client::Identity {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        moorline_client::Identity::new(self.certificate.clone(), key)
    }
}

/// The host that a certificate is of, which it names by a SPIFFE ID: `spiffe://DOMAIN/host/NAME`.
fn host(certificate: &X509Certificate<'_>) -> Result<HostId, IdentityError> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| IdentityError::Certificate)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => {
            let (_, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
            path.strip_prefix("host/")?.parse().ok()
        }
        _ => None,
    };
    names.iter().find_map(host).ok_or(IdentityError::NoHost)
}

fn time(of: ASN1Time) -> Result<Timestamp, IdentityError> {
    let millis = of.timestamp().checked_mul(1_000);
    millis
        .and_then(Timestamp::from_millis)
        .ok_or(IdentityError::Certificate)
}

impl HostIdentity {
    /// What the host has now.
    pub fn new(present: Present) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(present))))
    }

    /// The present certificate and key: who needs both a signature and what it is verified by takes them from one.
    pub fn present(&self) -> Arc<Present> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, next: Present) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}
