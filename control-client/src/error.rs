//! What goes wrong between a caller and whom it asks.

use std::error::Error as StdError;
use std::fmt;

use http::Method;
use moorline_shared::api::ProblemDetails;

use crate::tls::TlsRefusal;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came about: nothing was done.
    #[error("{server} at {url} can't be reached: see that it runs, {}", .server.what_else())]
    Unreachable {
        /// Who is not there.
        server: Server,
        /// What was asked for.
        url: String,
        /// What the connection said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A connection came about and is not trusted: nothing was done, and asking again doesn't help.
    #[error("{server} at {url} is not to be spoken to")]
    Untrusted {
        /// Who is not trusted, or doesn't trust us.
        server: Server,
        /// What was asked for.
        url: String,
        /// Why not.
        #[source]
        source: TlsRefusal,
    },
    /// The request was sent and no whole answer came: a change may have been made. Ask again with the same key.
    #[error("the connection was lost before {method} {url} was answered in full")]
    Lost {
        /// How it was asked for.
        method: Method,
        /// What was asked for.
        url: String,
        /// What the connection said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Whoever was asked says why it was not done.
    #[error("{}", describe(.0))]
    Problem(Box<ProblemDetails>),
    /// The answer is not one that is known to this version.
    #[error("{url} answered with {what}: see that it is {server}, and of a version that this client knows")]
    Protocol {
        /// Who should have answered.
        server: Server,
        /// What was asked for.
        url: String,
        /// What came.
        what: String,
        /// What is wrong with it, where a parser said so.
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
    /// The answer is longer than it can be or than the caller takes.
    #[error("{url} answered {method} with more than {most} bytes: ask for less at a time")]
    TooLong {
        /// How it was asked for.
        method: Method,
        /// What was asked for.
        url: String,
        /// The most that is taken, in bytes.
        most: usize,
    },
    /// The request can't be put into HTTP; nothing was sent.
    #[error("the request can't be sent to {url}")]
    Request {
        /// What was to be asked for.
        url: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ClientError {
    /// The problem that was stated, if one was.
    pub fn problem(&self) -> Option<&ProblemDetails> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether a change may have been made all the same, so that a caller has to ask again with the same key, or
    /// look, before it says that nothing happened. True as well for an answer that can't be understood, and for a
    /// server error (RFC 9110, 15.6), since it may come from a proxy in between.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Lost { method, .. } | Self::TooLong { method, .. } => !method.is_safe(),
            Self::Protocol { .. } => true,
            Self::Problem(problem) => problem.status >= 500,
            Self::Unreachable { .. } | Self::Untrusted { .. } | Self::Request { .. } => false,
        }
    }

    /// Whether no answer came, so that the same may be asked again.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }

    pub(crate) fn request(url: &impl ToString, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Request {
            url: url.to_string(),
            source: source.into(),
        }
    }
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The control plane, over TCP.
    ControlPlane,
    /// The host daemon of this machine, over one of its sockets.
    HostDaemon,
}

impl Server {
    const fn what_else(self) -> &'static str {
        match self {
            Self::ControlPlane => "and that the address is right",
            Self::HostDaemon => "that the path is right, and that this user may use the socket",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "the control plane",
            Self::HostDaemon => "the host daemon",
        })
    }
}

/// What was asked: what an error about its answer names.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) server: Server,
    pub(crate) method: Method,
    pub(crate) url: String,
}

impl Asked {
    pub(crate) fn lost(&self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> ClientError {
        ClientError::Lost {
            method: self.method.clone(),
            url: self.url.clone(),
            source: source.into(),
        }
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            server: self.server,
            url: self.url.clone(),
            what: what.into(),
            source: None,
        }
    }

    pub(crate) fn too_long(&self, most: usize) -> ClientError {
        ClientError::TooLong {
            method: self.method.clone(),
            url: self.url.clone(),
            most,
        }
    }

    pub(crate) fn unparsable(&self, what: impl Into<String>, source: serde_json::Error) -> ClientError {
        ClientError::Protocol {
            server: self.server,
            url: self.url.clone(),
            what: what.into(),
            source: Some(source.into()),
        }
    }

    /// Sorts what the HTTP library says by what is known about the request's fate.
    pub(crate) fn failed(&self, error: reqwest::Error) -> ClientError {
        let error = error.without_url();
        if let Some(source) = TlsRefusal::in_causes(&error) {
            return ClientError::Untrusted {
                server: self.server,
                url: self.url.clone(),
                source,
            };
        }
        if error.is_connect() {
            ClientError::Unreachable {
                server: self.server,
                url: self.url.clone(),
                source: error.into(),
            }
        } else {
            self.lost(error)
        }
    }
}

fn describe(problem: &ProblemDetails) -> String {
    match &problem.field {
        Some(field) => format!("{}: {} (field {field})", problem.title, problem.detail),
        None => format!("{}: {}", problem.title, problem.detail),
    }
}
