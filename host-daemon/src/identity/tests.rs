//! Identities kept, used and renewed, with certificates that are made here.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::HostIdentity;
use super::files::{Enrolment, Files, Pending};

/// An authority, as a control plane has it.
pub(crate) struct Maker {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Maker {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn certify(&self, key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// Makes the owner of this folder a host whose control plane is away.
pub(crate) fn enrolled(state: &Path, host: &str) {
    let (maker, files) = (Maker::new(), Files::of(state));
    files.make().unwrap();
    let key = files.pending_key(Pending::First).unwrap();
    let enrolment = Enrolment {
        host: host.parse().unwrap(),
        url: "https://127.0.0.1:9".into(),
    };
    files.keep_enrolment(&enrolment, &maker.pem).unwrap();
    files.keep(&maker.certify(&key), &key).unwrap();
}

/// The identity of a host that nobody knows.
pub(crate) fn identity() -> HostIdentity {
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    HostIdentity::new(Files::of(folder.path()).present().unwrap())
}

#[test]
fn what_is_kept_is_found_again_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    let files = Files::of(folder.path());
    assert_eq!(files.enrolment().unwrap().host.as_str(), "h1");
    files.authority().unwrap();
    let present = files.present().unwrap();
    let inside = folder.path().join("identity");
    assert_eq!(inside.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for file in std::fs::read_dir(&inside).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["ca.pem", "enrolment.json", "identity.pem"]);
    assert!(format!("{present:?}").ends_with("key hidden)"));
}

#[test]
fn a_signature_is_verified_by_the_key_of_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    let present = Files::of(folder.path()).present().unwrap();
    let certificate = x509_parser::parse_x509_certificate(&present.certificate)
        .unwrap()
        .1;
    let point = certificate.public_key().subject_public_key.data.as_ref();
    let signed = present.sign(b"a request");
    assert_eq!(signed.len(), 64);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(b"a request", &signed).unwrap();
    assert!(key.verify(b"another", &signed).is_err());
    assert_eq!(present.key_id().len() % 2, 0);
}

#[test]
fn a_certificate_of_another_key_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    let files = Files::of(folder.path());
    let before = files.present().unwrap().key_id().to_owned();
    let (next, other) = (
        files.pending_key(Pending::Next).unwrap(),
        KeyPair::generate().unwrap(),
    );
    assert!(files.keep(&Maker::new().certify(&other), &next).is_err());
    assert_eq!(files.present().unwrap().key_id(), before);
    // Asked again it is the same key, for an answer that was lost.
    let again = files.pending_key(Pending::Next).unwrap();
    assert_eq!(again.serialize_der(), next.serialize_der());
}

#[test]
fn a_machine_that_is_no_host_is_told_how_to_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = Files::of(folder.path()).enrolment().unwrap_err().to_string();
    assert!(error.contains("moorline-host enroll TOKEN --state"), "{error}");
}
