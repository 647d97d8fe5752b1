//! A service and a control plane that say what the test says.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use moorline_client::{Client, Endpoint};
use moorline_shared::InstanceId;
use moorline_shared::credential::Credential;
use tokio::task::JoinSet;

use super::super::{FetchError, Fetched, Lasts, Request, Source as _};
use super::Settings;
use super::answer::{self, AnswerError};

const ANSWER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/x/y</Arn><AssumedRoleId>A:y</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <SessionToken>tok&amp;en/+=</SessionToken>
      <SecretAccessKey>sesame</SecretAccessKey>
      <Expiration>2027-01-15T08:00:00Z</Expiration>
      <AccessKeyId>ASIA1</AccessKeyId>
    </Credentials>
    <Provider/>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>
"#;

/// What the service was asked, and what it answers.
struct Service {
    answer: (StatusCode, String),
    asked: Mutex<Vec<String>>,
}

async fn identity(Path((host, instance)): Path<(String, String)>, body: String) -> String {
    assert_eq!(
        (host.as_str(), body.as_str()),
        ("h1", r#"{"audience":"sts.amazonaws.com"}"#)
    );
    format!(r#"{{"token":"word-for-{instance}","expires_at":"2027-01-15T08:00:00Z"}}"#)
}

async fn assume(State(service): State<Arc<Service>>, body: String) -> (StatusCode, String) {
    service.asked.lock().unwrap().push(body);
    service.answer.clone()
}

/// What comes of asking a service that answers so, and what it was asked.
async fn fetch(status: StatusCode, answer: &str) -> (Result<Fetched, FetchError>, Vec<String>) {
    // Without a provider the client can't be made; whoever comes second finds one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let service = Arc::new(Service {
        answer: (status, answer.to_owned()),
        asked: Mutex::default(),
    });
    let routes = Router::new()
        .route(
            "/v1/hosts/{host}/instances/{instance}/identity-token",
            post(identity),
        )
        .route("/", post(assume))
        .with_state(service.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let endpoint = Endpoint::new(url.parse().unwrap(), "token".parse().unwrap());
    let request = Request {
        instance: InstanceId::from_bytes([7; 16]),
        incarnation: 3,
        account: "main".parse().unwrap(),
        role: "backup".parse().unwrap(),
        host: "h1".parse().unwrap(),
        session: None,
        control: Client::new(endpoint).unwrap(),
        clients: Default::default(),
    };
    let fetched = settings(&url).fetch(&request).await;
    let asked = service.asked.lock().unwrap().clone();
    (fetched, asked)
}

fn settings(url: &str) -> Settings {
    let text = format!("url = '{url}'\nrole_arn = 'arn:aws:iam::1:role/backup'\n");
    toml::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_service_gives_credentials_for_moorlines_word() {
    let (fetched, asked) = fetch(StatusCode::OK, ANSWER).await;
    let fetched = fetched.unwrap();
    let Credential::Aws(aws) = fetched.credential else {
        panic!("of another kind")
    };
    assert_eq!(
        (
            aws.access_key_id.as_str(),
            aws.secret_access_key.expose(),
            aws.session_token.unwrap().expose()
        ),
        ("ASIA1", "sesame", "tok&en/+=")
    );
    assert_eq!(
        fetched.lasts,
        Lasts::Until("2027-01-15T08:00:00Z".parse().unwrap())
    );
    let id = format!("i-{}", "07".repeat(16));
    let asked = asked.concat();
    for part in [
        "Action=AssumeRoleWithWebIdentity",
        "Version=2011-06-15",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbackup",
        &format!("RoleSessionName={id}"),
        "DurationSeconds=3600",
        &format!("WebIdentityToken=word-for-{id}"),
    ] {
        assert!(asked.split('&').any(|found| found == part), "{part}: {asked}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let answer = "<ErrorResponse><Error><Code>Access&lt;Denied</Code><Message>no\u{1b}</Message></Error></ErrorResponse>";
    let (fetched, _) = fetch(StatusCode::FORBIDDEN, answer).await;
    let said = fetched.unwrap_err().to_string();
    assert!(
        said.ends_with("answered with status 403: Access<Denied no\\x1b"),
        "{said}"
    );
}

#[tokio::test]
async fn an_answer_without_end_and_one_that_leads_elsewhere_are_refused() {
    let (fetched, _) = fetch(StatusCode::OK, &"x".repeat(100_000)).await;
    assert!(matches!(fetched, Err(FetchError::TooLong(_))));
    let (fetched, asked) = fetch(StatusCode::TEMPORARY_REDIRECT, "").await;
    assert!(matches!(fetched, Err(FetchError::Refused { status: 307, .. })));
    assert_eq!(asked.len(), 1);
}

#[test]
fn answers_that_are_not_plain_are_refused_and_not_shown() {
    for (before, after) in [
        ("<Credentials>", "<Credentials><!-- sesame -->"),
        (
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
            "<!DOCTYPE x [<!ENTITY a 'sesame'>]>",
        ),
        ("sesame", "&sesame;"),
        ("sesame", "<![CDATA[sesame]]>"),
        ("sesame", "sesame<x/>door"),
        ("sesame", "sesame<x>door</x>"),
        ("sesame", "<x/>sesame"),
        ("<Credentials>", "<Credentials>sesame"),
        ("</Credentials>", "sesame</Credentials>"),
        ("</Credentials>", ""),
        ("</Credentials>", "</Credential>"),
        ("<Expiration>2027", "<Expiration>sesame"),
        ("<SecretAccessKey>sesame</SecretAccessKey>", ""),
        ("<AccessKeyId>", "<AccessKeyId>x</AccessKeyId><AccessKeyId>"),
        (
            "<Credentials>",
            "<Credentials><a><b><c><d><e><f></f></e></d></c></b></a>",
        ),
        (
            "</AssumeRoleWithWebIdentityResponse>",
            "</AssumeRoleWithWebIdentityResponse><x></x>",
        ),
        ("AssumeRoleWithWebIdentityResult", "AssumeRoleResult"),
    ] {
        let text = ANSWER.replace(before, after);
        assert_ne!(text, ANSWER, "{before}");
        let error = answer::read(text.as_bytes()).unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("sesame"),
            "{after}: {error}"
        );
    }
    assert_eq!(answer::read(b"").unwrap_err(), AnswerError::Form(0));
    assert!(answer::read(&[0xff]).is_err());
}

#[test]
fn what_goes_over_a_network_is_encrypted() {
    for bad in [
        "http://sts.example/",
        "ftp://x/",
        "sts.example",
        "http://127.0.0.1.example/",
    ] {
        let error = settings(bad).check().unwrap_err();
        assert_eq!(error.key, "url", "{bad}: {}", error.problem);
    }
    for good in ["https://sts.example/", "http://127.0.0.1:9/", "http://[::1]:9/"] {
        settings(good).check().unwrap();
    }
}

proptest::proptest! {
    #[test]
    fn no_answer_makes_it_panic(text in "[<>/&;a-c \u{e4}]{0,80}", at in 0..1_000usize) {
        let _ = answer::read(text.as_bytes());
        let _ = answer::reason(text.as_bytes());
        let _ = answer::read(&ANSWER.as_bytes()[..at.min(ANSWER.len())]);
    }
}
