//! Commands that print what they should, and commands that don't.

use std::time::{Duration, Instant};

use moorline_client::{Client, Endpoint};
use moorline_shared::InstanceId;
use moorline_shared::credential::Credential;
use rustix::process::{Pid, Signal};
use tokio::time::timeout;

use super::super::{FetchError, Fetched, Request, Source as _};
use super::Settings;

const GOOD: &str = r#"echo '{"Version":1,"AccessKeyId":"AKIA","SecretAccessKey":"sesame","Expiration":"2027-01-15T08:00:00Z"}'"#;

fn request() -> Request {
    // Without a provider the client can't be made; whoever comes second finds one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nobody = Endpoint::new("http://127.0.0.1:9".parse().unwrap(), "token".parse().unwrap());
    Request {
        instance: InstanceId::from_bytes([7; 16]),
        incarnation: 3,
        account: "main".parse().unwrap(),
        role: "backup".parse().unwrap(),
        host: "h1".parse().unwrap(),
        session: None,
        control: Client::new(nobody).unwrap(),
        clients: Default::default(),
    }
}

/// The settings of a role whose command is a script.
fn script(text: &str, seconds: u32) -> Settings {
    Settings {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
        timeout_seconds: seconds,
        environment: [("GREETING".to_owned(), "hello".to_owned().into())].into(),
    }
}

/// What comes of it, as the daemon would have it.
async fn fetch(text: &str, seconds: u32) -> Result<Fetched, FetchError> {
    let settings = script(text, seconds);
    let patience = settings.patience();
    timeout(patience, settings.fetch(&request()))
        .await
        .map_err(|_| FetchError::Timeout(patience))?
}

async fn refusal(text: &str, seconds: u32) -> String {
    fetch(text, seconds).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_command_knows_for_whom_it_is_and_nothing_of_the_daemon() {
    let text = r#"echo "{\"kind\":\"bearer\",\"expires_at\":\"2027-01-15T08:00:00Z\",\"token\":\"$MOORLINE_INSTANCE.\
$MOORLINE_INCARNATION.$MOORLINE_ACCOUNT.$MOORLINE_ROLE.$MOORLINE_HOST.$GREETING.$CARGO_MANIFEST_DIR.$PWD\"}""#;
    let text = text.replace("\\\n", "");
    let Credential::Bearer(bearer) = fetch(&text, 30).await.unwrap().credential else {
        panic!("of another kind")
    };
    let expected = format!("i-{}.3.main.backup.h1.hello../", "07".repeat(16));
    assert_eq!(bearer.token.expose(), expected);
}

#[tokio::test]
async fn output_without_end_is_cut_off() {
    let said = refusal("yes sesame; yes sesame >&2", 30).await;
    assert_eq!(said, "more than 65536 bytes came");
}

#[tokio::test]
async fn complaints_without_end_are_read_and_let_go() {
    let text = format!("head -c 10000000 /dev/zero >&2; {GOOD}");
    assert!(fetch(&text, 30).await.is_ok());
}

#[tokio::test]
async fn what_is_no_credential_is_refused_and_not_shown() {
    for text in ["echo sesame", "true", "echo '{}'", "printf '\\377\\376'"] {
        let said = refusal(text, 30).await;
        assert!(
            said.contains("no credential document") && !said.contains("sesame"),
            "{text}: {said}"
        );
    }
}

#[tokio::test]
async fn a_command_that_fails_is_quoted_from_its_end_and_escaped() {
    let text = format!("{GOOD}; head -c 9000 /dev/zero >&2; printf 'no \\033[31mright\\n' >&2; exit 3");
    let said = refusal(&text, 30).await;
    assert!(said.contains("/bin/sh ended with exit status: 3"), "{said}");
    assert!(
        said.ends_with("no \\x1b[31mright") && said.len() < 3_000,
        "{said}"
    );
    assert!(!said.contains("sesame") && !said.contains('\u{1b}'), "{said}");
    assert!(refusal("kill -9 $$", 30).await.contains("signal: 9"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut settings = script("", 30);
    settings.command = vec!["/nowhere/program".to_owned()];
    let error = settings.fetch(&request()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/program"), "{error}");
}

/// Waits until no process has this id any more.
async fn until_gone(pid: &str) {
    let gone = async {
        while std::path::Path::new("/proc").join(pid.trim()).exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone)
        .await
        .expect("it was left running");
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let text = format!(
        "sleep 1000 & echo $! >{file}; echo $$ >>{file}; sleep 1000",
        file = file.display()
    );
    let said = refusal(&text, 1).await;
    assert_eq!(said, "nothing came within 1s");
    let pids = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    for pid in pids.lines() {
        until_gone(pid).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let began = Instant::now();
    let text = format!("sleep 1000 & echo $! >{}; {GOOD}", file.display());
    assert!(fetch(&text, 300).await.is_ok());
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    until_gone(&std::fs::read_to_string(&file).unwrap()).await;
}

/// It has the command's pipes in hand, and is in no group that is killed.
#[tokio::test]
async fn what_a_command_puts_elsewhere_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let left = format!(
        "setsid sh -c 'echo $$ >{file}; exec sleep 1000' & until test -s {file}; do :; done",
        file = file.display()
    );
    for (then, expected) in [(GOOD, None), ("echo no >&2; exit 3", Some("exit status: 3: no"))] {
        let began = Instant::now();
        let fetched = fetch(&format!("{left}; {then}"), 300).await;
        assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
        let said = fetched.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.ends_with(expected.unwrap_or_default()), "{said}");
        assert_eq!(said.is_empty(), expected.is_none(), "{said}");
        let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        std::fs::remove_file(&file).unwrap();
        // It lives on, and is nobody's but the test's.
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}
