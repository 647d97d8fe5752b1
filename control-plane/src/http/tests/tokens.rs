//! Every kind of token at every door: changed, cut, lengthened, exchanged for another kind, of an old key, of another
//! deployment, and of another account.

use axum::http::{Method, StatusCode};
use moorline_shared::{OperationId, Principal};
use serde_json::{Value as Json, json};

use super::signing::{Draft, Guest};
use super::{Api, Reply};
use crate::identity::operations::{NewSession, Op, Reply as Answer};
use crate::identity::records::SessionPurpose;
use crate::identity::token::Kind;
use crate::identity::{self, directory::local};
use crate::model::Attempt;
use crate::services::provider;

const PASSWORD: &str = "correct horse battery staple";

/// Where tokens are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// With a request.
    Bearer,
    /// To be exchanged.
    Refresh,
    /// With what an instance signs.
    Instance,
}

const DOORS: [Door; 3] = [Door::Bearer, Door::Refresh, Door::Instance];

/// A deployment with a token of every kind that is given out.
struct World {
    api: Api,
    guest: Guest,
    /// What each is called, the token, and the doors that it opens.
    tokens: Vec<(&'static str, String, &'static [Door])>,
}

impl World {
    async fn new() -> Self {
        let api = Api::new().await;
        let instance = api.with_instances(1).await.remove(0);
        let guest = api.guest(&instance).await;
        api.user("ann", "member").await;
        let login = api.tokens("ann").await;
        let combined = json!({"user": "ann", "password": PASSWORD, "form": "combined"});
        let combined = api.json(Method::POST, "/v1/sessions", &[], combined).await.body;
        let program = json!({"name": "ci"});
        let program = api.by(&login["access_token"], Method::POST, "/v1/tokens", program);
        let program = program.await.body;
        let text = |token: &Json| token.as_str().unwrap().to_owned();
        let tokens = vec![
            ("access", text(&login["access_token"]), &[Door::Bearer][..]),
            ("refresh", text(&login["refresh_token"]), &[Door::Refresh]),
            (
                "combined",
                text(&combined["access_token"]),
                &[Door::Bearer, Door::Refresh],
            ),
            ("program", text(&program["token"]), &[Door::Bearer]),
            ("instance", guest.token.clone(), &[Door::Instance]),
        ];
        Self { api, guest, tokens }
    }

    async fn show(&self, door: Door, token: &str) -> Reply {
        match door {
            Door::Bearer => {
                self.api
                    .by(&json!(token), Method::GET, "/v1/whoami", Json::Null)
                    .await
            }
            Door::Refresh => {
                let body = json!({ "refresh_token": token });
                self.api.json(Method::POST, "/v1/tokens/refresh", &[], body).await
            }
            Door::Instance => {
                let target = format!("/v1/instances/{}/data/own", self.guest.id);
                let draft = Draft::new(&self.guest, Method::PUT, &target, r#"{"value": "x"}"#);
                let draft = draft.with(|draft| token.clone_into(&mut draft.token));
                draft.passed_on_by(self.api.host()).send(&self.api).await
            }
        }
    }

    async fn refused(&self, door: Door, token: &str, why: &str) {
        let reply = self.show(door, token).await;
        assert_eq!(
            reply.status,
            StatusCode::UNAUTHORIZED,
            "{why} at {door:?}: {reply:?}"
        );
    }

    /// That all this refuses is worth something: each token is good at its doors.
    async fn all_are_good(&self) {
        for (name, token, doors) in &self.tokens {
            for door in *doors {
                let reply = self.show(*door, token).await;
                assert_eq!(reply.status, StatusCode::OK, "{name} at {door:?}: {reply:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_changed_character_every_cut_and_every_addition_is_refused() {
    let world = World::new().await;
    for (name, token, doors) in &world.tokens {
        for (at, known) in token.char_indices() {
            let other = if known == 'A' { 'B' } else { 'A' };
            let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            for door in *doors {
                world
                    .refused(*door, &changed, &format!("{name} changed at {at}"))
                    .await;
                world
                    .refused(*door, &token[..at], &format!("{name} cut at {at}"))
                    .await;
            }
        }
        for more in ["A", "AA", "AAAA", "=", "_"] {
            for door in *doors {
                world
                    .refused(*door, &format!("{token}{more}"), &format!("{name} and {more}"))
                    .await;
            }
        }
    }
    world.all_are_good().await;
}

#[tokio::test]
async fn no_token_opens_a_door_of_another_kind_under_any_name() {
    let world = World::new().await;
    for (name, token, doors) in &world.tokens {
        for door in DOORS {
            for kind in Kind::ALL {
                let renamed = format!("{}{}", kind.prefix(), &token[4..]);
                if renamed != *token || !doors.contains(&door) {
                    let why = format!("{name} as {}", kind.prefix());
                    world.refused(door, &renamed, &why).await;
                }
            }
        }
    }
    world.all_are_good().await;
}

#[tokio::test]
async fn tokens_of_another_deployment_open_nothing() {
    let (world, other) = (World::new().await, World::new().await);
    for (name, token, _) in &other.tokens {
        for door in DOORS {
            world.refused(door, token, name).await;
        }
    }
}

#[tokio::test]
async fn tokens_of_a_key_that_was_destroyed_open_nothing() {
    let world = World::new().await;
    world.all_are_good().await;
    for (method, target) in [
        (Method::POST, "/v1/token-keys"),
        (Method::POST, "/v1/token-keys/2/promote"),
        (Method::DELETE, "/v1/token-keys/1?force=true"),
    ] {
        let done = world.api.json(method, target, &[], Json::Null).await;
        assert!(done.status.is_success(), "{done:?}");
    }
    for (name, token, doors) in &world.tokens {
        for door in *doors {
            world.refused(*door, token, name).await;
        }
    }
}

/// A user is somebody in their own account alone, whatever a token says.
#[tokio::test]
async fn a_token_of_another_account_opens_nothing() {
    let world = World::new().await;
    let control = &world.api.control;
    for (account, status) in [("default", StatusCode::OK), ("other", StatusCode::UNAUTHORIZED)] {
        let op = Op::CreateSession(NewSession {
            principal: Principal::User("ann".parse().unwrap()),
            directory: local(),
            account: account.parse().unwrap(),
            purpose: SessionPurpose::Login,
            client: None,
            lifetime: 3_600,
        });
        let caller = provider("identity");
        let id = OperationId::derive(&caller.principal, &account.parse().unwrap());
        let attempt = Attempt::new(op, caller, id);
        let done = control.run(&identity::Model, attempt).await.unwrap();
        control.tokens.reach(done.revision.n).await.unwrap();
        let Answer::Session {
            session,
            grant: Some(grant),
        } = done.reply
        else {
            panic!("no session was begun");
        };
        for kind in [Kind::Access, Kind::AccessAndRefresh] {
            let now = control.executor.now();
            let minted = control
                .tokens
                .mint(kind, &session, grant, None, 900, now)
                .unwrap();
            let reply = world.show(Door::Bearer, minted.token.expose()).await;
            assert_eq!(reply.status, status, "{account}: {reply:?}");
        }
    }
}
