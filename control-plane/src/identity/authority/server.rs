//! What the server shows and asks of who connects: TLS 1.3, a certificate that is made anew while it runs, and
//! certificates of hosts, which are ours or refused.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_shared::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::issue::{Authority, DAY_MS, IssueError, SERVER_DAYS, ServerName};
use super::peer::not_after;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate can't be made.
    #[error("the server's certificate can't be made")]
    Issue(#[from] IssueError),
    /// The library can't be set up.
    #[error("TLS can't be set up")]
    Setup(#[from] Error),
    /// The hosts' certificates can't be checked.
    #[error("TLS can't be set up to check the certificates of hosts")]
    Verifier(#[from] VerifierBuilderError),
}

/// How the server speaks TLS: 1.3 and nothing older, HTTP/2 and HTTP/1.1.
pub fn config(authority: Arc<Authority>, names: Vec<ServerName>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let hosts = hosts(&authority)?;
    let own = own(authority, names, now())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(hosts))
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection proves anew who makes it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What checks the certificates of hosts.
pub(super) fn hosts(authority: &Authority) -> Result<impl ClientCertVerifier + use<>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ours = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).allow_unauthenticated();
    Ok(Hosts { ours: ours.build()? })
}

/// What shows the server's certificate.
pub(super) fn own(
    authority: Arc<Authority>,
    names: Vec<ServerName>,
    now: Timestamp,
) -> Result<Own, TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let shown = make(&authority, &names, &provider, now)?;
    Ok(Own {
        authority,
        names,
        provider,
        shown: RwLock::new(shown),
    })
}

/// The server's own certificate.
pub(super) struct Own {
    authority: Arc<Authority>,
    names: Vec<ServerName>,
    provider: CryptoProvider,
    shown: RwLock<Shown>,
}

#[derive(Clone)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// From when on another one is to be made: at a third of its life.
    renew: Timestamp,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({:?})", self.names)
    }
}

impl Own {
    /// The certificate to show at `now`. Making one takes a fraction of a millisecond, so that whoever comes when it is due
    /// waits for it; if it can't be made, the old one is shown for as long as it is good.
    pub(super) fn at(&self, now: Timestamp) -> Arc<CertifiedKey> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner).clone();
        if now < shown.renew {
            return shown.key;
        }
        match make(&self.authority, &self.names, &self.provider, now) {
            Ok(made) => {
                let key = made.key.clone();
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = made;
                key
            }
            Err(error) => {
                tracing::error!(%error, "the server's certificate can't be made anew");
                shown.key
            }
        }
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(now()))
    }
}

fn make(
    authority: &Authority,
    names: &[ServerName],
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<Shown, TlsError> {
    let (certificate, key) = authority.server(names, now)?;
    // The authority goes with it, so that a client that knows only its digest finds it there.
    let chain = vec![certificate, authority.certificate().clone()];
    let renew = now.millis() + SERVER_DAYS * DAY_MS / 3;
    Ok(Shown {
        key: Arc::new(CertifiedKey::from_der(chain, key, provider)?),
        renew: Timestamp::from_millis(renew).unwrap_or(now),
    })
}

/// The system's time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(millis).unwrap_or_else(|| Timestamp::from_millis(0).expect("1970 is a time"))
}

/// Checks certificates of hosts: made by our authority, for clients. One that has expired is let in, since a host that
/// was away for long comes back with it and asks for another; it is good for nothing else, which is decided at each
/// request.
#[derive(Debug)]
struct Hosts {
    ours: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Hosts {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.ours.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.ours.verify_client_cert(shown, between, now);
        let Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) = checked
        else {
            return checked;
        };
        let then = last_moment(shown).ok_or(CertificateError::BadEncoding)?;
        self.ours.verify_client_cert(shown, between, then)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ours.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.ours.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.ours.supported_verify_schemes()
    }
}

/// The last time at which a certificate was good.
fn last_moment(shown: &[u8]) -> Option<UnixTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(shown).ok()?;
    let millis = u64::try_from(not_after(&certificate)?.millis()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
}
