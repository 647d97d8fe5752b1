//! Requests sent, answers read and bounded, and both sent again where that is safe.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use moorline_shared::InstanceId;
use moorline_shared::api::{IDEMPOTENCY_KEY, ON_BEHALF_OF, ProblemDetails};
use reqwest::{Request, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::endpoint::{Endpoint, Retries};
use crate::error::{Asked, ClientError, Server};
use crate::ndjson::Lines;
use crate::stream::{EventStream, events};
use crate::tls::{self, Identity, Trust};
use crate::token::Token;

/// The longest answer that is read, in bytes. Streams have a bound for each line instead.
pub const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the answer's last byte; for a stream, to the answer's head.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a stream's connection is probed, and how long the answer may take: a peer that is gone without a word
/// is noticed within half a minute.
const PROBE: Duration = Duration::from_secs(15);
/// How many bytes of streams may wait unread: 4 MiB. The HTTP/2 library ends a connection on which many small frames
/// wait: each counts 256 bytes less its length, and half of this window is too many. With the standard's 64 KiB a
/// burst of some 150 bookmarks would end a feed, with this it takes some 9,900.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// The control plane, as one caller sees it. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    wires: Arc<RwLock<Arc<Wires>>>,
    on_behalf_of: Option<InstanceId>,
    retries: Retries,
}

#[derive(Debug)]
struct Wires {
    /// What they are made of, to be made anew.
    endpoint: Endpoint,
    /// Requests with one answer: HTTP/1.1, a connection for each that is in flight.
    calls: reqwest::Client,
    /// Streams: HTTP/2, by ALPN or on plain HTTP by prior knowledge, so that all of them share one connection that is
    /// probed.
    streams: reqwest::Client,
}

impl Wires {
    fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let headers = standing_headers(&endpoint);
        let secured = |builder: reqwest::ClientBuilder, protocol: &[u8]| {
            let tls = tls::config(&endpoint.trust, endpoint.identity.as_ref(), protocol);
            let tls = tls.map_err(|error| ClientError::request(&endpoint.url, error))?;
            let built = builder.tls_backend_preconfigured(tls).build();
            built.map_err(|error| ClientError::request(&endpoint.url, error))
        };
        Ok(Self {
            calls: secured(basics(headers.clone()), b"http/1.1")?,
            streams: secured(probed(basics(headers)), b"h2")?,
            endpoint,
        })
    }
}

impl Client {
    /// A client of `endpoint`. It connects when the first request is made.
    ///
    /// # Errors
    /// [`ClientError::Request`] if HTTP or TLS can't be set up.
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let (on_behalf_of, retries) = (endpoint.on_behalf_of, endpoint.retries);
        Ok(Self {
            wires: Arc::new(RwLock::new(Arc::new(Wires::new(endpoint)?))),
            on_behalf_of,
            retries,
        })
    }

    /// Has this client and all that were cloned from it show another certificate from the next request on. What is under
    /// way ends on the connections that it began on.
    ///
    /// # Errors
    /// [`ClientError::Request`] if the key and the certificate don't belong together; then nothing has changed.
    pub fn identify(&self, identity: Identity) -> Result<(), ClientError> {
        let mut endpoint = self.wires().endpoint.clone();
        endpoint.identity = Some(identity);
        self.replace(endpoint)
    }

    /// Has this client and all that were cloned from it show another token from the next request on.
    ///
    /// # Errors
    /// [`ClientError::Request`] if HTTP or TLS can't be set up; then nothing has changed.
    pub fn authorize(&self, token: Token) -> Result<(), ClientError> {
        let mut endpoint = self.wires().endpoint.clone();
        if endpoint.token.as_ref() == Some(&token) {
            return Ok(());
        }
        endpoint.token = Some(token);
        self.replace(endpoint)
    }

    fn replace(&self, endpoint: Endpoint) -> Result<(), ClientError> {
        let wires = Arc::new(Wires::new(endpoint)?);
        *self.wires.write().unwrap_or_else(PoisonError::into_inner) = wires;
        Ok(())
    }

    fn wires(&self) -> Arc<Wires> {
        self.wires.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same client, asking in the name of one of its host's instances.
    #[must_use]
    pub fn on_behalf_of(&self, instance: InstanceId) -> Self {
        Self {
            on_behalf_of: Some(instance),
            ..self.clone()
        }
    }

    /// A request with one answer. `path` begins with a slash and needs no escaping.
    pub(crate) fn call(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let request = self.begin(&self.wires().calls, method, path)?;
        Ok(request.timeout(REQUEST_TIMEOUT))
    }

    /// A request that a stream answers.
    pub(crate) fn stream(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        self.begin(&self.wires().streams, method, path)
    }

    fn begin(
        &self,
        client: &reqwest::Client,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, ClientError> {
        let wires = self.wires();
        let url = wires.endpoint.url.join(path);
        let url = url.map_err(|error| ClientError::request(&wires.endpoint.url, error))?;
        let request = client.request(method, url);
        Ok(match self.on_behalf_of {
            Some(instance) => request.header(ON_BEHALF_OF, instance.to_string()),
            None => request,
        })
    }

    /// Sends a request and reads its answer into a `T`.
    pub(crate) async fn answer<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        succeeded(self.exchange(request).await?)?.parsed()
    }

    /// Sends a request and reads its answer, whatever it says, as often as the retries allow: what never reached anybody
    /// is sent again, and what may have been done only if doing it twice does no harm.
    pub(crate) async fn exchange(&self, request: RequestBuilder) -> Result<Reply, ClientError> {
        self.exchange_within(MAX_REPLY_BYTES, request).await
    }

    /// The same, for an answer whose body has at most so many bytes.
    pub(crate) async fn exchange_within(
        &self,
        most: usize,
        request: RequestBuilder,
    ) -> Result<Reply, ClientError> {
        let request = self.built(request)?;
        let asked = asked(&request);
        let harmless = is_harmless_twice(&request);
        let mut attempt = 0;
        while let Some(wait) = self.retries.wait(attempt) {
            // Bodies are bytes in memory, so a request can always be copied.
            let copy = request.try_clone().expect("a body in memory can be copied");
            match exchange_once(&self.wires().calls, &asked, most, copy).await {
                Err(ClientError::Unreachable { .. }) => {}
                Err(ClientError::Lost { .. }) if harmless => {}
                settled => return settled,
            }
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
        exchange_once(&self.wires().calls, &asked, most, request).await
    }

    /// Sends a request and gives the lines of its answer, as `lines` bounds them. It is sent once: whoever follows a
    /// stream has to begin again anyhow when it ends.
    pub(crate) async fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        request: RequestBuilder,
        lines: Lines,
    ) -> Result<EventStream<T>, ClientError> {
        let request = self.built(request)?;
        let asked = asked(&request);
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, self.wires().streams.execute(request)).await;
        let response = sent
            .map_err(|late| asked.lost(late))?
            .map_err(|error| asked.failed(error))?;
        if response.status().is_success() {
            return Ok(events(asked, response, lines));
        }
        let read =
            tokio::time::timeout(REQUEST_TIMEOUT, Reply::read(&asked, MAX_REPLY_BYTES, response)).await;
        let reply = read.map_err(|late| asked.lost(late))??;
        Err(refused(&reply))
    }

    fn built(&self, request: RequestBuilder) -> Result<Request, ClientError> {
        let request = request.build();
        request.map_err(|error| ClientError::request(&self.wires().endpoint.url, error.without_url()))
    }
}

/// Whether nothing is done by it, or at most once: it reads, or is known by its key (`IDEMPOTENCY_KEY`).
fn is_harmless_twice(request: &Request) -> bool {
    request.method().is_safe() || request.headers().contains_key(IDEMPOTENCY_KEY)
}

/// Sends a request once and reads its answer, whatever it says in at most so many bytes.
pub(crate) async fn exchange_once(
    client: &reqwest::Client,
    asked: &Asked,
    most: usize,
    request: Request,
) -> Result<Reply, ClientError> {
    let response = client.execute(request).await;
    Reply::read(asked, most, response.map_err(|error| asked.failed(error))?).await
}

fn asked(request: &Request) -> Asked {
    Asked {
        server: Server::ControlPlane,
        method: request.method().clone(),
        url: request.url().to_string(),
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) asked: Asked,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    async fn read(asked: &Asked, most: usize, mut response: Response) -> Result<Self, ClientError> {
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|error| asked.failed(error))? {
            if body.len() + piece.len() > most {
                return Err(asked.too_long(most));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self {
            asked: asked.clone(),
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body: body.freeze(),
        })
    }

    /// The body as a `T`.
    pub(crate) fn parsed<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        let parsed = serde_json::from_slice(&self.body);
        parsed.map_err(|error| self.asked.unparsable("an unknown body", error))
    }
}

/// The reply itself if it says that the request was done.
pub(crate) fn succeeded(reply: Reply) -> Result<Reply, ClientError> {
    if reply.status.is_success() {
        Ok(reply)
    } else {
        Err(refused(&reply))
    }
}

/// The problem that a reply states.
pub(crate) fn refused(reply: &Reply) -> ClientError {
    let kind = reply.headers.get(header::CONTENT_TYPE);
    let is_problem = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
    if !is_problem {
        return reply
            .asked
            .protocol(format!("status {} and no problem details", reply.status));
    }
    match serde_json::from_slice::<ProblemDetails>(&reply.body) {
        Ok(problem) => ClientError::Problem(Box::new(problem)),
        Err(error) => reply.asked.unparsable(format!("status {}", reply.status), error),
    }
}

fn standing_headers(endpoint: &Endpoint) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(token) = &endpoint.token {
        headers.insert(header::AUTHORIZATION, token.header());
    }
    headers
}

/// Those of a caller that speaks no TLS.
pub(crate) fn unsecured() -> Result<reqwest::ClientBuilder, Box<dyn std::error::Error + Send + Sync>> {
    let tls = tls::config(&Trust::Nobody, None, b"http/1.1")?;
    Ok(basics(HeaderMap::new()).tls_backend_preconfigured(tls))
}

/// No proxy and no redirect: a token goes to the address it was given for, and nowhere else.
fn basics(headers: HeaderMap) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("moorline/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
}

fn probed(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .http2_prior_knowledge()
        .http2_keep_alive_interval(PROBE)
        .http2_keep_alive_timeout(PROBE)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(STREAM_WINDOW)
}
