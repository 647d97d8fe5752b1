//! What a guest asks the control plane, sent byte for byte in the guest's name by its host.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use moorline_shared::api::{IDEMPOTENCY_KEY, OPERATION, REVISION, SERVER_TIME};
use moorline_shared::signature::{
    self, CONTENT_DIGEST, HOST, Request as SignedRequest, SIGNATURE, SIGNATURE_INPUT, Seconds, TOKEN,
    host_input,
};
use moorline_shared::{EntryPath, InstanceId, OperationId};

use crate::error::ClientError;
use crate::transport::Client;

/// The longest body of an answer that a guest is given (`shared/PROTOCOL.md`), in bytes: 4 MiB.
const MAX_RELAYED_BYTES: usize = 4 * 1024 * 1024;
/// The longest target, in bytes.
const MAX_TARGET_BYTES: usize = 2048;

/// A guest's request, checked: its method and target are of the operations on instance data, and its headers are
/// those that such a request may have. Nothing in it was changed.
#[derive(Clone, Debug)]
pub struct GuestRequest {
    method: Method,
    target: Box<str>,
    headers: HeaderMap,
}

impl GuestRequest {
    /// Checks the head of a guest's request.
    ///
    /// Allowed are get, list, put, append, delete, batch, describe, history and access of any instance: whether the
    /// guest may do that is the control plane's decision. A watch is not, since a host answers it from its cache. Allowed
    /// is also what an instance asks for itself: to be identified, identity tokens, and what became of a change.
    ///
    /// # Errors
    /// [`RelayRefusal`], which says what is not allowed; the guest may see it.
    pub fn new(method: &str, target: &str, headers: &[(String, String)]) -> Result<Self, RelayRefusal> {
        let method = Method::from_bytes(method.as_bytes());
        let method = method.map_err(|_| RelayRefusal::Method)?;
        check_target(&method, target)?;
        let headers = headers.iter().map(|(name, value)| allowed_header(name, value));
        Ok(Self {
            method,
            target: target.into(),
            headers: headers.collect::<Result<_, _>>()?,
        })
    }

    /// The same with the host's signature over the guest's. What the guest didn't sign stays as it is.
    ///
    /// `sign` gives the signature by ECDSA on P-256 with SHA-256 in 64 bytes, with the key that is known by `key_id`.
    #[must_use]
    pub fn countersigned(
        mut self,
        created: Seconds,
        key_id: &str,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Self {
        let input = host_input(created, key_id);
        let signatures = self.headers.get_all(SIGNATURE).iter();
        let signatures: Vec<_> = signatures.filter_map(|value| value.to_str().ok()).collect();
        let fields: Vec<_> = signatures.iter().map(|value| (SIGNATURE, *value)).collect();
        let request = SignedRequest {
            method: self.method.as_str(),
            authority: "",
            target: &self.target,
            fields: &fields,
        };
        if let Ok(base) = request.base(&input) {
            for (name, value) in signature::fields(HOST, &input, &sign(base.as_bytes())) {
                if let Ok(value) = HeaderValue::try_from(value) {
                    self.headers.append(HeaderName::from_static(name), value);
                }
            }
        }
        self
    }
}

/// Why a guest's request is not sent on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayRefusal {
    /// Not a method at all.
    #[error("the method is not one of GET, PUT, POST and DELETE")]
    Method,
    /// Not a target that a guest may ask for with this method.
    #[error(
        "this method and target can't be relayed: a guest may ask for /v1/instances/ID/ with data, batch, \
         describe, history or access behind it, or identify or identity-token, or for an operation by its id, unescaped and in at most {MAX_TARGET_BYTES} bytes"
    )]
    Target,
    /// A header that a guest may not set.
    #[error("the header '{0}' can't be relayed")]
    Header(String),
}

/// What the control plane answered, whatever it says.
#[derive(Clone, Debug)]
pub struct RawReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers that a guest may see.
    pub headers: Vec<(String, String)>,
    /// The body, of at most 4 MiB.
    pub body: Bytes,
}

impl Client {
    /// Sends a guest's request as it stands in the name of `instance`, and gives the answer as it stands.
    ///
    /// # Errors
    /// Only those without an answer; a problem is an answer, and its reader is the guest. [`ClientError::TooLong`] where
    /// the answer is longer than a guest is given.
    pub async fn relay(
        &self,
        instance: InstanceId,
        request: &GuestRequest,
        body: Bytes,
    ) -> Result<RawReply, ClientError> {
        let call = self
            .on_behalf_of(instance)
            .call(request.method.clone(), &request.target)?;
        let reply = self
            .exchange_within(
                MAX_RELAYED_BYTES,
                call.headers(request.headers.clone()).body(body),
            )
            .await?;
        Ok(RawReply {
            status: reply.status.as_u16(),
            headers: shown_headers(&reply.headers),
            body: reply.body,
        })
    }
}

fn check_target(method: &Method, target: &str) -> Result<(), RelayRefusal> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plain_query = query.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if target.len() > MAX_TARGET_BYTES || !plain_query || !is_allowed(method, path) {
        return Err(RelayRefusal::Target);
    }
    Ok(())
}

/// Ids and paths are parsed here by the rules of their types, which have no escapes in them: what the control plane
/// takes apart later can't come out as anything else.
fn is_allowed(method: &Method, path: &str) -> bool {
    if let Some(operation) = path.strip_prefix("/v1/operations/") {
        return *method == Method::GET && operation.parse::<OperationId>().is_ok();
    }
    let Some((id, rest)) = path
        .strip_prefix("/v1/instances/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let (of, entry) = rest
        .split_once('/')
        .map_or((rest, None), |(of, entry)| (of, Some(entry)));
    let entry_is_path = entry.is_none_or(|entry| EntryPath::check(entry).is_ok());
    let operation = matches!(
        (of, entry, method.as_str()),
        ("data", Some(_), "GET" | "PUT" | "POST" | "DELETE")
            | ("data" | "describe", None, "GET")
            | ("batch" | "identify" | "identity-token", None, "POST")
            | ("history", Some(_), "GET")
            | ("access", Some(_), "PUT")
    );
    operation && entry_is_path && id.parse::<InstanceId>().is_ok()
}

fn allowed_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), RelayRefusal> {
    const ALLOWED: [HeaderName; 9] = [
        header::ACCEPT,
        header::CONTENT_TYPE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        HeaderName::from_static(IDEMPOTENCY_KEY),
        HeaderName::from_static(CONTENT_DIGEST),
        HeaderName::from_static(TOKEN),
        HeaderName::from_static(SIGNATURE_INPUT),
        HeaderName::from_static(SIGNATURE),
    ];
    let refuse = || RelayRefusal::Header(name.chars().take(64).filter(|c| !c.is_control()).collect());
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse())?;
    let mut value = HeaderValue::from_str(value).map_err(|_| refuse())?;
    value.set_sensitive(header == TOKEN);
    if ALLOWED.contains(&header) {
        Ok((header, value))
    } else {
        Err(refuse())
    }
}

fn shown_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = [
        header::CONTENT_TYPE.as_str(),
        header::ETAG.as_str(),
        header::RETRY_AFTER.as_str(),
        OPERATION,
        REVISION,
        SERVER_TIME,
    ];
    let pair = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        Some((name.to_owned(), value.to_owned()))
    };
    shown.into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use moorline_shared::signature::Seconds;

    use super::{GuestRequest, RelayRefusal};

    const ID: &str = "i-0123456789abcdef0123456789abcdef";

    fn ask(method: &str, rest: &str) -> Result<GuestRequest, RelayRefusal> {
        GuestRequest::new(method, &format!("/v1/instances/{ID}/{rest}"), &[])
    }

    #[test]
    fn the_operations_on_data_are_relayed() {
        for (method, rest) in [
            ("GET", "data"),
            ("GET", "data?prefix=net&values=true"),
            ("GET", "data/net/mac"),
            ("PUT", "data/net/mac"),
            ("POST", "data/log"),
            ("DELETE", "data/log"),
            ("POST", "batch"),
            ("GET", "describe"),
            ("GET", "history/log?limit=5"),
            ("PUT", "access/log"),
            ("POST", "identify"),
            ("POST", "identity-token"),
        ] {
            assert!(ask(method, rest).is_ok(), "{method} {rest} was refused");
        }
        let operation = format!("/v1/operations/op-{}", "0f".repeat(32));
        assert!(GuestRequest::new("GET", &operation, &[]).is_ok());
        assert!(GuestRequest::new("POST", &operation, &[]).is_err());
        assert!(GuestRequest::new("GET", &operation[..20], &[]).is_err());
        assert!(GuestRequest::new("GET", "/v1/operations", &[]).is_err());
    }

    #[test]
    fn nothing_else_is() {
        for (method, rest) in [
            ("GET", ""),
            ("GET", "watch"),
            ("PATCH", "data/x"),
            ("POST", "data"),
            ("GET", "identify"),
            ("POST", "identify/x"),
            ("GET", "data/"),
            ("GET", "data/../x"),
            ("GET", "data/%2e%2e/x"),
            ("GET", "data/a b"),
            ("GET", "data/x?a#b"),
            ("GET", "data?a b"),
            ("POST", "../terminate"),
            ("G ET", "data"),
        ] {
            assert!(ask(method, rest).is_err(), "{method} {rest} was taken");
        }
        for target in [
            "",
            "/",
            "/v1/hosts",
            "/v1/instances/terminate",
            "http://elsewhere/v1/instances/x/data",
        ] {
            assert!(
                GuestRequest::new("POST", target, &[]).is_err(),
                "{target} was taken"
            );
        }
        assert!(ask("GET", &format!("data?{}", "x".repeat(2048))).is_err());
    }

    #[test]
    fn the_hosts_signature_is_added_to_what_the_guest_signed() {
        let target = format!("/v1/instances/{ID}/data/a");
        let headers = [("signature-input", "guest=()"), ("signature", "guest=:AQID:")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = GuestRequest::new("PUT", &target, &headers).unwrap();
        let request = request.countersigned(Seconds(7), "0a", |base| {
            assert!(base.starts_with(b"\"signature\";key=\"guest\": :AQID:\n"));
            b"signed".to_vec()
        });
        let all = |name: &str| {
            request
                .headers
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(all("signature"), ["guest=:AQID:", "host=:c2lnbmVk:"]);
        assert_eq!(all("signature-input").len(), 2);
        let unsigned = ask("PUT", "data/a")
            .unwrap()
            .countersigned(Seconds(7), "0a", |_| unreachable!());
        assert!(unsigned.headers.is_empty());
    }

    #[test]
    fn a_guest_sets_no_header_of_its_host() {
        let ask = |name: &str, value: &str| {
            let target = format!("/v1/instances/{ID}/data");
            GuestRequest::new("GET", &target, &[(name.to_owned(), value.to_owned())])
        };
        assert!(ask("If-None-Match", "*").is_ok());
        for name in [
            "authorization",
            "Moorline-Instance",
            "moorline-host",
            "host",
            "connection",
            "a b",
            "",
        ] {
            assert!(
                matches!(ask(name, "x"), Err(RelayRefusal::Header(_))),
                "{name} was taken"
            );
        }
        assert!(ask("accept", "a\r\nmoorline-host: b").is_err());
    }
}
