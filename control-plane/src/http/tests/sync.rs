//! Hosts that ask whether they have what they should.

use axum::http::{Method, StatusCode};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::Api;

#[tokio::test]
async fn only_the_host_itself_is_compared_and_hears_what_it_should_have() {
    let mut api = Api::new().await;
    let dispatcher = api.dispatcher.take().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(dispatcher.run(api.control.cancel.clone()));
    let id = &api.with_instances(1).await[0];
    let said = |revision: &str| json!({"revision": revision, "digest": "0".repeat(64)});
    let target = "/v1/hosts/h1/sync";
    let head = api.store.head().await.unwrap();
    let revision = format!("{}.{head}", api.store.epoch());

    let by_user = api.json(Method::POST, target, &[], said(&revision)).await;
    assert_eq!(by_user.status, StatusCode::FORBIDDEN, "{by_user:?}");
    let answer = |said: Json| api.by_host(api.host(), Method::POST, target, &[], said);
    let differs = answer(said(&revision)).await;
    assert_eq!(differs.body["result"], "differs", "{differs:?}");
    let view = &differs.body["views"][0]["view"];
    assert_eq!((&view["reader"], &view["instance"]), (&json!(id), &json!(id)));
    let without = json!({"revision": revision, "digest": "0".repeat(64), "without": [id]});
    assert_eq!(answer(without).await.body["views"], json!([]));

    // Another life of the store, and what is yet to come.
    for unknown in [
        format!("{}.{head}", api.store.epoch() + 1),
        format!("{}.{}", api.store.epoch(), head + 9),
    ] {
        assert_eq!(answer(said(&unknown)).await.body, json!({"result": "later"}));
    }
    assert_eq!(answer(said("1")).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}
