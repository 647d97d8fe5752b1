//! TLS: whom the client trusts, and what it says of those that it doesn't.

use std::net::SocketAddr;
use std::sync::Arc;

use moorline_client::{
    Authority, AuthorityDigest, Client, ClientError, Endpoint, Retries, TlsRefusal, Trust,
};
use moorline_shared::Digest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto, version};

use crate::server::json;

const HOSTS: &str = r#"{"revision": "1.7", "hosts": []}"#;

struct Maker {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Maker {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let made = params.self_signed(&key).unwrap();
        Self {
            certificate: made.der().clone(),
            pem: made.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn trust(&self) -> Trust {
        Trust::Authority(Authority::from_pem(self.pem.as_bytes()).unwrap())
    }

    fn digest(&self) -> Trust {
        Trust::Digest(AuthorityDigest::from(Digest::of(&self.certificate)))
    }

    /// How a server speaks that has a certificate of this maker's, made of `params`.
    fn config(&self, params: &CertificateParams) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = vec![own, self.certificate.clone()];
        ServerConfig::builder_with_provider(crypto::ring::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key).into())
            .unwrap()
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    params
}

/// Answers every connection's first request with no hosts.
async fn serve(config: ServerConfig) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut asked = [0; 4096];
            if stream.read(&mut asked).await.is_ok() {
                let answer = json("200 OK", "application/json", HOSTS);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, tasks)
}

async fn ask(address: SocketAddr, trust: Trust) -> Result<(), ClientError> {
    let url = format!("https://{address}").parse().unwrap();
    let endpoint = Endpoint::new(url, "hunter2".parse().unwrap()).trusting(trust);
    let client = Client::new(endpoint.retrying(Retries::NEVER))?;
    client.describe_hosts().await.map(drop)
}

async fn refusal(address: SocketAddr, trust: Trust) -> TlsRefusal {
    match ask(address, trust).await.unwrap_err() {
        ClientError::Untrusted { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_control_plane_is_known_by_its_authority_or_by_that_ones_digest() {
    let maker = Maker::new();
    let (address, _server) = serve(maker.config(&params())).await;
    ask(address, maker.trust()).await.unwrap();
    ask(address, maker.digest()).await.unwrap();
}

#[tokio::test]
async fn any_other_server_is_refused_with_what_is_wrong() {
    let (maker, other) = (Maker::new(), Maker::new());
    let (address, _server) = serve(maker.config(&params())).await;
    let unknown = TlsRefusal::UnknownAuthority;
    assert_eq!(refusal(address, other.trust()).await, unknown);
    assert_eq!(refusal(address, Trust::Nobody).await, unknown);
    let pinned = refusal(address, other.digest()).await;
    assert!(matches!(pinned, TlsRefusal::OtherAuthority(_)), "{pinned}");

    let mut expired = params();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let (address, _server) = serve(maker.config(&expired)).await;
    for trust in [maker.trust(), maker.digest()] {
        assert_eq!(refusal(address, trust).await, TlsRefusal::Expired);
    }

    let elsewhere = CertificateParams::new(vec!["control.example".to_owned()]).unwrap();
    let (address, _server) = serve(maker.config(&elsewhere)).await;
    for trust in [maker.trust(), maker.digest()] {
        let name = refusal(address, trust).await.to_string();
        assert!(
            name.contains("control.example") && name.contains("'names'"),
            "{name}"
        );
    }
}

/// It shows the right authority's certificate beside one that this authority never made.
#[tokio::test]
async fn who_only_shows_the_right_authority_is_refused() {
    let (maker, thief) = (Maker::new(), Maker::new());
    let stolen = Maker {
        certificate: maker.certificate.clone(),
        ..thief
    };
    let (address, _server) = serve(stolen.config(&params())).await;
    assert_eq!(
        refusal(address, maker.digest()).await,
        TlsRefusal::UnknownAuthority
    );
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_not_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert_eq!(refusal(address, Maker::new().trust()).await, TlsRefusal::NoTls);
}
