//! Hosts as they are: enrolled, and known by the certificate that their connection shows.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::secret::SecretKey;
use moorline_shared::{Digest, HostId};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value as Json, json};

use super::{Api, Reply};
use crate::http::peer::HostCertificate;

/// A host with its key.
pub(super) struct Host {
    pub(super) name: HostId,
    pub(super) key: EcdsaKeyPair,
    pub(super) certificate: HostCertificate,
}

impl Api {
    /// Enrols a host as an operator and a machine do.
    pub(super) async fn enrol(&self, name: &str) -> Host {
        let secret = SecretKey::from(*Digest::of(uuid::Uuid::new_v4().as_bytes()).bytes());
        let token = json!({"digest": EnrolmentToken::digest_of(&secret)});
        let target = format!("/v1/hosts/{name}/enrolment-tokens");
        let made = self.json(Method::POST, &target, &[], token).await;
        assert_eq!(made.status, StatusCode::OK, "{made:?}");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let enrol = json!({"secret": secret, "request": STANDARD.encode(request.der())});
        let target = format!("/v1/hosts/{name}/enrol");
        let issued = self.json(Method::POST, &target, &[], enrol).await;
        assert_eq!(issued.status, StatusCode::OK, "{issued:?}");
        let pem = issued.body["certificate"].as_str().unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        Host {
            name: name.parse().unwrap(),
            key: EcdsaKeyPair::from_pkcs8(kind, &key.serialize_der(), &random).unwrap(),
            certificate: HostCertificate::read(&certificate).unwrap(),
        }
    }

    /// Asks as a host.
    pub(super) async fn by_host(
        &self,
        host: &Host,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Json,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .extension(host.certificate.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.exchange(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    /// Reads as a guest, by the word of its host.
    pub(super) async fn as_guest(&self, id: &str, target: &str) -> Reply {
        self.as_guest_of(self.host(), id, target).await
    }

    /// The same by the word of any host.
    pub(super) async fn as_guest_of(&self, host: &Host, id: &str, target: &str) -> Reply {
        let headers = [("moorline-instance", id)];
        self.by_host(host, Method::GET, target, &headers, Json::Null)
            .await
    }
}
