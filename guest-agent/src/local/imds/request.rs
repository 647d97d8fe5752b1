//! What a request is for, and whether it may be answered at all.

use std::net::SocketAddrV4;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use super::token::TokenTtl;

/// The token of a request.
static TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// For how long a token is asked for, and given.
pub(super) static TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const TOKEN_PATH: &str = "/latest/api/token";

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// A token.
    Token(TokenTtl),
    /// To read what is under a path.
    Path(&'a str),
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It came through a proxy, or a browser was made to send it: its `Host` is none of ours.
    Forbidden,
    /// The TTL of the token is missing or wrong.
    BadTtl,
    /// No token, or none that is good.
    Unauthorized,
    /// Nothing is there.
    NotFound,
    /// Not with this method, but with these.
    Method(&'static str),
    /// It isn't here yet.
    Unavailable,
}

/// The names under which clients know the service. A name that resolves to its address is none of them, so that a web
/// page can't make a browser in the guest ask (DNS rebinding).
#[derive(Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// The usual names, and the address where it listens.
    pub(super) fn of(listen: SocketAddrV4) -> Self {
        let usual = ["169.254.169.254", "[fd00:ec2::254]"];
        let with_port = usual.iter().map(|name| format!("{name}:80"));
        let named = usual.iter().map(ToString::to_string);
        Self(named.chain(with_port).chain([listen.to_string()]).collect())
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.0.iter().any(|host| host.as_bytes() == name)
    }
}

/// What the request asks, if it is from a client that may ask.
pub(super) fn read<'r, B>(request: &'r Request<B>, hosts: &Hosts) -> Result<Asked<'r>, Refusal> {
    let headers = request.headers();
    if headers.contains_key(&FORWARDED_FOR) || !is_for_us(request, hosts) {
        return Err(Refusal::Forbidden);
    }
    let path = request.uri().path();
    let method = request.method();
    if is_token_path(path) {
        return match *method {
            Method::PUT => asked_ttl(headers).map(Asked::Token).ok_or(Refusal::BadTtl),
            _ => Err(Refusal::Method("PUT")),
        };
    }
    match *method {
        Method::GET | Method::HEAD => Ok(Asked::Path(path)),
        _ => Err(Refusal::Method("GET, HEAD")),
    }
}

/// Whether the one `Host`, and the authority of the target where there is one, name the service.
fn is_for_us<B>(request: &Request<B>, hosts: &Hosts) -> bool {
    let mut named = request.headers().get_all(HOST).iter();
    let (first, second) = (named.next(), named.next());
    let authority = request.uri().authority();
    first.is_some_and(|host| hosts.knows(host.as_bytes()))
        && second.is_none()
        && authority.is_none_or(|authority| hosts.knows(authority.as_str().as_bytes()))
}

fn is_token_path(path: &str) -> bool {
    path == TOKEN_PATH || (path.ends_with(['n', '/']) && segments(path).eq(segments(TOKEN_PATH)))
}

/// The segments of a path. Slashes that are doubled, and those at its end, mean nothing.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn asked_ttl(headers: &HeaderMap) -> Option<TokenTtl> {
    let mut said = headers.get_all(&TOKEN_TTL).iter();
    let (first, second) = (said.next()?, said.next());
    TokenTtl::parse(first.as_bytes()).filter(|_| second.is_none())
}

/// The token that the request has.
pub(super) fn token(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(&TOKEN)
}
