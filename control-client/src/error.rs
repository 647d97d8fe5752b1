//! What goes wrong between a caller and the control plane.

use std::error::Error as StdError;

use moorline_shared::api::ProblemDetails;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection came about: nothing was done.
    #[error("the control plane at {url} can't be reached: see that it runs and that the address is right")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the connection said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The request was sent and no whole answer came: it may have been done. Send it again with the same key, or look.
    #[error("no answer came from {url}, and what was asked may have been done: ask again with the same key")]
    Lost {
        /// What was asked for.
        url: String,
        /// What the connection said.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The control plane says why it didn't do what was asked.
    #[error("{}", describe(.0))]
    Problem(Box<ProblemDetails>),
    /// The answer is not one that a control plane of this version gives.
    #[error("{url} answered with {what}: is it a Moorline control plane, of a version this client knows?")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What came.
        what: String,
        /// What is wrong with it, where a parser said so.
        source: Option<Box<dyn StdError + Send + Sync>>,
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
    /// The problem that the control plane stated, if it did.
    pub fn problem(&self) -> Option<&ProblemDetails> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether what was asked may have been done all the same, so that a caller has to ask again with the same key,
    /// or look, before it says that nothing happened. True as well for an answer that can't be understood, and for
    /// a server error (RFC 9110, 15.6), since it may come from a proxy in between.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Protocol { .. } => true,
            Self::Problem(problem) => problem.status >= 500,
            Self::Unreachable { .. } | Self::Request { .. } => false,
        }
    }

    /// Whether no answer came, so that the same may be asked again.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }

    pub(crate) fn request(url: impl ToString, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Request {
            url: url.to_string(),
            source: source.into(),
        }
    }

    pub(crate) fn lost(url: impl ToString, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Lost {
            url: url.to_string(),
            source: source.into(),
        }
    }

    pub(crate) fn protocol(url: impl ToString, what: impl Into<String>) -> Self {
        Self::Protocol {
            url: url.to_string(),
            what: what.into(),
            source: None,
        }
    }

    pub(crate) fn unparsable(url: impl ToString, what: impl Into<String>, source: serde_json::Error) -> Self {
        Self::Protocol {
            url: url.to_string(),
            what: what.into(),
            source: Some(source.into()),
        }
    }

    /// Sorts what the HTTP library says by what is known about the request's fate.
    pub(crate) fn of_transport(url: impl ToString, error: reqwest::Error) -> Self {
        let (url, error) = (url.to_string(), error.without_url());
        if error.is_builder() {
            Self::request(url, error)
        } else if error.is_connect() {
            Self::Unreachable {
                url,
                source: error.into(),
            }
        } else {
            Self::lost(url, error)
        }
    }
}

fn describe(problem: &ProblemDetails) -> String {
    match &problem.field {
        Some(field) => format!("{}: {} (field {field})", problem.title, problem.detail),
        None => format!("{}: {}", problem.title, problem.detail),
    }
}
