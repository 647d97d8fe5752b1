//! Bodies as people send them, and a problem as they get it.

use axum::http::StatusCode;
use serde_json::{Value, json};

const INSTANCE: &str = "i-1b4e28ba2fa1811fa7b8b8a1c2d3e4f5";

/// A body of the operation, if it takes one.
pub(super) fn of(operation: &str) -> Option<Value> {
    Some(match operation {
        "RunInstances" => json!({
            "image": "debian-13", "type": "small", "count": 2, "name": "web", "tags": ["role=web"],
            "data": {"app/mode": {"value": "blue", "visibility": "public"}},
        }),
        "RegisterInstance" => json!({"host": "host-1", "name": "db"}),
        "StartInstances" | "StopInstances" | "RebootInstances" | "TerminateInstances" => {
            json!({"instances": [INSTANCE]})
        }
        "ModifyInstanceAttribute" => json!({"name": "web", "tags": ["role=web", "stage=test"]}),
        "PutInstanceData" => json!({"value": "blue", "content_type": "text/plain", "ttl": 3600}),
        "AppendInstanceData" => json!({"value": {"base64": "AAEC"}}),
        "BatchInstanceData" => json!({"changes": [
            {"path": "app/mode", "guard": {"revision": "1.42"}, "action": {"put": {"value": "green"}}},
            {"path": "app/log", "action": {"append": {"value": "switched to green"}}},
            {"path": "app/old", "action": {"delete": {}}},
        ]}),
        "SetEntryAccess" => json!({"access": [
            {"subject": "owner", "rights": ["read"]},
            {"subject": "tag:role=web", "rights": ["read", "update"]},
        ]}),
        "CreateUser" => json!({"user": "ann", "role": "member", "password": "correct horse battery staple"}),
        "SetUserPassword" => json!({"password": "staple battery", "current": "correct horse battery staple"}),
        "ModifyUser" => json!({"state": "disabled"}),
        "CreateGroup" => json!({"group": "operators"}),
        "LogIn" => json!({"user": "ann", "password": "correct horse battery staple"}),
        "RefreshTokens" => json!({"refresh_token": "mlr_AQEDAAAAAAE..."}),
        "CreateToken" => json!({"name": "backup", "ttl": 86_400}),
        "RegisterHost" => {
            json!({"zone": "zone-1", "vcpus": 16, "memory_mib": 65536, "images": ["debian-13"]})
        }
        "CreateEnrolmentToken" => json!({"digest": "5d".repeat(32), "ttl": 3600}),
        "ReportInstanceState" => {
            json!({"instance": INSTANCE, "state": "running", "incarnation": 1, "reboots": 0})
        }
        _ => return None,
    })
}

/// A problem with this status, where one says more than the schema does.
pub(super) fn problem(status: StatusCode) -> Option<Value> {
    let (kind, title, detail, field) = match status {
        StatusCode::UNPROCESSABLE_ENTITY => (
            "out-of-bounds",
            "A number is out of bounds",
            "count is 0; it must be 1 to 100",
            "count",
        ),
        StatusCode::PRECONDITION_FAILED => (
            "guard-failed",
            "The entry is not what was expected",
            "the entry app/mode is at revision 1.43, and the request says that it must be at 1.42; look at it again \
             and decide anew",
            "if-match",
        ),
        _ => return None,
    };
    Some(json!({
        "type": kind, "title": title, "status": status.as_u16(), "detail": detail, "field": field,
    }))
}

#[cfg(test)]
mod tests {
    use moorline_shared::api::{ProblemDetails, data, enrolment, hosts, identity, instances};
    use serde::de::DeserializeOwned;

    use super::*;

    fn is<T: DeserializeOwned>(value: Option<Value>) {
        let value = value.expect("there is an example");
        assert!(serde_json::from_value::<T>(value.clone()).is_ok(), "{value}");
    }

    #[test]
    fn examples_are_what_they_are_examples_of() {
        is::<instances::RunInstances>(of("RunInstances"));
        is::<instances::RegisterInstance>(of("RegisterInstance"));
        is::<instances::InstanceIds>(of("StopInstances"));
        is::<instances::ModifyInstance>(of("ModifyInstanceAttribute"));
        is::<data::PutEntry>(of("PutInstanceData"));
        is::<data::AppendEntry>(of("AppendInstanceData"));
        is::<data::Batch>(of("BatchInstanceData"));
        is::<data::SetAccess>(of("SetEntryAccess"));
        is::<identity::CreateUser>(of("CreateUser"));
        is::<identity::SetUserPassword>(of("SetUserPassword"));
        is::<identity::ModifyUser>(of("ModifyUser"));
        is::<identity::CreateGroup>(of("CreateGroup"));
        is::<identity::LogIn>(of("LogIn"));
        is::<identity::RefreshTokens>(of("RefreshTokens"));
        is::<identity::CreateToken>(of("CreateToken"));
        is::<hosts::RegisterHost>(of("RegisterHost"));
        is::<enrolment::CreateEnrolmentToken>(of("CreateEnrolmentToken"));
        is::<hosts::ReportState>(of("ReportInstanceState"));
        is::<ProblemDetails>(problem(StatusCode::UNPROCESSABLE_ENTITY));
        is::<ProblemDetails>(problem(StatusCode::PRECONDITION_FAILED));
    }
}
