//! The whole of it: a scripted control plane, real shards, real guests, and commands as sources.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as Named, State};
use axum::routing::post;
use moorline_client::{Client, Endpoint};
use moorline_shared::api::feed::{Revocation, Revoked};
use moorline_shared::credential::Credential;
use moorline_shared::link::Moment;
use moorline_shared::link::session::GuestEvent;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Credentials, Generations, Handle, NotVouched, Roles, channel};
use crate::cache::FeedBatch;
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::tests::{Agent, id, link_key, revision, spec, view};
use crate::link::{Admission, Shards, ShardsHandle};
use crate::uplink::SpecChange;

/// The instance that is given one token, and no answer whenever it is asked for another.
const ONCE: u8 = 9;

/// Sessions, numbered.
async fn session(
    State(count): State<Arc<AtomicU32>>,
    Named((host, instance)): Named<(String, String)>,
) -> String {
    assert_eq!(host, "h1");
    let n = count.fetch_add(1, Ordering::Relaxed);
    if n > 1 && instance == id(ONCE).to_string() {
        std::future::pending::<()>().await;
    }
    let key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    format!(
        r#"{{"session":"s-{instance}","token":"mli_sesame_{instance}","token_id":"t-{n}","sealed_by":1,"key":"{key}",
        "expires_at":"2027-01-15T08:00:00Z","expires_in_seconds":3600,"identify_within_seconds":600}}"#
    )
}

/// A daemon of shards and credentials.
struct World {
    shards: Shards,
    given: Handle,
    folder: tempfile::TempDir,
    /// The number of the next session.
    next_session: Arc<AtomicU32>,
    /// The control plane and the credentials; they end with the world.
    tasks: JoinSet<()>,
}

impl World {
    async fn new(roles: &str) -> Self {
        // Without a provider the client can't be made; whoever comes second finds one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let next_session = Arc::new(AtomicU32::new(1));
        let routes = Router::new()
            .route("/v1/hosts/{host}/instances/{instance}/session", post(session))
            .with_state(next_session.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let client = Client::new(Endpoint::new(url.parse().unwrap(), "token".parse().unwrap())).unwrap();
        let (asks, _) = mpsc::channel(1);
        let shards = Shards::start(&LinkConfig::default(), &CacheConfig::default(), None, &asks).unwrap();
        shards.handle().feed_clock().heard(crate::link::now());
        shards.handle().deployment("test");
        let (given, events) = channel();
        let roles: Roles = toml::from_str(roles).unwrap();
        let handle = shards.handle().clone();
        let folder = tempfile::tempdir().unwrap();
        let generations = Generations::open(folder.path()).unwrap();
        let host = "h1".parse().unwrap();
        let credentials = Credentials::new(host, client, roles, handle, generations, events);
        // A feed that is never silent.
        given.heard(Moment(u64::MAX));
        tasks.spawn(credentials.run(CancellationToken::new()));
        Self {
            shards,
            given,
            folder,
            next_session,
            tasks,
        }
    }

    fn handle(&self) -> &ShardsHandle {
        self.shards.handle()
    }

    /// An instance with these roles, and the first life of its VM.
    async fn add(&self, n: u8, roles: &[&str]) {
        let mut spec = spec(n);
        spec.roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        self.given.spec(&SpecChange::Set(spec));
        let channel = ChannelSpec::HybridVsock {
            uds_path: self.folder.path().join(n.to_string()),
            peer: ExpectedPeer::Owner,
            admission: Admission::Proof(link_key()),
        };
        self.handle().begin_incarnation(id(n), 1, channel).await.unwrap();
        let batch = FeedBatch {
            from: Some(revision(0)),
            to: revision(1),
            items: vec![view(n, n, 1, &[("a", "one")])],
        };
        self.handle().apply(batch).await.unwrap();
    }

    /// What a guest is given until it has been told so often that the test is content.
    async fn guest(&self, n: u8, count: usize) -> Vec<String> {
        let socket = self.folder.path().join(format!("{n}_8470"));
        let reading = spawn_blocking(move || told(&socket, count));
        timeout(Duration::from_secs(30), reading).await.unwrap().unwrap()
    }

    /// Waits until the instance's status is what the test waits for.
    async fn until(&self, n: u8, mut look: impl FnMut(&str) -> bool) -> String {
        let looking = async {
            loop {
                let all = self.given.status().await;
                let shown = serde_json::to_string(&all.get(&id(n))).unwrap();
                if look(&shown) {
                    return shown;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), looking).await.unwrap()
    }

    async fn close(mut self) {
        self.tasks.shutdown().await;
        spawn_blocking(move || self.shards.drain(0))
            .await
            .unwrap()
            .unwrap();
    }
}

/// The texts of so many things that are good.
fn told(socket: &Path, count: usize) -> Vec<String> {
    let mut agent = Agent::dial(socket);
    agent.ready();
    let mut told = Vec::new();
    while told.len() < count {
        match agent.next() {
            GuestEvent::Session(session) => told.push(session.token.expose().to_owned()),
            GuestEvent::Credential(credential) => {
                let Some(current) = credential.current else {
                    continue;
                };
                told.push(
                    match Credential::parse(&current.kind, &current.document).unwrap() {
                        Credential::Aws(aws) => aws.secret_access_key.expose().to_owned(),
                        Credential::Bearer(bearer) => format!("bearer {}", bearer.token.expose()),
                    },
                );
            }
            _ => {}
        }
    }
    told.sort();
    told
}

const ROLES: &str = r#"
[backup]
source = "exec"
command = ["/bin/sh", "-c", '''
echo '{"Version":1,"AccessKeyId":"AKIA","SecretAccessKey":"'sesame-$MOORLINE_ROLE-$MOORLINE_INSTANCE'","Expiration":"'$(date -u -d +1hour +%FT%TZ)'"}'
''']
[broken]
source = "exec"
command = ["/bin/sh", "-c", "echo sesame; exit 1"]
[self]
source = "moorline"
"#;

#[tokio::test]
async fn each_guest_has_its_own_and_people_see_no_secret() {
    let world = World::new(ROLES).await;
    world.add(1, &["backup", "broken", "self"]).await;
    world.add(2, &["backup"]).await;
    let [one, two] = [1, 2].map(|n| id(n).to_string());
    let expected = [
        format!("bearer mli_sesame_{one}"),
        format!("mli_sesame_{one}"),
        format!("sesame-backup-{one}"),
    ];
    assert_eq!(world.guest(1, 3).await, expected);
    let expected = [format!("mli_sesame_{two}"), format!("sesame-backup-{two}")];
    assert_eq!(world.guest(2, 2).await, expected);
    let shown = world.until(1, |shown| shown.contains("exit status: 1")).await;
    assert!(
        shown.contains("\"aws\"") && shown.contains("\"bearer\"") && shown.contains("\"session\""),
        "{shown}"
    );
    assert!(!shown.contains("sesame") && !shown.contains("AKIA"), "{shown}");
    world.close().await;
}

/// What the feed says when the session of an instance was ended.
fn end_of_session(n: u8) -> Revocation {
    let time = |ms| moorline_shared::Timestamp::from_millis(ms).unwrap();
    Revocation {
        sequence: revision(1),
        revoked: Revoked::Session {
            instance: id(n),
            id: format!("s-{}", id(n)),
        },
        not_before: time(0),
        until: time(3_600_000),
    }
}

#[tokio::test]
async fn what_is_taken_away_is_gone_at_once() {
    let world = World::new(ROLES).await;
    world.add(1, &["backup", "self"]).await;
    world
        .until(1, |shown| {
            shown.contains("\"aws\"") && shown.contains("\"bearer\"")
        })
        .await;
    assert_eq!(world.given.vouch(id(1), "").await, Ok(()));
    world.given.revoked(end_of_session(1));
    assert_eq!(
        world.given.vouch(id(1), "").await,
        Err(NotVouched::Ended),
        "what shows no token goes on"
    );
    world
        .until(1, |shown| {
            !shown.contains("\"bearer\"") && !shown.contains("\"session\"")
        })
        .await;
    world.given.spec(&SpecChange::Gone(id(1)));
    world.until(1, |shown| shown == "null").await;
    world.close().await;
}

#[tokio::test]
async fn who_waits_for_word_of_a_session_hears_that_it_was_ended() {
    let world = World::new("").await;
    // The feed is silent, so that the control plane is asked.
    world.given.heard(Moment(0));
    world.add(ONCE, &[]).await;
    world.until(ONCE, |shown| shown.contains("\"session\"")).await;
    let token = format!("mli_sesame_{}", id(ONCE));
    let ends = async {
        // The fetch that is to tell is under way, and would tell nothing.
        world
            .until(ONCE, |_| world.next_session.load(Ordering::Relaxed) == 3)
            .await;
        world.given.revoked(end_of_session(ONCE));
    };
    let (vouched, ()) = tokio::join!(world.given.vouch(id(ONCE), &token), ends);
    assert_eq!(vouched, Err(NotVouched::Ended));
    world.close().await;
}
