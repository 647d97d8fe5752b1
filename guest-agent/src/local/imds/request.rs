//! What a request is for, and whether it may be answered at all.

use std::net::SocketAddrV4;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

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
    Path {
        /// The path.
        path: &'a str,
        /// The token that the request has.
        token: Option<&'a HeaderValue>,
    },
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
    /// The usual names, and the address where it listens. Clients leave out the port where it is HTTP's own.
    pub(super) fn of(listen: SocketAddrV4) -> Self {
        let usual = ["169.254.169.254", "[fd00:ec2::254]"];
        let with_port = usual.iter().map(|name| format!("{name}:80"));
        let named = usual.iter().map(ToString::to_string);
        let own = (listen.port() == 80).then(|| listen.ip().to_string());
        let own = own.into_iter().chain([listen.to_string()]);
        Self(named.chain(with_port).chain(own).collect())
    }

    fn knows(&self, name: &[u8]) -> bool {
        self.0.iter().any(|host| host.as_bytes() == name)
    }
}

/// The headers that mean something here, found in one pass: looking each one up costs as much as all else.
#[derive(Debug, Default)]
struct Head<'r> {
    hosts: usize,
    host: Option<&'r HeaderValue>,
    tokens: usize,
    token: Option<&'r HeaderValue>,
    ttls: usize,
    ttl: Option<&'r HeaderValue>,
    forwarded: usize,
}

impl<'r> Head<'r> {
    fn of(headers: &'r HeaderMap) -> Self {
        let mut head = Self::default();
        for (name, value) in headers {
            if *name == HOST {
                head.hosts += 1;
                head.host = Some(value);
            } else if *name == TOKEN {
                head.tokens += 1;
                head.token = Some(value);
            } else if *name == TOKEN_TTL {
                head.ttls += 1;
                head.ttl = Some(value);
            } else if *name == FORWARDED_FOR {
                head.forwarded += 1;
            }
        }
        head
    }

    /// Whether the one `Host`, and the authority of the target where there is one, name the service, and nobody passed
    /// the request on.
    fn is_for_us(&self, uri: &Uri, hosts: &Hosts) -> bool {
        let authority = uri.authority();
        self.forwarded == 0
            && self.hosts == 1
            && self.host.is_some_and(|host| hosts.knows(host.as_bytes()))
            && authority.is_none_or(|authority| hosts.knows(authority.as_str().as_bytes()))
    }

    fn asked_ttl(&self) -> Option<TokenTtl> {
        let ttl = self.ttl.filter(|_| self.ttls == 1)?;
        TokenTtl::parse(ttl.as_bytes())
    }
}

/// What the request asks, if it is from a client that may ask.
pub(super) fn read<'r, B>(request: &'r Request<B>, hosts: &Hosts) -> Result<Asked<'r>, Refusal> {
    let (head, uri) = (Head::of(request.headers()), request.uri());
    if !head.is_for_us(uri, hosts) {
        return Err(Refusal::Forbidden);
    }
    let (path, token) = (uri.path(), head.token);
    if is_token_path(path) {
        return match *request.method() {
            Method::PUT => head.asked_ttl().map(Asked::Token).ok_or(Refusal::BadTtl),
            _ => Err(Refusal::Method("PUT")),
        };
    }
    match *request.method() {
        // Which of them is meant nobody can say.
        Method::GET | Method::HEAD if head.tokens > 1 => Err(Refusal::Unauthorized),
        Method::GET | Method::HEAD => Ok(Asked::Path { path, token }),
        _ => Err(Refusal::Method("GET, HEAD")),
    }
}

fn is_token_path(path: &str) -> bool {
    path == TOKEN_PATH || (path.ends_with(['n', '/']) && segments(path).eq(segments(TOKEN_PATH)))
}

/// The segments of a path. Slashes that are doubled, and those at its end, mean nothing.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::Hosts;

    #[test]
    fn the_usual_port_may_be_left_out() {
        let hosts = |place: &str| Hosts::of(place.parse().unwrap());
        let usual = hosts("10.0.0.1:80");
        assert!(usual.knows(b"10.0.0.1") && usual.knows(b"10.0.0.1:80"));
        let other = hosts("10.0.0.1:81");
        assert!(!other.knows(b"10.0.0.1") && other.knows(b"10.0.0.1:81"));
    }
}
