//! Users who log in, and what becomes of their tokens.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value as Json, json};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::damage::{key, spoil};
use super::{Api, Reply};
use crate::identity::rules::users::MAX_USERS;
use crate::store::Write;

const PASSWORD: &str = "correct horse battery staple";

impl Api {
    pub(super) async fn user(&self, name: &str, role: &str) {
        let body = json!({"user": name, "role": role, "password": PASSWORD});
        let made = self.json(Method::POST, "/v1/users", &[], body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }

    pub(super) async fn log_in(&self, name: &str, password: &str) -> Reply {
        let body = json!({"user": name, "password": password});
        self.json(Method::POST, "/v1/sessions", &[], body).await
    }

    /// The tokens of a user who has just logged in.
    pub(super) async fn tokens(&self, name: &str) -> Json {
        let reply = self.log_in(name, PASSWORD).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        reply.body
    }

    /// A request with this token.
    pub(super) async fn by(&self, token: &Json, method: Method, target: &str, body: Json) -> Reply {
        let bearer = format!("Bearer {}", token.as_str().unwrap());
        self.json(method, target, &[("authorization", &bearer)], body)
            .await
    }

    async fn who(&self, token: &Json) -> Reply {
        self.by(token, Method::GET, "/v1/whoami", Json::Null).await
    }

    async fn refresh(&self, token: &Json) -> Reply {
        let body = json!({"refresh_token": token});
        self.json(Method::POST, "/v1/tokens/refresh", &[], body).await
    }
}

#[tokio::test]
async fn a_user_logs_in_acts_and_is_no_more_than_they_are() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    api.user("root", "administrator").await;
    let (ann, root) = (api.tokens("ann").await, api.tokens("root").await);
    let who = api.who(&ann["access_token"]).await;
    let expected = json!({"principal": "user:ann", "account": "default", "administrator": false});
    assert_eq!(who.body, expected);
    let new = json!({"user": "eve"});
    let refused = api
        .by(&ann["access_token"], Method::POST, "/v1/users", new.clone())
        .await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let made = api
        .by(&root["access_token"], Method::POST, "/v1/users", new)
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let users = api
        .by(&root["access_token"], Method::GET, "/v1/users", Json::Null)
        .await;
    let names: Vec<_> = users.body["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| &user["user"])
        .collect();
    assert_eq!(names, ["ann", "eve", "root"]);
    let change = json!({"role": "administrator"});
    let promoted = api.json(Method::PATCH, "/v1/users/ann", &[], change).await;
    assert_eq!(promoted.status, StatusCode::OK);
    assert_eq!(
        api.who(&ann["access_token"]).await.body["administrator"],
        true,
        "at once, by the same token"
    );
}

#[tokio::test]
async fn whoever_fails_to_log_in_learns_nothing_and_leaves_a_record_that_tells_all() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let wrong = api.log_in("ann", "wrong password").await;
    let nobody = api.log_in("nobody", PASSWORD).await;
    for reply in [&wrong, &nobody] {
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert!(
            reply.body["detail"]
                .as_str()
                .unwrap()
                .starts_with("the user or the password is wrong (attempt s-")
        );
    }
    assert_ne!(
        wrong.body["detail"], nobody.body["detail"],
        "each attempt has an id of its own"
    );
    let records = api.get("/v1/operations").await.body.to_string();
    assert!(records.contains("there is no such user") && records.contains("it is not the user's password"));
    assert!(!records.contains("wrong password") && !records.contains(PASSWORD));
}

#[tokio::test]
async fn guesses_are_slowed_down() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let mut last = api.log_in("ann", "a wrong password").await;
    for _ in 0..10 {
        last = api.log_in("ann", "a wrong password").await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS, "{last:?}");
    let right = api.log_in("ann", PASSWORD).await;
    assert_eq!(
        right.status,
        StatusCode::TOO_MANY_REQUESTS,
        "the right one doesn't tell itself apart"
    );
}

#[tokio::test]
async fn disabling_and_a_new_password_end_everything_at_once() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let token = json!({"name": "backup", "ttl": 3_600});
    let program = api
        .by(&ann["access_token"], Method::POST, "/v1/tokens", token)
        .await
        .body;
    assert_eq!(api.who(&program["token"]).await.status, StatusCode::OK);
    let set = json!({"password": "another password", "current": "not the current one"});
    let target = "/v1/users/ann/password";
    let refused = api.by(&ann["access_token"], Method::PUT, target, set).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    let set = json!({"password": "another password", "current": PASSWORD});
    let changed = api.by(&ann["access_token"], Method::PUT, target, set).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    for token in [&ann["access_token"], &program["token"]] {
        assert_eq!(api.who(token).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(api.log_in("ann", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    let again = api.log_in("ann", "another password").await.body;
    let disable = json!({"state": "disabled"});
    api.json(Method::PATCH, "/v1/users/ann", &[], disable).await;
    assert_eq!(
        api.who(&again["access_token"]).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        api.refresh(&again["refresh_token"]).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        api.log_in("ann", "another password").await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn a_refresh_token_is_exchanged_once_and_one_that_comes_back_ends_all() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let first = api.tokens("ann").await;
    let second = api.refresh(&first["refresh_token"]).await.body;
    assert_eq!(second["session"], first["session"]);
    let again = api.refresh(&first["refresh_token"]).await;
    assert_eq!(
        again.status,
        StatusCode::OK,
        "the answer may have been lost: {again:?}"
    );
    let third = api.refresh(&again.body["refresh_token"]).await.body;
    assert_eq!(api.who(&third["access_token"]).await.status, StatusCode::OK);
    let stolen = api.refresh(&first["refresh_token"]).await;
    assert_eq!(
        (stolen.status, &stolen.body["type"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid-grant"))
    );
    for token in [&first, &second, &third].map(|tokens| &tokens["access_token"]) {
        assert_eq!(api.who(token).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        api.refresh(&third["refresh_token"]).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn of_eight_refreshes_at_once_one_exchanges_and_all_get_its_tokens() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let tokens = api.tokens("ann").await;
    let all = futures_util::future::join_all((0..8).map(|_| api.refresh(&tokens["refresh_token"]))).await;
    assert!(all.iter().all(|reply| reply.status == StatusCode::OK));
    // All are of the same turn: any one of them can be exchanged next, and then all others are too old at once.
    let next = api.refresh(&all[0].body["refresh_token"]).await;
    assert_eq!(next.status, StatusCode::OK);
    let last = api.refresh(&next.body["refresh_token"]).await;
    assert_eq!(last.status, StatusCode::OK);
    let late = api.refresh(&all[7].body["refresh_token"]).await;
    assert_eq!(late.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_of_one_kind_is_none_of_another() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let tokens = api.tokens("ann").await;
    let (access, refresh) = (&tokens["access_token"], &tokens["refresh_token"]);
    assert_eq!(api.who(refresh).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(api.refresh(access).await.status, StatusCode::UNAUTHORIZED);
    let swapped = |token: &Json, prefix: &str| json!(format!("{prefix}{}", &token.as_str().unwrap()[4..]));
    for prefix in ["mlc_", "mla_", "mlb_", "mli_", "mlx_", ""] {
        assert_eq!(
            api.who(&swapped(refresh, prefix)).await.status,
            StatusCode::UNAUTHORIZED,
            "{prefix}"
        );
    }
    assert_eq!(
        api.refresh(&swapped(access, "mlr_")).await.status,
        StatusCode::UNAUTHORIZED
    );
    let long = json!(format!("mla_{}", "A".repeat(10_000)));
    let refused = api.who(&long).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(
        detail.contains("moorline login") && detail.contains("the time here is 20"),
        "{detail}"
    );
    let combined = json!({"user": "ann", "password": PASSWORD, "form": "combined"});
    let combined = api.json(Method::POST, "/v1/sessions", &[], combined).await.body;
    assert_eq!(api.who(&combined["access_token"]).await.status, StatusCode::OK);
    assert_eq!(
        api.refresh(&combined["access_token"]).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_whose_they_are_and_by_administrators() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    api.user("bob", "member").await;
    let (ann, bob) = (api.tokens("ann").await, api.tokens("bob").await);
    let (ann_token, bob_token) = (&ann["access_token"], &bob["access_token"]);
    let token = json!({"name": "ci"});
    let made = api.by(ann_token, Method::POST, "/v1/tokens", token).await.body;
    let listed = api
        .by(ann_token, Method::GET, "/v1/sessions", Json::Null)
        .await
        .body;
    let names: Vec<_> = listed["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, [&Json::Null, &json!("ci")]);
    let target = format!("/v1/sessions/{}", made["session"].as_str().unwrap());
    let refused = api.by(bob_token, Method::DELETE, &target, Json::Null).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    let others = api
        .by(
            bob_token,
            Method::GET,
            "/v1/sessions?principal=user:ann",
            Json::Null,
        )
        .await;
    assert_eq!(others.status, StatusCode::FORBIDDEN);
    assert_eq!(api.who(&made["token"]).await.status, StatusCode::OK);
    let ended = api.by(ann_token, Method::DELETE, &target, Json::Null).await;
    assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    assert_eq!(api.who(&made["token"]).await.status, StatusCode::UNAUTHORIZED);
    let target = format!("/v1/sessions/{}", bob["session"].as_str().unwrap());
    assert_eq!(
        api.json(Method::DELETE, &target, &[], Json::Null).await.status,
        StatusCode::OK
    );
    assert_eq!(api.who(bob_token).await.status, StatusCode::UNAUTHORIZED);
    let by_deployment = api
        .json(Method::POST, "/v1/tokens", &[], json!({"name": "x"}))
        .await;
    assert_eq!(by_deployment.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_directory_has_a_bound() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let count = key(&api, "user-count/").await;
    let full = Write::Put(count, json!({"users": MAX_USERS}).to_string().into());
    spoil(&api, full).await;
    let refused = api
        .json(Method::POST, "/v1/users", &[], json!({"user": "bob"}))
        .await;
    assert_eq!(
        (refused.status, &refused.body["type"]),
        (StatusCode::CONFLICT, &json!("quota")),
        "{refused:?}"
    );
    api.json(Method::DELETE, "/v1/users/ann", &[], Json::Null).await;
    api.user("bob", "member").await;
}

#[tokio::test]
async fn setting_passwords_is_slowed_down() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let target = "/v1/users/ann/password";
    let set = json!({"password": "another password"});
    let mut last = api
        .by(&ann["access_token"], Method::PUT, target, set.clone())
        .await;
    assert_eq!(last.status, StatusCode::FORBIDDEN, "{last:?}");
    for _ in 0..60 {
        last = api
            .by(&ann["access_token"], Method::PUT, target, set.clone())
            .await;
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS, "{last:?}");
    let by_administrator = api.json(Method::PUT, target, &[], set).await;
    assert_eq!(by_administrator.status, StatusCode::OK, "others have their own");
}

#[tokio::test]
async fn keys_are_rotated_while_people_are_logged_in() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let post = async |target: &str| api.json(Method::POST, target, &[], Json::Null).await.status;
    assert_eq!(post("/v1/token-keys").await, StatusCode::CREATED);
    assert_eq!(post("/v1/token-keys/2/promote").await, StatusCode::OK);
    assert_eq!(api.who(&ann["access_token"]).await.status, StatusCode::OK);
    let fresh = api.refresh(&ann["refresh_token"]).await.body;
    let kept = api
        .json(Method::DELETE, "/v1/token-keys/1", &[], Json::Null)
        .await;
    assert_eq!(
        (kept.status, &kept.body["type"]),
        (StatusCode::CONFLICT, &json!("key-needed"))
    );
    let gone = api
        .json(Method::DELETE, "/v1/token-keys/1?force=true", &[], Json::Null)
        .await;
    assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    assert_eq!(
        api.who(&ann["access_token"]).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(api.who(&fresh["access_token"]).await.status, StatusCode::OK);
    let keys = api.get("/v1/token-keys").await.body["keys"].clone();
    let stages: Vec<_> = keys.as_array().unwrap().iter().map(|key| &key["stage"]).collect();
    assert_eq!(stages, ["destroyed", "primary"]);
    assert!(!keys.to_string().contains("sealed"));
}

#[tokio::test]
async fn a_watch_ends_with_the_session_that_began_it() {
    let api = Api::new().await;
    let id = api.with_instances(1).await.remove(0);
    api.user("ann", "administrator").await;
    let ann = api.tokens("ann").await;
    let token = ann["access_token"].as_str().unwrap();
    let request = Request::get(format!("/v1/instances/{id}/watch"))
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut watch = response.into_body();
    let first = watch.frame().await.expect("the watch has begun");
    assert!(first.is_ok(), "{first:?}");
    let session = format!("/v1/sessions/{}", ann["session"].as_str().unwrap());
    let ended = api.json(Method::DELETE, &session, &[], Json::Null).await;
    assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    let rest = timeout(Duration::from_secs(20), watch.collect()).await;
    assert!(rest.is_ok(), "the watch goes on");
}

#[tokio::test]
async fn a_program_makes_nothing_that_outlives_its_token() {
    let api = Api::new().await;
    api.user("root", "administrator").await;
    api.user("ann", "member").await;
    let root = api.tokens("root").await;
    let token = json!({"name": "deploy"});
    let made = api
        .by(&root["access_token"], Method::POST, "/v1/tokens", token.clone())
        .await;
    let program = &made.body["token"];
    for (method, target, body) in [
        (Method::POST, "/v1/tokens", token),
        (Method::POST, "/v1/users", json!({"user": "eve"})),
        (Method::PATCH, "/v1/users/ann", json!({"role": "administrator"})),
        (
            Method::PUT,
            "/v1/users/ann/password",
            json!({"password": PASSWORD}),
        ),
    ] {
        let refused = api.by(program, method.clone(), target, body.clone()).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method} {target}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("a login, and not a program's token"), "{detail}");
        let allowed = api.by(&root["access_token"], method.clone(), target, body).await;
        assert!(allowed.status.is_success(), "{method} {target}: {allowed:?}");
    }
    let group = json!({"group": "ops"});
    let rest = api.by(program, Method::POST, "/v1/groups", group).await;
    assert_eq!(rest.status, StatusCode::CREATED, "it does all else");
}

#[tokio::test]
async fn no_record_shows_what_is_sealed() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let set = json!({"password": "another password"});
    api.json(Method::PUT, "/v1/users/ann/password", &[], set).await;
    api.json(Method::POST, "/v1/token-keys", &[], Json::Null).await;
    let records = api.get("/v1/operations?limit=1000").await.body;
    let parameters = |name: &str| {
        let all = records["operations"].as_array().unwrap();
        let found = all.iter().find(|record| record["api"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))["parameters"].clone()
    };
    for (name, field) in [
        ("CreateUser", "password"),
        ("SetUserPassword", "password"),
        ("StageTokenKey", "sealed"),
        ("RotateIdentityKey", "sealed"),
    ] {
        assert_eq!(parameters(name)[field], "sealed", "{name}");
    }
}

/// Everything that the control plane keeps, in one text: rows, records, and the files as they are on the disk.
async fn kept(api: &Api) -> Vec<u8> {
    let mut all = api
        .get("/v1/operations?limit=1000")
        .await
        .body
        .to_string()
        .into_bytes();
    let rows = api.store.dump(api.store.head().await.unwrap()).await.unwrap();
    for (_, row) in &rows {
        all.extend_from_slice(&row.value);
    }
    for file in std::fs::read_dir(api.folder.path()).unwrap() {
        let path = file.unwrap().path();
        if !path.ends_with("admin.token") {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

#[tokio::test]
async fn no_password_and_no_token_is_kept_anywhere() {
    let api = Api::new().await;
    api.user("ann", "member").await;
    let ann = api.tokens("ann").await;
    let fresh = api.refresh(&ann["refresh_token"]).await.body;
    let program = json!({"name": "backup"});
    let program = api
        .by(&ann["access_token"], Method::POST, "/v1/tokens", program)
        .await
        .body;
    api.log_in("ann", "a wrong guess").await;
    let kept = kept(&api).await;
    let has = |needle: &str| {
        kept.windows(needle.len())
            .any(|window| window == needle.as_bytes())
    };
    assert!(has("user:ann"), "what is looked through is what is kept");
    let tokens = [&ann, &fresh].map(|one| [&one["access_token"], &one["refresh_token"]]);
    let tokens = tokens.as_flattened().iter().copied().chain([&program["token"]]);
    for secret in tokens
        .map(|token| token.as_str().unwrap())
        .chain([PASSWORD, "a wrong guess", "argon2"])
    {
        assert!(!has(secret), "{}...", &secret[..4]);
    }
}
