//! Where the control plane is, who asks, and how often.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use moorline_shared::InstanceId;
use reqwest::Url;

use crate::tls::{Identity, Trust};
use crate::token::Token;

/// Everything a [`crate::Client`] is made of.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where the control plane is.
    pub url: BaseUrl,
    /// Whom the control plane is known by.
    pub trust: Trust,
    /// The certificate that the caller shows there, if it is known by one.
    pub identity: Option<Identity>,
    /// What the caller shows there; absent where a control plane asks for nothing.
    pub token: Option<Token>,
    /// In whose name every call is made, if not in the caller's own. A host names one of its instances here; for
    /// single calls there is [`crate::Client::on_behalf_of`].
    pub on_behalf_of: Option<InstanceId>,
    /// How often a call is made again when the connection is lost.
    pub retries: Retries,
}

impl Endpoint {
    /// An endpoint for a user: nobody else's name, no retries. Over `https` it has to be told
    /// [whom to trust](Self::trusting).
    pub fn new(url: BaseUrl, token: Token) -> Self {
        Self {
            url,
            trust: Trust::Nobody,
            identity: None,
            token: Some(token),
            on_behalf_of: None,
            retries: Retries::NEVER,
        }
    }

    /// An endpoint for who has no token: a host, which is known by its certificate, or a machine that is to become one.
    pub fn without_token(url: BaseUrl) -> Self {
        Self {
            url,
            trust: Trust::Nobody,
            identity: None,
            token: None,
            on_behalf_of: None,
            retries: Retries::NEVER,
        }
    }

    /// The same, showing a certificate.
    #[must_use]
    pub fn identified(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The same, knowing the control plane by its authority.
    #[must_use]
    pub fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The same with retries.
    #[must_use]
    pub fn retrying(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }
}

/// How often, and after what wait, a call is made again when no answer came: the control plane can't be reached, or
/// the connection broke. An answer, whatever it says, is never asked for again; nor is, once a connection came about, what
/// changes something and has no key, such as a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How many times more, after the first.
    pub more: u32,
    /// The wait before the first of them; each further wait is twice as long.
    pub first_wait: Duration,
}

impl Retries {
    /// Once and no more: the caller decides.
    pub const NEVER: Self = Self {
        more: 0,
        first_wait: Duration::ZERO,
    };

    /// What the command line does: three times more, after 100, 200 and 400 ms.
    pub const INTERACTIVE: Self = Self {
        more: 3,
        first_wait: Duration::from_millis(100),
    };

    /// The wait before the `attempt`-th repetition, from 0; `None` if there is none.
    pub(crate) fn wait(self, attempt: u32) -> Option<Duration> {
        (attempt < self.more).then(|| self.first_wait.saturating_mul(1 << attempt.min(16)))
    }
}

/// The control plane's address: `https://HOST[:PORT][/PREFIX]`, without user, query and fragment. Plain `http` is taken
/// for loopback addresses alone, where nothing leaves the machine.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// The address with `path` behind it, which begins with a slash and is already in the form of a URL.
    pub(crate) fn join(&self, path_and_query: &str) -> Result<Url, BaseUrlError> {
        let text = format!("{self}{path_and_query}");
        let url = Url::parse(&text).map_err(|source| BaseUrlError::Form {
            text: text.clone(),
            source: source.into(),
        })?;
        // The URL's parser mends what it is given. What it mended is not what was asked for.
        if url.as_str() == text {
            Ok(url)
        } else {
            Err(BaseUrlError::Mended { text })
        }
    }
}

impl BaseUrl {
    /// Whether it is this machine, for whoever uses the address.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }

    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|source| BaseUrlError::Form {
            text: text.to_owned(),
            source: source.into(),
        })?;
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => return Err(BaseUrlError::Plain),
            other => {
                return Err(BaseUrlError::Scheme {
                    scheme: other.to_owned(),
                });
            }
        }
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if bare {
            Ok(Self(url))
        } else {
            Err(BaseUrlError::Extras)
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Why a text is not the address of a control plane.
#[derive(Debug, thiserror::Error)]
pub enum BaseUrlError {
    /// Not a URL.
    #[error("'{text}' is not a URL: write it as in https://127.0.0.1:8471")]
    Form {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Plain HTTP to another machine.
    #[error("plain http is for this machine alone, where nobody listens in: write https://")]
    Plain,
    /// Neither of them.
    #[error("'{scheme}' is not spoken by this client: write an address that begins with https://")]
    Scheme {
        /// What was given.
        scheme: String,
    },
    /// With a user, a query or a fragment. They are not shown, since a password may be among them.
    #[error("the address has a user, a query or a fragment: give a token separately, and leave the rest out")]
    Extras,
    /// Something in it has to be escaped, or means another path.
    #[error("'{text}' is not a URL as it stands: it has characters to be escaped, or segments . or ..")]
    Mended {
        /// What was given.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::{BaseUrl, Retries};
    use std::time::Duration;

    #[test]
    fn addresses_are_joined_below_their_prefix() {
        for (base, whole) in [
            ("http://127.0.0.1:8471", "http://127.0.0.1:8471/v1/hosts"),
            ("http://[::1]:1", "http://[::1]:1/v1/hosts"),
            ("https://control/", "https://control/v1/hosts"),
            ("https://control/moor/", "https://control/moor/v1/hosts"),
        ] {
            let url: BaseUrl = base.parse().unwrap();
            assert_eq!(url.join("/v1/hosts").unwrap().as_str(), whole);
        }
    }

    #[test]
    fn what_the_parser_would_mend_is_refused() {
        let url: BaseUrl = "https://control".parse().unwrap();
        for bad in [
            "/v1/../v2",
            "/v1/%2e%2e/x",
            "/a b",
            "/a\\b",
            "/caf\u{e9}",
            "/a\tb",
        ] {
            assert!(url.join(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn other_addresses_are_refused_and_say_what_to_write() {
        for bad in [
            "",
            "control:8471",
            "ftp://control",
            "http://control",
            "http://10.0.0.1:8471",
            "https://u:hunter2@control",
            "https://c?x=1",
        ] {
            let error = bad.parse::<BaseUrl>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"));
        }
    }

    #[test]
    fn waits_double_and_end() {
        let waits: Vec<_> = (0..4).map_while(|n| Retries::INTERACTIVE.wait(n)).collect();
        assert_eq!(waits, [100, 200, 400].map(Duration::from_millis));
        assert_eq!(Retries::NEVER.wait(0), None);
    }
}
