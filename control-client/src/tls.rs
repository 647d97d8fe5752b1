//! TLS towards the control plane: whom it is known by, who we are, and why it may not come about.
//!
//! A control plane has a certificate authority of its own, and only that one counts: the authorities that the operating
//! system knows are never asked, since none of them vouches for a control plane. A client holds the authority's
//! certificate, or its digest ([`Trust`]).

mod pinned;
mod refusal;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use moorline_shared::Digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use self::pinned::Pinned;
pub use self::refusal::TlsRefusal;

/// Whom a control plane is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nobody: only plain HTTP to this machine itself is possible.
    #[default]
    Nobody,
    /// An authority that is at hand.
    Authority(Authority),
    /// An authority of which only the digest is known. The control plane shows its certificate.
    Digest(AuthorityDigest),
}

/// The certificate of a control plane's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(CertificateDer<'static>);

impl Authority {
    /// Reads the first certificate of a file in PEM, such as the control plane's `ca.pem`. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`], which names the file.
    pub fn read(path: &Path) -> Result<Self, AuthorityError> {
        let bytes = std::fs::read(path).map_err(|source| AuthorityError::File {
            path: path.to_owned(),
            source,
        })?;
        Self::from_pem(&bytes).ok_or_else(|| AuthorityError::Form {
            path: path.to_owned(),
        })
    }

    /// The first certificate of a text in PEM, if it has one.
    pub fn from_pem(text: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(text).ok()?;
        // One that can't be trusted is found now, not when the first connection is made.
        RootCertStore::empty().add(certificate.clone()).ok()?;
        Some(Self(certificate))
    }

    /// What it is known by.
    pub fn digest(&self) -> AuthorityDigest {
        AuthorityDigest(Digest::of(&self.0))
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file can't be read.
    #[error("the CA file {} can't be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It holds no certificate of an authority.
    #[error("the CA file {} holds no certificate in PEM: take the control plane's ca.pem", path.display())]
    Form {
        /// Which.
        path: PathBuf,
    },
}

/// What an authority is known by: `sha256:` and the SHA-256 digest of its certificate in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthorityDigest(Digest);

impl AuthorityDigest {
    /// Whether this certificate has it.
    fn fits(&self, certificate: &[u8]) -> bool {
        Digest::of(certificate) == self.0
    }
}

impl From<Digest> for AuthorityDigest {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for AuthorityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for AuthorityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no digest of an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write the authority's digest as sha256: and 64 lowercase hexadecimal digits; the control plane logs it at its start"
)]
pub struct AuthorityDigestError;

impl FromStr for AuthorityDigest {
    type Err = AuthorityDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").ok_or(AuthorityDigestError)?;
        digits.parse().map(Self).map_err(|_| AuthorityDigestError)
    }
}

/// A certificate of our own and its key, for a caller that is known by one: a host daemon.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A certificate in DER and its key, both as they are.
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        Self { certificate, key }
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self::new(self.certificate.clone(), self.key.clone_key())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

/// How TLS is spoken to whom `trust` knows: 1.3 alone, and of HTTP the one version that `protocol` names.
pub(crate) fn config(
    trust: &Trust,
    identity: Option<&Identity>,
    protocol: &[u8],
) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Nobody => Arc::new(Pinned::nobody(provider.clone())),
        Trust::Digest(digest) => Arc::new(Pinned::new(*digest, provider.clone())),
        Trust::Authority(authority) => known(authority.0.clone(), provider.clone())?,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(own) => config.with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key())?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// What checks servers by one authority.
fn known(
    authority: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    let built = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
    built.map_err(|error| rustls::Error::General(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Authority, AuthorityDigest};

    #[test]
    fn a_digest_is_written_with_its_kind() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<AuthorityDigest>().unwrap().to_string(), text);
        for bad in ["", "sha256:", &text[7..], &text.to_uppercase(), &text[..70]] {
            assert!(bad.parse::<AuthorityDigest>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        let error = Authority::read(file.path()).unwrap_err().to_string();
        assert!(
            error.contains("holds no certificate") && error.contains("ca.pem"),
            "{error}"
        );
        let missing = file.path().with_extension("missing");
        assert!(
            Authority::read(&missing)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
    }
}
