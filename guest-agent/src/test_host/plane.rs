//! The control plane behind the test host: commits puts of this guest's own data, once for each idempotency key.

use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::id::{IdempotencyKey, Principal};
use moorline_shared::link::body::Relay;
use moorline_shared::signature::TOKEN;
use moorline_shared::{OperationId, Timestamp};
use serde_json::{Value, json};

use super::connection::take_one;
use super::{OWN, Recorded, TestHost};

/// What it answers, and the record that it names.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) operation: Option<OperationId>,
    pub(super) body: Value,
}

impl Answer {
    fn unrecorded(status: u16, body: Value) -> Self {
        Self {
            status,
            operation: None,
            body,
        }
    }
}

pub(super) fn answer(host: &TestHost, relay: &Relay) -> Answer {
    if relay.target.ends_with("/identify") {
        let token = relay.headers.iter().find(|(name, _)| name == TOKEN);
        let token = token.map_or("", |(_, token)| token.as_str());
        let status = host.with(|state| state.identify.get(token).copied());
        return Answer::unrecorded(status.unwrap_or(200), json!({}));
    }
    if let Some(operation) = relay.target.strip_prefix("/v1/operations/") {
        return describe(host, operation);
    }
    let turned_away = host.with(|state| take_one(&mut state.turn_away));
    if turned_away {
        return Answer::unrecorded(429, problem(429));
    }
    let Some(key) = key_of(relay) else {
        return Answer::unrecorded(403, problem(403));
    };
    let earlier = host.with(|state| state.recorded.get(&key).cloned());
    let recorded = earlier.unwrap_or_else(|| commit(host, relay, key));
    if host.with(|state| take_one(&mut state.fail)) {
        return Answer::unrecorded(502, Value::Null);
    }
    Answer {
        status: recorded.status,
        operation: Some(recorded.operation),
        body: recorded.body,
    }
}

fn commit(host: &TestHost, relay: &Relay, key: IdempotencyKey) -> Recorded {
    let own = relay.target.strip_prefix(&format!("/v1/instances/{OWN}/data/"));
    let put = serde_json::from_slice::<Value>(relay.body.bytes());
    let value = put.ok().and_then(|put| put["value"].as_str().map(str::to_owned));
    let operation = OperationId::derive(&Principal::Instance(OWN), &key);
    let (status, body) = match (own, value) {
        (Some(path), Some(value)) => {
            let revision = host.change(&[(path, Some(value.as_bytes()))]);
            (200, json!({ "revision": revision, "operation": operation }))
        }
        _ => (403, problem(403)),
    };
    let recorded = Recorded {
        operation,
        status,
        body,
    };
    host.with(|state| state.recorded.insert(key, recorded.clone()));
    recorded
}

fn describe(host: &TestHost, operation: &str) -> Answer {
    let found = host.with(|state| {
        let mut all = state.recorded.values();
        all.find(|recorded| recorded.operation.to_string() == operation)
            .cloned()
    });
    let Some(found) = found else {
        return Answer::unrecorded(404, problem(404));
    };
    let mut record = json!({
        "id": found.operation, "api": "PutInstanceData", "principal": Principal::Instance(OWN),
        "at": Timestamp::from_millis(0), "revision": "1.1", "parameters": {}, "effects": [], "outcome": "done",
    });
    if found.status != 200 {
        record["outcome"] = "refused".into();
        record["problem"] = found.body;
    }
    Answer::unrecorded(200, record)
}

fn problem(status: u16) -> Value {
    json!({ "type": "access-denied", "title": "no", "status": status, "detail": "no" })
}

fn key_of(relay: &Relay) -> Option<IdempotencyKey> {
    let found = relay.headers.iter().find(|(name, _)| name == IDEMPOTENCY_KEY);
    found.and_then(|(_, key)| key.parse().ok())
}
