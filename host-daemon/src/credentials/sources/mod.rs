//! Where credentials come from. A source is a module with its `Settings`, and a line in the list below.
//!
//! `Settings` are the keys of the role's table beside those that every role has, and a [`Source`].

mod exec;
mod moorline;
mod web_identity;

use std::sync::Arc;
use std::time::Duration;

use moorline_client::Client;
use moorline_shared::id::{AccountId, HostId, RoleName};
use moorline_shared::{InstanceId, Timestamp};
use serde::Deserialize;

use super::config::KeyError;
use super::document::DocumentError;
use crate::link::SessionGrant;
use moorline_shared::credential::{Credential, CredentialError};
pub(super) use web_identity::Clients;

/// For how long a fetch may take where the source says nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked of the settings of any source. What most of them answer need not be said again.
pub(in crate::credentials) trait Source {
    /// Whether they can be; the error names the key that can't.
    fn check(&self) -> Result<(), KeyError> {
        Ok(())
    }

    /// Whether there are secrets among them.
    fn has_secrets(&self) -> bool {
        false
    }

    /// When the source is asked.
    fn rhythm(&self) -> Rhythm {
        Rhythm::Own
    }

    /// Whether what it gives is worth nothing once the instance's session ended: so it is where that is given for who the
    /// instance is.
    fn falls_with_session(&self) -> bool {
        true
    }

    /// For how long a fetch may take.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// Fetches credentials for one instance. The future is dropped when nobody wants them any more or when the time is
    /// over, and leaves nothing behind then.
    fn fetch(&self, of: &Request) -> impl Future<Output = Result<Fetched, FetchError>> + Send;
}

/// The list below, as types: the settings of all sources.
macro_rules! sources {
    ($($(#[$doc:meta])* $name:ident = $word:literal in $module:ident;)*) => {
        /// Where a role's credentials come from, by the key `source`.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(tag = "source")]
        pub enum Settings {
            $($(#[$doc])* #[serde(rename = $word)] $name($module::Settings),)*
        }

        impl Source for Settings {
            fn check(&self) -> Result<(), KeyError> {
                match self { $(Self::$name(settings) => settings.check(),)* }
            }

            fn has_secrets(&self) -> bool {
                match self { $(Self::$name(settings) => settings.has_secrets(),)* }
            }

            fn rhythm(&self) -> Rhythm {
                match self { $(Self::$name(settings) => settings.rhythm(),)* }
            }

            fn falls_with_session(&self) -> bool {
                match self { $(Self::$name(settings) => settings.falls_with_session(),)* }
            }

            fn patience(&self) -> Duration {
                match self { $(Self::$name(settings) => settings.patience(),)* }
            }

            async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
                match self { $(Self::$name(settings) => settings.fetch(of).await,)* }
            }
        }
    };
}

sources! {
    /// A command that prints them.
    Exec = "exec" in exec;
    /// The instance's own token.
    Moorline = "moorline" in moorline;
    /// A security token service that takes Moorline's word for who the instance is.
    WebIdentity = "web-identity" in web_identity;
}

/// When a source is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::credentials) enum Rhythm {
    /// Well before what it gave last runs out.
    Own,
    /// Whenever the instance has a new token of its own, of which it makes something.
    Session,
}

/// For whom credentials are fetched.
#[derive(Clone, Debug)]
pub(in crate::credentials) struct Request {
    /// The instance.
    pub instance: InstanceId,
    /// Which life of its VM.
    pub incarnation: u64,
    /// Whose it is.
    pub account: AccountId,
    /// The role.
    pub role: RoleName,
    /// This host.
    pub host: HostId,
    /// The instance's own token, if it has one.
    pub session: Option<Arc<SessionGrant>>,
    /// The control plane.
    pub control: Client,
    /// The clients that services are asked with.
    pub clients: Clients,
}

/// What was fetched.
#[derive(Debug)]
pub(in crate::credentials) struct Fetched {
    /// The secrets.
    pub credential: Credential,
    /// For how long they are good.
    pub lasts: Lasts,
}

/// How long something is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::credentials) enum Lasts {
    /// Until then, by the calendar.
    Until(Timestamp),
    /// As long as the instance's token that it was made of.
    LikeSession,
}

/// Why there are no credentials. The texts name no secret; what others said in them is bounded and escaped.
#[derive(Debug, thiserror::Error)]
pub(in crate::credentials) enum FetchError {
    /// The command can't be run.
    #[error("the command {command} can't be run")]
    Command {
        /// Which.
        command: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The command failed.
    #[error("the command {command} {how}{}", said(stderr))]
    Failed {
        /// Which.
        command: String,
        /// How it ended.
        how: String,
        /// The end of what it said on standard error, escaped.
        stderr: String,
    },
    /// It took too long.
    #[error("nothing came within {0:?}")]
    Timeout(Duration),
    /// More came than a credential can have.
    #[error("more than {0} bytes came")]
    TooLong(usize),
    /// What came is no credential.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// What came can't be used as a credential.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// What a service answered has no credentials in it.
    #[error(transparent)]
    Answer(#[from] web_identity::AnswerError),
    /// The instance has no token that something could be made of.
    #[error("the instance has no token of its own now")]
    NoSession,
    /// The host's configuration changed meanwhile.
    #[error("the host's configuration has no role '{0}'")]
    NoSuchRole(RoleName),
    /// The host's calendar is beyond the year 9999.
    #[error("the host's clock is out of range")]
    Clock,
    /// The control plane gave nothing.
    #[error("the control plane gives no token")]
    Control(#[source] moorline_client::ClientError),
    /// A service can't be reached.
    #[error("{url} can't be asked")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A service said no.
    #[error("{url} answered with status {status}{}", said(why))]
    Refused {
        /// Where it is.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said, escaped.
        why: String,
    },
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// What somebody else said, fit for a log and for a terminal: its last `most` bytes, escaped.
fn escaped(text: &[u8], most: usize) -> String {
    let from = text.len().saturating_sub(most);
    text[from..].trim_ascii().escape_ascii().to_string()
}
