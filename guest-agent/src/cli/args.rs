//! The arguments, read into types.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt as _};
use moorline_shared::agent::DEFAULT_SOCKET;
use moorline_shared::entry::ContentType;
use moorline_shared::id::{IdempotencyKey, RoleName};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision, Ttl};

use super::credentials::Form;
use super::help::HELP;
use crate::Config;
use crate::local::{ImdsSettings, ImdsVersion, Settings};
use crate::platform::Level;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this text.
    Help(&'static str),
    /// Be the daemon.
    Run { config: Config, level: Level },
    /// Ask the daemon.
    Ask { socket: PathBuf, query: Query },
}

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) what: What,
    pub(super) instance: Option<InstanceId>,
    pub(super) format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Get {
        path: EntryPath,
        max_age_ms: Option<u32>,
    },
    List {
        prefix: PathPrefix,
        values: bool,
    },
    Watch {
        prefix: PathPrefix,
        after: Option<Revision>,
    },
    /// Which credentials there are.
    Credentials,
    /// The credentials of a role.
    Role {
        role: RoleName,
        form: Form,
    },
    /// A change of an entry.
    Change {
        path: EntryPath,
        change: Change,
        key: Option<IdempotencyKey>,
        guard: Option<Guard>,
    },
    /// Which changes are in doubt.
    Writes,
    /// What became of a change.
    Write(IdempotencyKey),
    /// A token by which others know this machine.
    IdentityToken {
        audience: String,
    },
    Status,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set {
        value: NewValue,
        content_type: Option<ContentType>,
        ttl: Option<Ttl>,
    },
    Append {
        value: NewValue,
    },
    Delete,
}

/// What must be so for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// The entry last changed at this revision.
    At(Revision),
    /// There is no such entry.
    Absent,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewValue {
    Said(String),
    StandardInput,
}

impl From<Option<&str>> for NewValue {
    fn from(word: Option<&str>) -> Self {
        word.map_or(Self::StandardInput, |word| Self::Said(word.to_owned()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    Json,
}

/// The command line is wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error("{0}; see moorline-agent --help")]
    Line(#[from] lexopt::Error),
    #[error(
        "say what to do: run, get, list, watch, set, append, delete, write-status, credentials, identity-token or status; see moorline-agent --help"
    )]
    NoCommand,
    #[error(
        "'{0}' is no command; there is run, get, list, watch, set, append, delete, write-status, credentials, identity-token and status"
    )]
    Command(String),
    #[error("{0} needs the path of an entry, as in: moorline-agent {0} net/hostname")]
    NoPath(&'static str),
    #[error("identity-token needs --audience: whom the token is for, as it calls itself")]
    NoAudience,
    #[error("{option} '{text}' can't be: {why}; see moorline-agent --help")]
    Value {
        option: &'static str,
        text: String,
        why: String,
    },
    #[error("--values is for --json: a plain list has names only; see moorline-agent --help")]
    ValuesWithoutJson,
    #[error("--imds-listen is for --imds: say --imds v2, too; see moorline-agent --help")]
    ListenWithoutImds,
    #[error("{command} knows no option {option}; see moorline-agent --help")]
    Option {
        command: &'static str,
        option: &'static str,
    },
}

/// Everything that was given, before it is known which command it belongs to.
#[derive(Default)]
struct Given {
    words: Vec<String>,
    socket: Option<PathBuf>,
    link: Option<crate::link::Endpoint>,
    ready_after: Option<Duration>,
    level: Option<Level>,
    access: Option<PathBuf>,
    imds: Option<ImdsVersion>,
    imds_listen: Option<SocketAddrV4>,
    state: Option<PathBuf>,
    keep: Vec<PathPrefix>,
    instance: Option<InstanceId>,
    after: Option<Revision>,
    max_age_ms: Option<u32>,
    json: bool,
    values: bool,
    form: Option<Form>,
    audience: Option<String>,
    content_type: Option<ContentType>,
    ttl: Option<Ttl>,
    key: Option<IdempotencyKey>,
    guard: Option<Guard>,
    help: Option<&'static str>,
}

/// Reads the arguments, the program's name first.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut given = collect(Parser::from_iter(arguments))?;
    if let Some(text) = given.help {
        return Ok(Command::Help(text));
    }
    let words = std::mem::take(&mut given.words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["help", ..] => Ok(Command::Help(HELP)),
        ["run"] => given.run(),
        ["get", path] => get(given, path),
        ["get"] => Err(UsageError::NoPath("get")),
        ["set", ..] => change(&given, "set", &words[1..]).and_then(|what| given.asking("set", what)),
        ["append", ..] => change(&given, "append", &words[1..]).and_then(|what| given.asking("append", what)),
        ["delete", ..] => change(&given, "delete", &words[1..]).and_then(|what| given.asking("delete", what)),
        ["identity-token"] => identity_token(given),
        ["list"] | ["list", _] if given.values && !given.json => Err(UsageError::ValuesWithoutJson),
        ["list"] => list(given, ""),
        ["list", prefix] => list(given, prefix),
        ["watch"] => watch(given, ""),
        ["watch", prefix] => watch(given, prefix),
        ["credentials"] => Ok(given.only("credentials", &["--json"])?.ask(What::Credentials)),
        ["credentials", role] => role_of(given, role),
        ["write-status"] => Ok(given.only("write-status", &["--json"])?.ask(What::Writes)),
        ["write-status", key] => {
            let what = What::Write(parsed(key)?);
            Ok(given.only("write-status", &["--json"])?.ask(what))
        }
        ["status"] => Ok(given.only("status", &["--json"])?.ask(What::Status)),
        [] => Err(UsageError::NoCommand),
        [
            "run" | "get" | "list" | "watch" | "credentials" | "identity-token" | "write-status" | "status",
            ..,
            extra,
        ] => Err(lexopt::Error::UnexpectedArgument(extra.into()).into()),
        [other, ..] => Err(UsageError::Command(other.to_owned())),
    }
}

fn get(given: Given, path: &str) -> Result<Command, UsageError> {
    let what = What::Get {
        path: parsed(path)?,
        max_age_ms: given.max_age_ms,
    };
    let given = given.only("get", &["--instance", "--json", "--max-age"])?;
    Ok(given.ask(what))
}

fn list(given: Given, prefix: &str) -> Result<Command, UsageError> {
    let what = What::List {
        prefix: parsed(prefix)?,
        values: given.values,
    };
    let given = given.only("list", &["--instance", "--json", "--values"])?;
    Ok(given.ask(what))
}

fn watch(given: Given, prefix: &str) -> Result<Command, UsageError> {
    let what = What::Watch {
        prefix: parsed(prefix)?,
        after: given.after,
    };
    let given = given.only("watch", &["--instance", "--json", "--after"])?;
    Ok(given.ask(what))
}

fn identity_token(given: Given) -> Result<Command, UsageError> {
    let audience = given.audience.clone().ok_or(UsageError::NoAudience)?;
    let given = given.only("identity-token", &["--audience", "--json"])?;
    Ok(given.ask(What::IdentityToken { audience }))
}

fn role_of(given: Given, role: &str) -> Result<Command, UsageError> {
    let what = What::Role {
        role: parsed(role)?,
        form: given.form.unwrap_or_default(),
    };
    let given = given.only("credentials ROLE", &["--format"])?;
    Ok(given.ask(what))
}

fn collect(mut parser: Parser) -> Result<Given, UsageError> {
    let mut given = Given::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => given.help = Some(HELP),
            Arg::Short('V') | Arg::Long("version") => {
                given.help = Some(concat!("moorline-agent ", env!("CARGO_PKG_VERSION"), "\n"));
            }
            Arg::Long("socket") => given.socket = Some(parser.value()?.into()),
            Arg::Long("link") => given.link = Some(value("--link", &mut parser)?),
            Arg::Long("ready-after") => {
                let seconds: u32 = value("--ready-after", &mut parser)?;
                given.ready_after = Some(Duration::from_secs(seconds.into()));
            }
            Arg::Long("state") => given.state = Some(parser.value()?.into()),
            Arg::Long("keep") => given.keep.push(value("--keep", &mut parser)?),
            Arg::Long("access") => given.access = Some(parser.value()?.into()),
            Arg::Long("imds") => given.imds = Some(value("--imds", &mut parser)?),
            Arg::Long("imds-listen") => given.imds_listen = Some(value("--imds-listen", &mut parser)?),
            Arg::Long("log") => given.level = Some(value("--log", &mut parser)?),
            Arg::Long("instance") => given.instance = Some(value("--instance", &mut parser)?),
            Arg::Long("after") => given.after = Some(value("--after", &mut parser)?),
            Arg::Long("max-age") => given.max_age_ms = Some(value("--max-age", &mut parser)?),
            Arg::Long("format") => given.form = Some(value("--format", &mut parser)?),
            Arg::Long("audience") => given.audience = Some(parser.value()?.string()?),
            Arg::Long("content-type") => given.content_type = Some(value("--content-type", &mut parser)?),
            Arg::Long("ttl") => given.ttl = Some(ttl(&mut parser)?),
            Arg::Long("idempotency-key") => given.key = Some(value("--idempotency-key", &mut parser)?),
            Arg::Long("if-match") => given.guard = Some(Guard::At(value("--if-match", &mut parser)?)),
            Arg::Long("if-absent") => given.guard = Some(Guard::Absent),
            Arg::Long("json") => given.json = true,
            Arg::Long("values") => given.values = true,
            Arg::Value(word) => given.words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(given)
}

/// The value of an option.
fn value<T>(option: &'static str, parser: &mut Parser) -> Result<T, UsageError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = parser.value()?.string()?;
    text.parse().map_err(|error: T::Err| UsageError::Value {
        option,
        text,
        why: error.to_string(),
    })
}

/// A validity period, in seconds.
fn ttl(parser: &mut Parser) -> Result<Ttl, UsageError> {
    let seconds: u32 = value("--ttl", parser)?;
    Ttl::try_from(seconds).map_err(|error| UsageError::Value {
        option: "--ttl",
        text: seconds.to_string(),
        why: error.to_string(),
    })
}

fn parsed<T>(text: &str) -> Result<T, UsageError>
where
    T: std::str::FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    OsString::from(text).parse().map_err(UsageError::from)
}

/// The change that the words behind the command's name say.
fn change(given: &Given, command: &'static str, words: &[&str]) -> Result<What, UsageError> {
    let (path, rest) = words.split_first().ok_or(UsageError::NoPath(command))?;
    let most = usize::from(command != "delete");
    if let Some(extra) = rest.get(most) {
        return Err(lexopt::Error::UnexpectedArgument((*extra).into()).into());
    }
    let value = NewValue::from(rest.first().copied());
    let change = match command {
        "set" => Change::Set {
            value,
            content_type: given.content_type.clone(),
            ttl: given.ttl,
        },
        "append" => Change::Append { value },
        _ => Change::Delete,
    };
    Ok(What::Change {
        path: parsed(path)?,
        change,
        key: given.key.clone(),
        guard: given.guard,
    })
}

impl Given {
    /// A change, with the options that it knows.
    fn asking(self, command: &'static str, what: What) -> Result<Command, UsageError> {
        let mut known = vec![
            "--instance",
            "--json",
            "--idempotency-key",
            "--if-match",
            "--if-absent",
        ];
        if command == "set" {
            known.extend(["--content-type", "--ttl"]);
        }
        Ok(self.only(command, &known)?.ask(what))
    }

    fn run(self) -> Result<Command, UsageError> {
        let given = self.only(
            "run",
            &[
                "--link",
                "--ready-after",
                "--log",
                "--access",
                "--imds",
                "--imds-listen",
                "--state",
                "--keep",
            ],
        )?;
        let defaults = Config::default();
        let imds = match (given.imds, given.imds_listen) {
            (None, Some(_)) => return Err(UsageError::ListenWithoutImds),
            (version, listen) => version.map(|version| ImdsSettings {
                version,
                listen: listen.unwrap_or(ImdsSettings::ADDRESS),
            }),
        };
        let config = Config {
            endpoint: given.link.unwrap_or(defaults.endpoint),
            ready_after: given.ready_after.unwrap_or(defaults.ready_after),
            local: Settings {
                socket: given.socket.unwrap_or(defaults.local.socket),
                imds,
                ..defaults.local
            },
            access: given.access,
            state: given.state.unwrap_or(defaults.state),
            keep: given.keep,
        };
        Ok(Command::Run {
            config,
            level: given.level.unwrap_or_default(),
        })
    }

    /// Refuses options that mean nothing to the command, so that none is overlooked.
    fn only(self, command: &'static str, known: &[&str]) -> Result<Self, UsageError> {
        let present = [
            ("--link", self.link.is_some()),
            ("--ready-after", self.ready_after.is_some()),
            ("--log", self.level.is_some()),
            ("--access", self.access.is_some()),
            ("--imds", self.imds.is_some()),
            ("--imds-listen", self.imds_listen.is_some()),
            ("--state", self.state.is_some()),
            ("--keep", !self.keep.is_empty()),
            ("--instance", self.instance.is_some()),
            ("--after", self.after.is_some()),
            ("--max-age", self.max_age_ms.is_some()),
            ("--json", self.json),
            ("--values", self.values),
            ("--format", self.form.is_some()),
            ("--audience", self.audience.is_some()),
            ("--content-type", self.content_type.is_some()),
            ("--ttl", self.ttl.is_some()),
            ("--idempotency-key", self.key.is_some()),
            ("--if-match", matches!(self.guard, Some(Guard::At(_)))),
            ("--if-absent", self.guard == Some(Guard::Absent)),
        ];
        match present
            .into_iter()
            .find(|(option, given)| *given && !known.contains(option))
        {
            Some((option, _)) => Err(UsageError::Option { command, option }),
            None => Ok(self),
        }
    }

    fn ask(self, what: What) -> Command {
        let format = if self.json { Format::Json } else { Format::Plain };
        let socket = self.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        Command::Ask {
            socket,
            query: Query {
                what,
                instance: self.instance,
                format,
            },
        }
    }
}
