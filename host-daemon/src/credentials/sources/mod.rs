//! Where credentials come from. A source is a module with its `Settings`, and a line in the list below.
//!
//! `Settings` are the keys of the role's table beside those that every role has. They say whether they can be (`check`),
//! whether there are secrets among them (`has_secrets`), when the source is asked (`rhythm`), whether what it gives hangs
//! on the instance's session (`falls_with_session`), how long a fetch may take (`patience`), and `fetch` the credentials
//! for one instance. A fetch is dropped when nobody wants it any more or when its time is over, and must leave nothing
//! behind then.

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

/// The list below, as types: the settings of all sources, and what is asked of any of them.
macro_rules! sources {
    ($($(#[$doc:meta])* $name:ident = $word:literal in $module:ident;)*) => {
        /// Where a role's credentials come from, by the key `source`.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(tag = "source")]
        pub enum Settings {
            $($(#[$doc])* #[serde(rename = $word)] $name($module::Settings),)*
        }

        impl Settings {
            /// Whether they can be.
            pub fn check(&self) -> Result<(), KeyError> {
                match self { $(Self::$name(settings) => settings.check(),)* }
            }

            /// When the source is asked.
            pub fn rhythm(&self) -> Rhythm {
                match self { $(Self::$name(settings) => settings.rhythm(),)* }
            }

            /// Whether there are secrets among them.
            pub fn has_secrets(&self) -> bool {
                match self { $(Self::$name(settings) => settings.has_secrets(),)* }
            }

            /// Whether what it gives is worth nothing once the instance's session ended.
            pub fn falls_with_session(&self) -> bool {
                match self { $(Self::$name(settings) => settings.falls_with_session(),)* }
            }

            /// For how long a fetch may take.
            pub fn patience(&self) -> Duration {
                match self { $(Self::$name(settings) => settings.patience(),)* }
            }

            /// Fetches credentials. Dropping the future ends it and leaves nothing behind.
            pub async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
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
pub enum Rhythm {
    /// Well before what it gave last runs out.
    Own,
    /// Whenever the instance has a new token of its own, of which it makes something.
    Session,
}

/// For whom credentials are fetched.
#[derive(Clone, Debug)]
pub struct Request {
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
pub struct Fetched {
    /// The secrets.
    pub credential: Credential,
    /// For how long they are good.
    pub lasts: Lasts,
}

/// How long something is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// Until then, by the calendar.
    Until(Timestamp),
    /// As long as the instance's token that it was made of.
    LikeSession,
}

/// Why there are no credentials. The texts name no secret; what others said in them is bounded and escaped.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
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
