//! The authority made, kept and found again; its certificates, and what the server makes of those that it is shown.

use std::sync::Arc;

use base64::Engine as _;
use moorline_shared::{HostId, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{CertificateError, Error, RootCertStore};

use super::adopt::{AdoptError, adopt, publish};
use super::issue::{Authority, DAY_MS, HostWords, SERVER_DAYS};
use super::peer::HostCertificate;
use crate::identity::master::{MasterKey, UnsealError};
use crate::model::Executor;
use crate::settings::Settings;
use crate::store::Store;

const NOW: i64 = 1_800_000_000_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).unwrap()
}

fn unix(millis: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(millis.cast_unsigned()))
}

fn master(byte: u8) -> MasterKey {
    MasterKey::new(&[byte; 32].into())
}

fn executor(folder: &std::path::Path) -> Executor {
    let store = Store::open_sqlite(folder.join("store.db"), &Default::default()).unwrap();
    Executor::new(store, Settings::default(), MasterKey::for_tests())
}

fn host_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn host_certificate(authority: &Authority, key: &KeyPair) -> CertificateDer<'static> {
    let host: HostId = "h1".parse().unwrap();
    let words = HostWords {
        host: &host,
        serial: [7; 16],
        generation: 3,
        public_key: &key.subject_public_key_info(),
        from: at(NOW),
        until: at(NOW + 7 * DAY_MS),
    };
    authority.host(&words).unwrap()
}

/// What a client that trusts `authority` says of a server's certificate.
fn judged(authority: &Authority, shown: &CertificateDer<'_>, name: &str, now: i64) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    let name = name.to_owned().try_into().unwrap();
    verifier
        .verify_server_cert(shown, &[], &name, &[], unix(now))
        .map(drop)
}

#[tokio::test]
async fn the_authority_is_made_once_and_its_key_is_never_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let (first, key) = {
        let executor = executor(folder.path());
        let first = adopt(&executor, &master(1), "lab").await.unwrap();
        let again = adopt(&executor, &master(1), "renamed").await.unwrap();
        assert_eq!(again.digest(), first.digest());
        assert_eq!(again.host_uri(&"h1".parse().unwrap()), "spiffe://lab/host/h1");
        executor.store().close().await;
        (first.digest(), again.secret())
    };
    let executor = executor(folder.path());
    let kept = adopt(&executor, &master(1), "lab").await.unwrap();
    assert_eq!(kept.digest(), first);
    let other = adopt(&executor, &master(2), "lab").await.unwrap_err();
    assert!(matches!(other, AdoptError::Unseal(UnsealError::Key)), "{other}");
    // The scalar itself: 32 bytes into the private part of the PKCS #8 document.
    let scalar = &key[36..68];
    let text = base64::engine::general_purpose::STANDARD.encode(&key);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(32).any(|part| part == scalar));
        assert!(!bytes.windows(40).any(|part| part == &text.as_bytes()[48..88]));
    }
}

#[test]
fn the_certificate_is_written_for_clients_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let (authority, _) = Authority::make("lab", at(NOW)).unwrap();
    publish(&authority, &path).unwrap();
    let read = CertificateDer::from_pem_file(&path).unwrap();
    assert_eq!(&read, authority.certificate());
}

#[test]
fn a_server_is_believed_by_its_names_and_for_as_long_as_its_certificate_says() {
    let (authority, _) = Authority::make("lab", at(NOW)).unwrap();
    let names = ["control.example", "192.0.2.7"].map(|name| name.parse().unwrap());
    let (shown, _) = authority.server(&names, at(NOW)).unwrap();
    for name in ["control.example", "192.0.2.7"] {
        judged(&authority, &shown, name, NOW).unwrap();
    }
    let wrong = |result| match result {
        Err(Error::InvalidCertificate(error)) => error,
        other => panic!("{other:?}"),
    };
    let name = wrong(judged(&authority, &shown, "other.example", NOW));
    assert!(
        matches!(name, CertificateError::NotValidForNameContext { .. }),
        "{name:?}"
    );
    let late = wrong(judged(
        &authority,
        &shown,
        "control.example",
        NOW + SERVER_DAYS * DAY_MS + 1_000,
    ));
    assert!(
        matches!(late, CertificateError::ExpiredContext { .. }),
        "{late:?}"
    );
    let (other, _) = Authority::make("lab", at(NOW)).unwrap();
    let unknown = wrong(judged(&other, &shown, "control.example", NOW));
    assert!(
        matches!(
            unknown,
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ),
        "{unknown:?}"
    );
}

#[test]
fn a_hosts_certificate_says_who_it_is_and_is_no_servers() {
    let (authority, _) = Authority::make("lab", at(NOW)).unwrap();
    let key = host_key();
    let shown = host_certificate(&authority, &key);
    let expected = HostCertificate {
        host: "h1".parse().unwrap(),
        serial: "07".repeat(16),
        not_after: at(NOW + 7 * DAY_MS),
        generation: 3,
        public_key: key.public_key_raw().to_vec(),
    };
    assert_eq!(HostCertificate::read(&shown), Some(expected));
    let (server, _) = authority.server(&["h1".parse().unwrap()], at(NOW)).unwrap();
    assert_eq!(HostCertificate::read(&server), None);
    assert_eq!(HostCertificate::read(authority.certificate()), None);
    let refused = judged(&authority, &shown, "h1", NOW).unwrap_err();
    assert!(matches!(refused, Error::InvalidCertificate(_)), "{refused:?}");
}

#[test]
fn an_expired_certificate_of_a_host_is_let_in_and_any_of_another_authority_is_not() {
    let (authority, _) = Authority::make("lab", at(NOW)).unwrap();
    let verifier = super::server::hosts(&authority).unwrap();
    let shown = host_certificate(&authority, &host_key());
    for now in [NOW, NOW + 300 * DAY_MS] {
        verifier.verify_client_cert(&shown, &[], unix(now)).unwrap();
    }
    assert!(
        verifier
            .verify_client_cert(&shown, &[], unix(NOW - 2 * DAY_MS))
            .is_err()
    );
    let (server, _) = authority.server(&["h1".parse().unwrap()], at(NOW)).unwrap();
    assert!(verifier.verify_client_cert(&server, &[], unix(NOW)).is_err());
    let (other, _) = Authority::make("lab", at(NOW)).unwrap();
    let foreign = host_certificate(&other, &host_key());
    for now in [NOW, NOW + 300 * DAY_MS] {
        assert!(verifier.verify_client_cert(&foreign, &[], unix(now)).is_err());
    }
}

#[test]
fn the_server_shows_another_certificate_long_before_its_own_ends() {
    let authority = Arc::new(Authority::make("lab", at(NOW)).unwrap().0);
    let own = super::server::own(authority, vec!["localhost".parse().unwrap()], at(NOW)).unwrap();
    let shown = |days| own.at(at(NOW + days * DAY_MS)).cert[0].clone();
    let first = shown(0);
    assert_eq!(shown(9), first);
    let second = shown(10);
    assert_ne!(second, first);
    assert_eq!(shown(19), second);
}
