//! Identities kept and used, with certificates that are made here. What is renewed and enrolled is tested beside its
//! code, against the control plane of [`plane`].

mod plane;

use std::path::Path;

use moorline_shared::HostId;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::files::{Enrolment, Files};
use super::{HostIdentity, IdentityError, Present, key};

pub(super) use plane::{Answer, Plane};

/// An authority, as a control plane has it.
pub(crate) struct Maker {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The dates between which a certificate is good: year, month, day.
type Dates = [(i32, u8, u8); 2];
pub(super) const GOOD: Dates = [(2026, 1, 1), (4096, 1, 1)];
pub(super) const EXPIRED: Dates = [(2026, 1, 1), (2026, 1, 2)];

impl Maker {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Its certificate, as files hold it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a host, or for nobody if that is empty.
    pub(super) fn certify(&self, host: &str, key: &impl PublicKeyData, [from, until]: Dates) -> String {
        let mut params = CertificateParams::default();
        if !host.is_empty() {
            let uri = format!("spiffe://moorline-7/host/{host}");
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        }
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// A certificate and a key of a host that is good between these dates.
    pub(super) fn present(&self, host: &str, dates: Dates) -> Present {
        let key = key::make().unwrap();
        self.presented(host, &key, dates).unwrap()
    }

    fn presented(&self, host: &str, key: &KeyPair, dates: Dates) -> Result<Present, IdentityError> {
        let pem = self.certify(host, key, dates);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        Present::new(der, key::der(key))
    }
}

pub(super) fn id(host: &str) -> HostId {
    host.parse().unwrap()
}

/// Makes the owner of this folder a host of the maker's, whose control plane is there.
pub(super) fn enrolled_by(maker: &Maker, state: &Path, host: &str, url: &str) {
    let files = Files::of(state);
    files.make().unwrap();
    let enrolment = Enrolment { url: url.into() };
    files.keep_enrolment(&enrolment, &maker.pem).unwrap();
    let key = files.next_key().unwrap();
    files
        .keep(&id(host), &maker.certify(host, &key, GOOD), &key)
        .unwrap();
}

/// Makes the owner of this folder a host whose control plane is away.
pub(crate) fn enrolled(state: &Path, host: &str) {
    enrolled_by(&Maker::new(), state, host, "https://127.0.0.1:9");
}

/// The identity of a host that nobody knows.
pub(crate) fn identity() -> HostIdentity {
    HostIdentity::new(Maker::new().present("h1", GOOD))
}

#[test]
fn what_is_kept_is_found_again_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    let files = Files::of(folder.path());
    assert_eq!(files.url().unwrap().to_string(), "https://127.0.0.1:9");
    files.authority().unwrap();
    let present = files.present().unwrap();
    assert_eq!(present.host().as_str(), "h1");
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
    let present = Maker::new().present("h1", GOOD);
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
fn a_certificate_that_is_not_the_hosts_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    enrolled(folder.path(), "h1");
    let (files, maker) = (Files::of(folder.path()), Maker::new());
    let before = files.present().unwrap().key_id().to_owned();
    let (next, other) = (files.next_key().unwrap(), KeyPair::generate().unwrap());
    for unfit in [
        maker.certify("h1", &other, GOOD),
        maker.certify("h2", &next, GOOD),
        maker.certify("", &next, GOOD),
    ] {
        assert!(files.keep(&id("h1"), &unfit, &next).is_err());
    }
    assert_eq!(files.present().unwrap().key_id(), before);
    // Asked again it is the same key, for an answer that was lost.
    let again = files.next_key().unwrap();
    assert_eq!(again.serialize_der(), next.serialize_der());
    assert_eq!(
        maker.presented("", &next, GOOD).unwrap_err(),
        IdentityError::NoHost
    );
}

#[test]
fn a_machine_that_is_no_host_is_told_how_to_become_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = Files::of(folder.path()).url().unwrap_err().to_string();
    assert!(error.contains("moorline-host enroll - --state"), "{error}");
}
