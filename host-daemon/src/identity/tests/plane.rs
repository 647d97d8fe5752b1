//! A control plane that certifies hosts as a test says, over TLS.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, http::StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use moorline_client::{Authority, Trust};
use moorline_shared::api::enrolment::HostCertificateIssued;
use rcgen::{CertificateParams, KeyPair, SanType, SubjectPublicKeyInfo};
use rustls::RootCertStore;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::{GOOD, Maker};

/// What comes of a request for a certificate.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Answer {
    /// The certificate.
    Issued,
    /// The certificate of another host.
    OfAnotherHost,
    /// The certificate, of an authority that nobody knows.
    OfAnotherAuthority,
    /// It is issued, and the connection breaks before that is said.
    Lost,
    /// A refusal, with this status.
    Refused(u16),
}

/// What was asked.
#[derive(Debug)]
pub(in super::super) struct Asked {
    /// The path.
    pub(in super::super) path: String,
    /// The key that the certificate is to be for.
    pub(in super::super) key: Vec<u8>,
    /// The certificate that was shown.
    pub(in super::super) shown: Option<CertificateDer<'static>>,
}

/// The control plane. It ends when it is dropped.
pub(in super::super) struct Plane {
    pub(in super::super) maker: Arc<Maker>,
    pub(in super::super) url: String,
    /// What it was asked, in order.
    pub(in super::super) asked: mpsc::UnboundedReceiver<Asked>,
    _tasks: JoinSet<()>,
}

/// What a connection is answered with.
struct Script {
    maker: Arc<Maker>,
    answers: Mutex<VecDeque<Answer>>,
    seen: mpsc::UnboundedSender<Asked>,
}

impl Plane {
    /// One that gives these answers, and certificates after them.
    pub(in super::super) async fn new(answers: &[Answer]) -> Self {
        // Without a provider no client can be made; whoever comes second finds one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (maker, (seen, asked)) = (Arc::new(Maker::new()), mpsc::unbounded_channel());
        let acceptor = TlsAcceptor::from(Arc::new(tls(&maker)));
        let script = Arc::new(Script {
            maker: maker.clone(),
            answers: Mutex::new(answers.iter().copied().collect()),
            seen,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(acceptor.clone(), stream, script.clone()));
            }
        });
        Self {
            maker,
            url,
            asked,
            _tasks: tasks,
        }
    }

    /// Whom those trust who know it.
    pub(in super::super) fn trust(&self) -> Trust {
        Trust::Authority(Authority::from_pem(self.maker.pem().as_bytes()).unwrap())
    }
}

fn tls(maker: &Maker) -> ServerConfig {
    let authority = CertificateDer::from_pem_slice(maker.pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let hosts = WebPkiClientVerifier::builder(roots.into()).allow_unauthenticated();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let key = KeyPair::generate().unwrap();
    let own = params.signed_by(&key, &maker.issuer).unwrap().der().clone();
    ServerConfig::builder()
        .with_client_cert_verifier(hosts.build().unwrap())
        .with_single_cert(vec![own, authority], PrivatePkcs8KeyDer::from(key).into())
        .unwrap()
}

async fn converse(acceptor: TlsAcceptor, stream: TcpStream, script: Arc<Script>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let shown = stream.get_ref().1.peer_certificates();
    let shown = shown.and_then(|chain| chain.first().cloned());
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (script, shown) = (script.clone(), shown.clone());
        async move { Ok::<_, Infallible>(script.answer(request.map(Body::new), shown).await) }
    });
    // Whoever asks may hang up.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Script {
    async fn answer(&self, request: Request<Body>, shown: Option<CertificateDer<'static>>) -> Response {
        let path = request.uri().path().to_owned();
        let host = path.split('/').nth(3).unwrap().to_owned();
        let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let key = key_of(body["request"].as_str().unwrap());
        let asked = Asked {
            path,
            key: key.clone(),
            shown,
        };
        self.seen.send(asked).unwrap();
        let answer = self.answers.lock().unwrap().pop_front();
        match answer.unwrap_or(Answer::Issued) {
            Answer::Issued => issued(&self.maker, &host, &key),
            Answer::OfAnotherHost => issued(&self.maker, "another", &key),
            Answer::OfAnotherAuthority => issued(&Maker::new(), &host, &key),
            Answer::Lost => {
                let broken = async { Err::<Bytes, _>(io::Error::other("the connection breaks")) };
                Body::from_stream(futures_util::stream::once(broken)).into_response()
            }
            Answer::Refused(status) => refused(status),
        }
    }
}

/// The key of a request in base64.
fn key_of(request: &str) -> Vec<u8> {
    let der = STANDARD.decode(request).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
    parsed.certification_request_info.subject_pki.raw.to_vec()
}

fn issued(maker: &Maker, host: &str, key: &[u8]) -> Response {
    let key = SubjectPublicKeyInfo::from_der(key).unwrap();
    let issued = HostCertificateIssued {
        certificate: maker.certify(host, &key, GOOD),
        authority: maker.pem().to_owned(),
        serial: String::new(),
        generation: 2,
        expires_at: "2099-01-01T00:00:00Z".parse().unwrap(),
        operation: format!("op-{}", "0".repeat(64)).parse().unwrap(),
        revision: Default::default(),
    };
    Json(issued).into_response()
}

fn refused(status: u16) -> Response {
    let problem = json!({"type": "refused", "title": "No", "status": status, "detail": "no"});
    let kind = [("content-type", "application/problem+json")];
    (StatusCode::from_u16(status).unwrap(), kind, Json(problem)).into_response()
}
