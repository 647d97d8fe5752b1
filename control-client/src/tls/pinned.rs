//! A control plane whose authority is known by its digest alone: the certificate comes with the server's own.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::refusal::TlsRefusal;
use super::{AuthorityDigest, known};

/// Checks that one of the certificates that the server shows has the digest, and then by that one all the others.
#[derive(Debug)]
pub(super) struct Pinned {
    digest: Option<AuthorityDigest>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(super) const fn new(digest: AuthorityDigest, provider: Arc<CryptoProvider>) -> Self {
        Self {
            digest: Some(digest),
            provider,
        }
    }

    /// One that takes no server.
    pub(super) const fn nobody(provider: Arc<CryptoProvider>) -> Self {
        Self {
            digest: None,
            provider,
        }
    }
}

fn refused(why: TlsRefusal) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let digest = self.digest.ok_or_else(|| refused(TlsRefusal::UnknownAuthority))?;
        let authority = between.iter().find(|certificate| digest.fits(certificate));
        let authority = authority.ok_or_else(|| refused(TlsRefusal::OtherAuthority(digest)))?;
        let verifier = known(authority.clone().into_owned(), self.provider.clone())?;
        verifier.verify_server_cert(shown, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
