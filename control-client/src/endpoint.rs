//! Where the control plane is, who asks, and how often.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use moorline_shared::{HostId, InstanceId};
use reqwest::Url;

use crate::token::Token;

/// Everything a [`crate::Client`] is made of.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where the control plane is.
    pub url: BaseUrl,
    /// What the caller shows there; absent where a control plane asks for nothing.
    pub token: Option<Token>,
    /// Which host calls, if a host daemon does.
    pub host: Option<HostId>,
    /// In whose name every call is made, if not in the caller's own. A host names one of its instances here; for
    /// single calls there is [`crate::Client::on_behalf_of`].
    pub on_behalf_of: Option<InstanceId>,
    /// How often a call is made again when the connection is lost.
    pub retries: Retries,
}

impl Endpoint {
    /// An endpoint for a user: no host, nobody else's name, no retries.
    pub fn new(url: BaseUrl, token: Token) -> Self {
        Self {
            url,
            token: Some(token),
            host: None,
            on_behalf_of: None,
            retries: Retries::NEVER,
        }
    }

    /// The same for a host daemon.
    #[must_use]
    pub fn of_host(mut self, host: HostId) -> Self {
        self.host = Some(host);
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
/// the connection broke. An answer, whatever it says, is never asked for again.
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

/// The control plane's address: `http://HOST[:PORT][/PREFIX]`, without user, query and fragment.
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
        if url.scheme() != "http" {
            return Err(BaseUrlError::Scheme {
                scheme: url.scheme().to_owned(),
            });
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

/// Why a text is not the address of a control plane.
#[derive(Debug, thiserror::Error)]
pub enum BaseUrlError {
    /// Not a URL.
    #[error("'{text}' is not a URL: write it as in http://127.0.0.1:8471")]
    Form {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not plain HTTP, which is what there is so far.
    #[error("'{scheme}' is not spoken by this client: write an address that begins with http://")]
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
            ("http://control/", "http://control/v1/hosts"),
            ("http://control/moor/", "http://control/moor/v1/hosts"),
        ] {
            let url: BaseUrl = base.parse().unwrap();
            assert_eq!(url.join("/v1/hosts").unwrap().as_str(), whole);
        }
    }

    #[test]
    fn what_the_parser_would_mend_is_refused() {
        let url: BaseUrl = "http://control".parse().unwrap();
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
            "https://control",
            "http://u:hunter2@control",
            "http://c?x=1",
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
