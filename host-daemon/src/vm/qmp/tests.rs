use super::{Event, Qmp, QmpError, RunState};
use crate::vm::process::{Identity, Process};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;

/// A socket where a QEMU of the test's own making answers.
struct Fake {
    _folder: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

impl Fake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self {
            _folder: folder,
            path,
            listener,
        }
    }

    /// Greets, and answers each command with the lines that `answer` makes of its name and id.
    async fn serve(&self, answer: impl Fn(&str, u64) -> String) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        stream
            .write_all(format!("{GREETING}\r\n").as_bytes())
            .await
            .unwrap();
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let command: serde_json::Value = serde_json::from_str(&line).unwrap();
            let name = command["execute"].as_str().unwrap();
            let reply = answer(name, command["id"].as_u64().unwrap());
            if writer.write_all(reply.as_bytes()).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// What whoever connects says until it hangs up, although it is greeted.
    async fn heard(&self) -> String {
        let mut stream = self.say(format!("{GREETING}\r\n")).await;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }

    /// Says `lines` to whoever connects and then holds the connection.
    async fn say(&self, lines: String) -> UnixStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        // A client that had enough hangs up in the middle.
        let _ = stream.write_all(lines.as_bytes()).await;
        stream
    }
}

fn done(id: u64) -> String {
    format!("{{\"return\": {{}}, \"id\": {id}}}\r\n")
}

#[tokio::test]
async fn commands_are_answered_and_events_in_between_are_kept() {
    let fake = Fake::new();
    let server = fake.serve(|name, id| match name {
        "query-status" => format!("{{\"return\": {{\"status\": \"running\"}}, \"id\": {id}}}\r\n"),
        "system_powerdown" => {
            let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "POWERDOWN"}"#;
            let other = r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#;
            let end = r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
            format!("{event}\r\n{other}\r\n{}{end}\r\n", done(id))
        }
        "quit" => {
            format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}, \"id\": {id}}}\r\n")
        }
        _ => done(id),
    });
    let client = async {
        let mut qmp = Qmp::connect(&fake.path, Identity::own()).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), RunState::Alive);
        qmp.power_down().await.unwrap();
        assert_eq!(qmp.event().await.unwrap(), Event::PowerDown);
        let reason = "guest-shutdown".to_owned();
        assert_eq!(qmp.event().await.unwrap(), Event::Shutdown { reason });
        let refused = qmp.quit().await.unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refused quit: no");
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn a_guest_that_ended_is_seen_by_a_later_conversation() {
    let fake = Fake::new();
    let server = fake.serve(|name, id| match name {
        "query-status" => format!("{{\"return\": {{\"status\": \"shutdown\"}}, \"id\": {id}}}\r\n"),
        _ => done(id),
    });
    let client = async {
        let mut qmp = Qmp::connect(&fake.path, Identity::own()).await.unwrap();
        assert_eq!(qmp.status().await.unwrap(), RunState::Shutdown);
    };
    tokio::join!(server, client);
}

/// What a client makes of a QEMU that says this and nothing else.
async fn error_for(lines: String) -> QmpError {
    let fake = Fake::new();
    let (held, error) = tokio::join!(fake.say(lines), Qmp::connect(&fake.path, Identity::own()));
    drop(held);
    error.unwrap_err()
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_conversation() {
    let strange = ["no JSON\n".to_owned(), done(1), "x".repeat(1 << 20)];
    for lines in strange {
        let error = error_for(lines).await;
        assert!(matches!(error, QmpError::Protocol { .. }), "{error:?}");
    }
    let event = "{\"event\": \"RESET\"}\n";
    let error = error_for(format!("{GREETING}\n{}", event.repeat(1_000))).await;
    assert!(error.to_string().contains("floods"), "{error}");
}

#[tokio::test]
async fn a_qemu_that_does_not_stop_talking_is_hung_up_on() {
    let fake = Fake::new();
    let server = fake.serve(|_, id| done(id) + &"{\"event\": \"UNHEARD_OF\"}\n".repeat(100_000));
    let client = async {
        let mut qmp = Qmp::connect(&fake.path, Identity::own()).await.unwrap();
        let error = qmp.event().await.unwrap_err();
        assert!(error.to_string().contains("doesn't stop"), "{error}");
    };
    // Cancel-safe: the server's end says nothing, it only has to be there.
    tokio::select! {
        () = server => panic!("the server ended first"),
        () = client => (),
    }
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_hangs_is_given_up() {
    for lines in [String::new(), format!("{GREETING}\n")] {
        let error = error_for(lines).await;
        assert!(matches!(error, QmpError::Late { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_closed_socket_is_an_error_and_not_an_event() {
    let fake = Fake::new();
    let server = async {
        let mut stream = fake.say(format!("{GREETING}\n")).await;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
        stream.write_all(done(1).as_bytes()).await.unwrap();
    };
    let ((), qmp) = tokio::join!(server, Qmp::connect(&fake.path, Identity::own()));
    let error = qmp.unwrap().event().await.unwrap_err();
    assert!(matches!(error, QmpError::Closed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_socket_of_another_process_hears_nothing() {
    let fake = Fake::new();
    let other = Process::spawn(Command::new("cat").stdin(Stdio::piped())).unwrap();
    let (said, refused) = tokio::join!(fake.heard(), Qmp::connect(&fake.path, other.identity()));
    assert!(matches!(refused, Err(QmpError::Stranger { .. })), "{refused:?}");
    assert_eq!(said, "");
    other.kill().unwrap();
}
