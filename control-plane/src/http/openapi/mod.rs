//! The `OpenAPI` document: made of the handlers and types that serve, checked in as `control-plane/openapi.json`.
//!
//! What is the same for many operations (refusals, headers, what a parameter means) is said once, in `complete`;
//! `examples` has a body for each operation that takes one from people.

mod complete;
mod examples;

use axum::Router;
use axum::http::Method;
use axum::routing::get;
use moorline_shared::PathPrefix;
use moorline_shared::access::{Clause, Right, Rights, Subject};
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use self::complete::Complete;
use super::{Control, feed_api, health};
use crate::identity::{self, enrolment};
use crate::{accounts, instance_data, instances};

/// The document.
#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "Moorline control plane", version = "1",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    servers((url = "https://127.0.0.1:8471", description = "A control plane as it is configured by default.")),
    tags((name = "instances", description = "Instances: made, started, stopped, ended, shown."),
        (name = "data", description = "The entries of an instance: read, changed, watched."),
        (name = "identity", description = "Users, groups, sessions and tokens, and the keys of tokens."),
        (name = "operations", description = "Operation records: who did what, and how it ended."),
        (name = "hosts", description = "The hosts, and what hosts alone ask for."),
        (name = "health", description = "Whether the control plane lives and can work.")),
    paths(
        instances::api::run_instances, instances::api::register_instance, instances::api::describe_instances,
        instances::api::start_instances, instances::api::stop_instances, instances::api::reboot_instances,
        instances::api::terminate_instances, instances::api::modify_instance_attribute,
        instances::api::describe_hosts, instances::api::register_host, instances::api::report_instance_state,
        instance_data::api::put_instance_data, instance_data::api::append_instance_data,
        instance_data::api::delete_instance_data, instance_data::api::batch_instance_data,
        instance_data::api::set_entry_access, instance_data::api::get_instance_data,
        instance_data::api::list_instance_data, instance_data::api::describe_instance_data,
        instance_data::api::get_instance_data_history, instance_data::api::watch_instance_data,
        identity::instances::api::create_instance_session, identity::instances::api::identify_instance,
        identity::issuer::api::create_identity_token, identity::issuer::api::create_identity_token_for_host,
        enrolment::api::create_enrolment_token, enrolment::api::enrol_host,
        enrolment::api::renew_host_certificate, enrolment::api::revoke_host,
        accounts::api::list_operations, accounts::api::describe_operation,
        identity::api::users::create_user, identity::api::users::set_user_password,
        identity::api::users::modify_user, identity::api::users::delete_user, identity::api::users::describe_users,
        identity::api::users::who_am_i, identity::api::groups::create_group, identity::api::groups::delete_group,
        identity::api::groups::add_group_member, identity::api::groups::remove_group_member,
        identity::api::groups::describe_groups, identity::api::sessions::log_in,
        identity::api::sessions::refresh_tokens, identity::api::sessions::create_token,
        identity::api::sessions::describe_sessions, identity::api::sessions::end_session,
        identity::api::keys::describe_token_keys, identity::api::keys::stage_token_key,
        identity::api::keys::promote_token_key, identity::api::keys::retire_token_key,
        identity::api::keys::destroy_token_key,
        feed_api::open_feed, feed_api::set_interests, feed_api::get_feed_view, feed_api::sync_host,
        health::get_health, health::get_readiness,
    ),
    components(schemas(Clause, Subject, Right, Rights, PathPrefix)),
    modifiers(&Bearer, &Complete),
    security(("token" = []))
)]
struct Document;

/// Every operation takes the bearer's token.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(
                    "An access token, as `LogIn` gives, or the deployment's own, which the control plane keeps in \
                     `admin.token` in the folder of its state.",
                ))
                .build(),
        );
        components.add_security_scheme("token", bearer);
        let host = SecurityScheme::MutualTls {
            description: Some("A host's certificate, which the control plane issued.".to_owned()),
            extensions: None,
        };
        components.add_security_scheme("host", host);
    }
}

/// The document as it is served and checked in: JSON, indented, with a newline at its end.
pub fn document() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// Every operation: its path, its method and its name.
pub fn operations() -> Vec<(String, Method, String)> {
    let mut all = Vec::new();
    for (path, item) in Document::openapi().paths.paths {
        let methods = [
            (Method::GET, item.get),
            (Method::PUT, item.put),
            (Method::POST, item.post),
            (Method::DELETE, item.delete),
            (Method::PATCH, item.patch),
        ];
        let named = methods
            .into_iter()
            .filter_map(|(method, operation)| Some((method, operation?.operation_id?)));
        all.extend(named.map(|(method, name)| (path.clone(), method, name)));
    }
    all
}

/// The route of the document; it needs no token.
pub fn routes() -> Router<Control> {
    Router::new().route(
        "/v1/openapi.json",
        get(|| async { ([("content-type", "application/json")], document()) }),
    )
}
