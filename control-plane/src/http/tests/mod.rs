//! The API without a socket: requests in, responses out, on a real store.

mod access;
mod conforms;
mod damage;
mod data;
mod document;
mod groups;
mod health;
mod history;
mod host;
mod instances;
mod login;
mod metrics;
mod problems;
mod proof;
mod retries;
mod secrets;
mod signing;
mod sync;
mod tokens;
mod watch;

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use moorline_shared::Timestamp;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use self::host::Host;
use super::auth::administrator::AdministratorToken;
use super::auth::instance::Seen;
use super::feed::Dispatcher;
use super::feed::views::Views;
use super::{Control, router};
use crate::identity::authority::Authority;
use crate::identity::enrolment::Hosts;
use crate::identity::{self, issuer::Issuer, master::MasterKey, password::Passwords};
use crate::metrics::Requests;
use crate::model::Executor;
use crate::services::Services;
use crate::settings::Settings;
use crate::store::Store;

struct Api {
    router: axum::Router,
    token: String,
    store: Store,
    dispatcher: Option<Dispatcher>,
    folder: tempfile::TempDir,
    host: OnceLock<Host>,
    control: Control,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Json,
}

impl Api {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let token_file = folder.path().join("admin.token");
        let administrator = AdministratorToken::open(&token_file).unwrap();
        let access = settings.access;
        let master = MasterKey::for_tests();
        let (dispatcher, feed) = Dispatcher::new(&store, access, master.clone()).await.unwrap();
        let executor = Executor::new(store.clone(), settings, master.clone());
        let tokens = identity::open(&executor, &master).await.unwrap();
        let issuer = Issuer::open(&executor, &master, "https://moorline.test".to_owned())
            .await
            .unwrap();
        let control = Control {
            issuer,
            seen: Seen::new(executor.now()),
            executor: Arc::new(executor),
            services: Arc::new(Services::default()),
            administrator: Arc::new(administrator),
            tokens,
            passwords: Arc::new(Passwords::new(master.clone())),
            guesses: Arc::default(),
            authority: Arc::new(authority()),
            hosts: Hosts::open(store.clone()).await.unwrap(),
            feed,
            views: Views::new(store.clone(), access, master.clone()),
            master,
            deployment: "test".into(),
            requests: Requests::default(),
            looks: Default::default(),
            cancel: CancellationToken::new(),
        };
        let token = std::fs::read_to_string(token_file).unwrap().trim().to_owned();
        Self {
            router: router(control.clone()),
            token,
            store,
            dispatcher: Some(dispatcher),
            folder,
            host: OnceLock::new(),
            control,
        }
    }

    /// What comes back, which is as the document says.
    async fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: Body) -> Reply {
        let mut request = Request::builder().method(&method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.exchange(request.body(body).unwrap()).await
    }

    /// What comes back of a request that says by itself who makes it.
    async fn exchange(&self, request: Request<Body>) -> Reply {
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let sent = request.headers().clone();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let reply = Reply {
            status: head.status,
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        };
        conforms::check(&method, &target, &sent, &reply);
        reply
    }

    async fn json(&self, method: Method, target: &str, headers: &[(&str, &str)], body: Json) -> Reply {
        self.send(method, target, headers, Body::from(body.to_string()))
            .await
    }

    async fn get(&self, target: &str) -> Reply {
        self.send(Method::GET, target, &[], Body::empty()).await
    }

    /// The host that instances are on.
    fn host(&self) -> &Host {
        self.host.get().expect("there are instances")
    }

    /// A host and instances on it.
    async fn with_instances(&self, count: u32) -> Vec<String> {
        let host = self.enrol("h1").await;
        let offer = json!({"zone": "z", "vcpus": 64, "memory_mib": 65536, "images": ["busybox"]});
        let registered = self.by_host(&host, Method::PUT, "/v1/hosts/h1", &[], offer).await;
        assert_eq!(registered.status, StatusCode::OK, "{registered:?}");
        self.host.set(host).ok().expect("there is one host");
        let run = json!({"image": "busybox", "type": "micro", "count": count, "name": "web"});
        let made = self.json(Method::POST, "/v1/instances", &[], run).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let instances = made.body["instances"].as_array().unwrap();
        instances
            .iter()
            .map(|instance| instance["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn authority() -> Authority {
    Authority::make("test", now()).unwrap().0
}

pub(in crate::http) fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap()).unwrap()
}
