//! A client of the agent's socket: one connection, one request.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use moorline_shared::api::session::IdentityToken;
use moorline_shared::api::{IDEMPOTENCY_KEY, ProblemDetails};
use moorline_shared::entry::MAX_VALUE_BYTES;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::args::{Change, Format, Guard, NewValue, Query, What};
use super::show;

/// How long an answer may take to begin. The agent itself gives the host half of that.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The kind of problem of a change of which nobody knows yet whether it was made.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// Why the daemon didn't give what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the agent can't be reached at {}: {source}; {}", socket.display(), hint(source))]
    NotRunning { socket: PathBuf, source: io::Error },
    #[error("the agent at {} doesn't answer; see what it does: systemctl status moorline-agent", socket.display())]
    Silent { socket: PathBuf },
    #[error("the connection to the agent broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("{}", .0.detail)]
    Refused(ProblemDetails),
    #[error("the agent answered with status {0} and no explanation")]
    Unexplained(StatusCode),
    #[error("the agent's answer is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Form(#[from] super::credentials::FormError),
    #[error("can't write the answer: {0}")]
    Write(#[source] io::Error),
    #[error("can't read the value from standard input: {0}")]
    Read(#[source] io::Error),
    #[error("the watch ended: changes were lost; list, then watch again with --after {0}")]
    Resync(moorline_shared::Revision),
    #[error("the watch ended: the agent stopped or was restarted")]
    WatchEnded,
}

/// What to do where there is no connection.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "ask for the right to use this socket, or run as root",
        io::ErrorKind::InvalidInput => "choose a shorter path with --socket",
        _ => "is it running (moorline-agent run, or systemctl status moorline-agent), and there (--socket)?",
    }
}

impl ClientError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } | Self::Silent { .. } => 4,
            Self::Refused(problem) if problem.kind == OUTCOME_UNKNOWN => 5,
            Self::Refused(problem) => match problem.status {
                404 => 3,
                502..=504 => 4,
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// A connection to the daemon.
pub(super) struct Client {
    socket: PathBuf,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Moves the bytes; it ends with the client.
    _connection: JoinSet<()>,
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|source| ClientError::NotRunning {
            socket: socket.into(),
            source,
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            // What goes wrong here is seen where the answer is read.
            let _ = connection.await;
        });
        Ok(Self {
            socket: socket.into(),
            sender,
            _connection: tasks,
        })
    }

    /// Asks and writes the answer to standard output.
    pub(super) async fn ask(&mut self, query: &Query) -> Result<(), ClientError> {
        let response = self.send(request(query)?).await?;
        if let What::Watch { .. } = query.what {
            return watch(response, query.format, &mut io::stdout()).await;
        }
        let answer = response.collect().await?.to_bytes();
        let text = match (&query.what, query.format) {
            (What::Get { .. }, Format::Plain) => answer.to_vec(),
            (What::Role { form, .. }, _) => form.of(&serde_json::from_slice(&answer)?)?.into_bytes(),
            (_, Format::Json) => [&answer[..], b"\n"].concat(),
            (What::Change { .. }, Format::Plain) => Vec::new(),
            (What::IdentityToken { .. }, Format::Plain) => {
                let given: IdentityToken = serde_json::from_slice(&answer)?;
                format!("{}\n", given.token.expose()).into_bytes()
            }
            (What::List { .. }, Format::Plain) => show::listing(&serde_json::from_slice(&answer)?),
            (What::Writes, Format::Plain) => show::writes(&serde_json::from_slice(&answer)?),
            (What::Write(_), Format::Plain) => show::write(&serde_json::from_slice(&answer)?),
            (What::Credentials, Format::Plain) => show::credentials(&serde_json::from_slice(&answer)?),
            (_, Format::Plain) => show::status(&serde_json::from_slice(&answer)?),
        };
        // A reader that has seen enough is no failure.
        write(&text, &mut io::stdout()).map(drop)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Incoming, ClientError> {
        let response = timeout(ANSWER_TIMEOUT, self.sender.send_request(request)).await;
        let response = response.map_err(|_| ClientError::Silent {
            socket: self.socket.clone(),
        })??;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await?.to_bytes();
        Err(serde_json::from_slice(&body).map_or(ClientError::Unexplained(status), ClientError::Refused))
    }
}

fn request(query: &Query) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder().uri(target(query)).header("host", "agent");
    let (method, value) = match &query.what {
        What::Change {
            change, key, guard, ..
        } => {
            if let Some(key) = key {
                request = request.header(IDEMPOTENCY_KEY, key.to_string());
            }
            request = match guard {
                None => request,
                Some(Guard::At(revision)) => request.header(IF_MATCH, format!("\"{revision}\"")),
                Some(Guard::Absent) => request.header(IF_NONE_MATCH, "*"),
            };
            match change {
                Change::Set {
                    value, content_type, ..
                } => {
                    if let Some(said) = content_type {
                        request = request.header(CONTENT_TYPE, said.as_str());
                    }
                    (Method::PUT, Some(value))
                }
                Change::Append { value } => (Method::POST, Some(value)),
                Change::Delete => (Method::DELETE, None),
            }
        }
        _ => (Method::GET, None),
    };
    let body = value.map(bytes_of).transpose()?.unwrap_or_default();
    let request = request.method(method).body(Full::new(body));
    // Paths, ids and revisions have no character that a target can't hold.
    Ok(request.expect("a target made of checked parts"))
}

fn bytes_of(value: &NewValue) -> Result<Bytes, ClientError> {
    match value {
        NewValue::Said(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        NewValue::StandardInput => {
            let mut bytes = Vec::new();
            // One more than an entry can have is refused by the agent, which says what the bound is.
            let most = MAX_VALUE_BYTES as u64 + 1;
            let read = io::stdin().lock().take(most).read_to_end(&mut bytes);
            read.map(|_| bytes.into()).map_err(ClientError::Read)
        }
    }
}

fn target(query: &Query) -> String {
    let of = query
        .instance
        .map_or_else(String::new, |id| format!("/instances/{id}"));
    match &query.what {
        What::Get { path, max_age_ms } => {
            let kind = if query.format == Format::Json {
                "entries"
            } else {
                "data"
            };
            let age = max_age_ms.map_or_else(String::new, |ms| format!("?max_age_ms={ms}"));
            format!("/v1{of}/{kind}/{path}{age}")
        }
        What::List { prefix, values } => {
            let values = if *values { "&values=true" } else { "" };
            format!("/v1{of}/data?prefix={prefix}{values}")
        }
        What::Watch { prefix, after } => {
            let after = after.map_or_else(String::new, |after| format!("&after={after}"));
            format!("/v1{of}/watch?prefix={prefix}{after}")
        }
        What::Change { path, change, .. } => {
            let ttl = match change {
                Change::Set { ttl: Some(ttl), .. } => format!("?ttl={}", ttl.seconds()),
                Change::Set { ttl: None, .. } | Change::Append { .. } | Change::Delete => String::new(),
            };
            format!("/v1{of}/data/{path}{ttl}")
        }
        What::IdentityToken { audience } => {
            let audience = utf8_percent_encode(audience, NON_ALPHANUMERIC);
            format!("/v1/identity-token?audience={audience}")
        }
        What::Writes => "/v1/writes".to_owned(),
        What::Write(key) => {
            let key = key.to_string();
            format!("/v1/writes/{}", utf8_percent_encode(&key, NON_ALPHANUMERIC))
        }
        What::Credentials => "/v1/credentials".to_owned(),
        What::Role { role, .. } => format!("/v1/credentials/{role}"),
        What::Status => "/v1/status".to_owned(),
    }
}

/// Writes each line as it comes, until nobody reads them any more. A watch that ends otherwise is a failure: whoever
/// watches has to do something.
async fn watch(mut lines: Incoming, format: Format, out: &mut impl io::Write) -> Result<(), ClientError> {
    let mut rest = Vec::new();
    while let Some(frame) = lines.frame().await {
        if let Ok(data) = frame?.into_data() {
            rest.extend_from_slice(&data);
        }
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event = serde_json::from_slice(&line)?;
            let text = if format == Format::Json {
                line
            } else {
                show::event(&event)
            };
            if write(&text, out)? == Reader::Gone {
                return Ok(());
            }
            if let moorline_shared::agent::WatchEvent::Resync { revision } = event {
                return Err(ClientError::Resync(revision));
            }
        }
    }
    Err(ClientError::WatchEnded)
}

/// Whether anybody reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

fn write(text: &[u8], out: &mut impl io::Write) -> Result<Reader, ClientError> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(ClientError::Write(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, ClientError, target};
    use crate::cli::args::{Command, Format, Query, What, parse};
    use crate::test_host::{OTHER, Rig, run};

    fn query(what: What) -> Query {
        Query {
            what,
            instance: None,
            format: Format::Plain,
        }
    }

    fn get(path: &str) -> Query {
        query(What::Get {
            path: path.parse().unwrap(),
            max_age_ms: None,
        })
    }

    #[test]
    fn queries_become_targets() {
        let list = What::List {
            prefix: "net".parse().unwrap(),
            values: true,
        };
        assert_eq!(target(&query(list)), "/v1/data?prefix=net&values=true");
        let watch = What::Watch {
            prefix: Default::default(),
            after: Some("1.2".parse().unwrap()),
        };
        let foreign = Query {
            instance: Some(OTHER),
            ..query(watch)
        };
        assert_eq!(
            target(&foreign),
            format!("/v1/instances/{OTHER}/watch?prefix=&after=1.2")
        );
        let json = Query {
            format: Format::Json,
            ..get("a")
        };
        assert_eq!(target(&json), "/v1/entries/a");
        assert_eq!(target(&get("a/b")), "/v1/data/a/b");
        let write = query(What::Write("k/1?".parse().unwrap()));
        assert_eq!(target(&write), "/v1/writes/k%2F1%3F");
    }

    #[test]
    fn a_watch_ends_when_nobody_reads_it_any_more() {
        run(async {
            let rig = Rig::linked().await;
            let mut client = Client::connect(&rig.socket).await.unwrap();
            let watching = query(What::Watch {
                prefix: Default::default(),
                after: None,
            });
            let lines = client.send(super::request(&watching).unwrap()).await.unwrap();
            let (gone, mut out) = std::io::pipe().unwrap();
            drop(gone);
            super::watch(lines, Format::Plain, &mut out).await.unwrap();
        });
    }

    #[test]
    fn failures_have_the_exit_codes_that_the_help_names() {
        run(async {
            let rig = Rig::linked().await;
            let missing = rig.folder().join("nobody");
            let Err(error) = Client::connect(&missing).await else {
                panic!("nobody is there")
            };
            assert!(
                matches!(error, ClientError::NotRunning { .. }) && error.exit_code() == 4,
                "{error}"
            );
            let mut client = Client::connect(&rig.socket).await.unwrap();
            client.ask(&query(What::Status)).await.unwrap();
            let error = client.ask(&get("none")).await.unwrap_err();
            assert!(
                error.exit_code() == 3 && error.to_string().contains("'none'"),
                "{error}"
            );
            rig.stop.cancel();
            let watch = What::Watch {
                prefix: Default::default(),
                after: None,
            };
            let error = client.ask(&query(watch)).await.unwrap_err();
            assert_eq!(error.exit_code(), 1, "{error}");
        });
    }

    #[test]
    fn a_validity_period_is_part_of_the_target() {
        for (ttl, expected) in [("--ttl 90", "/v1/data/a/b?ttl=90"), ("", "/v1/data/a/b")] {
            let line = format!("moorline-agent set a/b c {ttl}");
            let Ok(Command::Ask { query, .. }) = parse(line.split_whitespace().map(Into::into)) else {
                panic!("{line} was not taken")
            };
            assert_eq!(target(&query), expected);
        }
    }
}
