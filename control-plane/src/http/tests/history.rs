//! The past of entries, which outlives them.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::json;

use super::{Api, Reply};

impl Api {
    async fn history(&self, id: &str, path: &str) -> Reply {
        self.get(&history_of(id, path)).await
    }
}

fn history_of(id: &str, path: &str) -> String {
    format!("/v1/instances/{id}/history/{path}")
}

#[tokio::test]
async fn the_past_of_a_removed_entry_is_for_whoever_could_read_it() {
    let api = Api::new().await;
    let ids = api.with_instances(2).await;
    let (own, other) = (ids[0].as_str(), ids[1].as_str());
    let withheld = json!([
        {"subject": "user:admin", "rights": ["delete"]},
        {"subject": format!("instance:{other}"), "rights": ["read"]},
    ]);
    for (path, access) in [("open", json!([])), ("given", withheld)] {
        let target = format!("/v1/instances/{own}/data/{path}");
        let put = json!({"value": "one", "access": access});
        let put = api.json(Method::PUT, &target, &[], put).await;
        assert_eq!(put.status, StatusCode::OK, "{put:?}");
        let gone = api.send(Method::DELETE, &target, &[], Body::empty()).await;
        assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
        let told = api.history(own, path).await;
        assert_eq!(told.body["changes"][0]["from"], "one", "{told:?}");
        assert_eq!(told.body["changes"][0]["api"], "DeleteInstanceData", "{told:?}");
    }
    let seen = async |path: &str, who: &str| api.as_guest(who, &history_of(own, path)).await.status;
    assert_eq!(seen("open", own).await, StatusCode::OK);
    assert_eq!(seen("open", other).await, StatusCode::NOT_FOUND);
    assert_eq!(seen("given", own).await, StatusCode::NOT_FOUND);
    assert_eq!(seen("given", other).await, StatusCode::OK);
    assert_eq!(api.history(own, "never").await.body["type"], "entry-not-found");
}
