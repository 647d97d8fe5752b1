//! Hosts that tests speak for: enrolled as any other, with a key that is made here.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_client::{Client, Endpoint, Identity, fresh_key};
use moorline_shared::HostId;
use moorline_shared::api::enrolment::{CreateEnrolmentToken, EnrolHost};
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::secret::SecretKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::Path;

/// Enrols a host with what the administrator may, and gives the API as that host.
pub(crate) async fn enrol(administrator: &Client, nobody: Endpoint, host: &HostId) -> Result<Client> {
    let identity = identity(administrator, nobody.clone(), host).await?;
    Ok(Client::new(nobody.identified(identity))?)
}

/// Enrols a host, and gives what it is known by.
pub(crate) async fn identity(administrator: &Client, nobody: Endpoint, host: &HostId) -> Result<Identity> {
    let secret = token(administrator, host).await?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let body = EnrolHost {
        secret,
        request: STANDARD.encode(request.der()),
    };
    let client = Client::new(nobody)?;
    let issued = client.enrol_host(host, &body, &fresh_key()).await?;
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Identity::new(certificate, key))
}

/// Has the control plane take a secret for this host.
async fn token(administrator: &Client, host: &HostId) -> Result<SecretKey> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).context("random bytes")?;
    let secret = SecretKey::from(secret);
    let body = CreateEnrolmentToken {
        digest: EnrolmentToken::digest_of(&secret),
        ttl: None,
    };
    administrator
        .create_enrolment_token(host, &body, &fresh_key())
        .await?;
    Ok(secret)
}

/// The identity that a daemon keeps beneath its state.
pub(crate) fn of_daemon(state: &Path) -> Result<Identity> {
    let file = state.join("identity/identity.pem");
    let certificate = CertificateDer::from_pem_file(&file).context("the host's certificate")?;
    let key = PrivateKeyDer::from_pem_file(&file).context("the host's key")?;
    Ok(Identity::new(certificate, key))
}
