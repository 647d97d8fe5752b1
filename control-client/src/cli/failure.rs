//! What goes wrong in a command, how it is told, and with which exit status.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::instances::InstanceState;
use moorline_shared::entry::MAX_VALUE_BYTES;
use moorline_shared::id::IdempotencyKey;
use serde::Serialize;

use super::connection::{ConnectionError, TokenSource};
use super::login::LoginError;
use super::name::NameError;
use super::profile::ProfileError;
use super::table::printable;
use crate::error::ClientError;

/// Refused or failed.
const FAILED: u8 = 1;
/// The command line is wrong; clap's own status for it is the same.
pub(super) const USAGE: u8 = 2;
const NO_ANSWER: u8 = 3;
const NOT_FOUND: u8 = 4;

/// Why a command didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{error}")]
    Client { error: ClientError, with: Box<With> },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("'{text}' can't be taken for {what}")]
    Argument {
        what: &'static str,
        text: String,
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("{0} can't be read")]
    Input(InputName, #[source] std::io::Error),
    #[error("the password has more than {0} bytes, which is the most that one has")]
    PasswordTooLong(usize),
    #[error("the two passwords differ, and nothing was changed: repeat the command")]
    PasswordsDiffer,
    #[error("{0} has more than {MAX_VALUE_BYTES} bytes, which is the most that a value has")]
    ValueTooLong(InputName),
    #[error("{name} is not {what}")]
    Json {
        name: InputName,
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("instance {instance} is {state} instead of {wanted}{}", because(.reason.as_deref()))]
    WentElsewhere {
        instance: String,
        state: &'static str,
        wanted: &'static str,
        reason: Option<String>,
    },
    #[error(
        "after {seconds} s instance {instance} is still {state}, not {wanted}: \
         look again with 'moorline instance show {instance}', or wait longer with --timeout"
    )]
    WaitedInVain {
        seconds: u32,
        instance: String,
        state: &'static str,
        wanted: &'static str,
    },
    #[error("{failed} of these checks failed")]
    Unhealthy { failed: usize },
    #[error("the answer can't be written")]
    Output(#[source] std::io::Error),
    #[error("the answer can't be put into JSON")]
    Unwritable(#[source] serde_json::Error),
    #[error("the command can't be set up")]
    Runtime(#[source] std::io::Error),
    #[error("{} can't be run: is it installed beside this command, or in PATH?", program.display())]
    Program {
        program: PathBuf,
        source: std::io::Error,
    },
}

/// What a request was made with that failed, as far as there is something to be advised about it.
#[derive(Debug, Default)]
pub(super) struct With {
    /// The key under which it may be made again.
    pub(super) key: Option<IdempotencyKey>,
    /// Where the token is from that was shown.
    pub(super) token: Option<TokenSource>,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let with = Box::default();
        Self::Client { error, with }
    }
}

/// Where something was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputName {
    #[error("the file {}", .0.display())]
    File(PathBuf),
    #[error("the standard input")]
    Stdin,
    #[error("the terminal (give --password-stdin where there is none)")]
    Terminal,
    #[error("the value")]
    Argument,
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl Failure {
    /// An argument that is of the right form and makes no sense.
    pub(super) fn argument(
        what: &'static str,
        text: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Argument {
            what,
            text: text.into(),
            source: source.into(),
        }
    }

    /// The same, with what the requests of the command were made with.
    pub(super) fn with(self, with: With) -> Self {
        match self {
            Self::Client { error, .. } => Self::Client {
                error,
                with: Box::new(with),
            },
            other => other,
        }
    }

    /// Whether nobody answered.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Client { error, .. } if error.is_silence())
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    fn status(&self) -> u8 {
        match self {
            Self::Client { error, .. } if error.is_silence() => NO_ANSWER,
            Self::Client { error, .. } if error.problem().is_some_and(|problem| problem.status == 404) => {
                NOT_FOUND
            }
            Self::Name(NameError::Unknown { .. }) | Self::Profile(ProfileError::Unknown { .. }) => NOT_FOUND,
            Self::Argument { .. }
            | Self::ValueTooLong(_)
            | Self::PasswordTooLong(_)
            | Self::PasswordsDiffer
            | Self::Json { .. } => USAGE,
            _ => FAILED,
        }
    }

    /// The failure as the user reads it: what was wrong, why, and what to do; nothing in it can move the cursor.
    pub(super) fn told(&self) -> String {
        let mut text = format!("error: {}\n", printable(&self.to_string()));
        for cause in self.causes() {
            let _ = writeln!(text, "  cause: {}", printable(&cause.to_string()));
        }
        match self {
            Self::Client { error, with } => text + &advice(error, with),
            _ => text,
        }
    }

    /// The failure as programs read it, on a line: a problem of the API as it came, others in the same form.
    pub(super) fn told_in_json(&self) -> String {
        let (detail, causes) = (self.to_string(), self.causes());
        let key = match self {
            Self::Client { error, with } if error.may_have_happened() => with.key.as_ref(),
            _ => None,
        };
        let told = Told {
            causes: causes.into_iter().map(ToString::to_string).collect(),
            idempotency_key: key.map(ToString::to_string),
            ..self.problem().map_or_else(|| self.own(detail), Told::of)
        };
        let mut line = serde_json::to_string(&told).unwrap_or_else(|_| self.to_string());
        line.push('\n');
        line
    }

    pub(super) fn problem(&self) -> Option<&ProblemDetails> {
        match self {
            Self::Client { error, .. } => error.problem(),
            _ => None,
        }
    }

    /// What the command itself has to say, in the form of a problem.
    fn own(&self, detail: String) -> Told {
        let (kind, title) = match self.status() {
            USAGE => ("misused", "The command line is wrong"),
            NO_ANSWER => ("no-answer", "There is no answer"),
            NOT_FOUND => ("not-found", "There is no such thing"),
            _ => ("failed", "The command failed"),
        };
        Told {
            kind: kind.to_owned(),
            title: title.to_owned(),
            detail,
            ..Told::default()
        }
    }

    /// The causes worth telling. Between a failed call and what the system said, the libraries say little more than
    /// that something failed beneath them.
    fn causes(&self) -> Vec<&dyn StdError> {
        let below = |error| std::iter::successors(error, |&error: &&dyn StdError| error.source());
        match self {
            Self::Client { error, .. } => below(error.source()).last().into_iter().collect(),
            other => below(other.source()).collect(),
        }
    }
}

/// A failure as programs read it.
#[derive(Default, Serialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    /// The key under which the command may be repeated, where a change may have been made.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

impl Told {
    fn of(problem: &ProblemDetails) -> Self {
        Self {
            kind: problem.kind.to_string(),
            title: problem.title.to_string(),
            status: Some(problem.status),
            detail: problem.detail.clone(),
            field: problem.field.as_ref().map(ToString::to_string),
            operation: problem.operation.map(|operation| operation.to_string()),
            ..Self::default()
        }
    }
}

fn advice(error: &ClientError, with: &With) -> String {
    let mut text = String::new();
    if let Some(operation) = error.problem().and_then(|problem| problem.operation) {
        let _ = writeln!(text, "  record: moorline operation show {operation}");
    }
    let refused = matches!(error.problem(), Some(problem) if problem.kind == "unauthenticated");
    match &with.token {
        Some(TokenSource::Login(_)) if refused => text += "  try: log in again with 'moorline login'\n",
        Some(TokenSource::Local) if error.is_silence() => text += "  try: start it with 'moorline up'\n",
        Some(source) if refused => {
            let _ = writeln!(text, "  the token that was sent is {source}");
        }
        _ => {}
    }
    match &with.key {
        Some(key) if error.may_have_happened() => {
            let _ = writeln!(
                text,
                "  a change may have been made: repeat the command with --idempotency-key {key},"
            );
            text += "  which makes it at most once\n";
        }
        None if error.may_have_happened() => {
            text += "  it may have been done all the same: look before you repeat the command\n";
        }
        _ => {}
    }
    text
}

/// The word for a state, as the API writes it.
pub(super) const fn state_word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Pending => "pending",
        InstanceState::Running => "running",
        InstanceState::Stopping => "stopping",
        InstanceState::Stopped => "stopped",
        InstanceState::ShuttingDown => "shutting_down",
        InstanceState::Terminated => "terminated",
        InstanceState::Failed => "failed",
    }
}
