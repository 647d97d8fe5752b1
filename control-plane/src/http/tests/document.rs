//! The document and the server say the same.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::Value as Json;

use super::Api;
use crate::http::openapi;

/// The document that is checked in is the one that is served; `--example openapi` writes it anew.
#[test]
fn the_openapi_document_is_the_one_that_is_checked_in() {
    let kept = include_str!("../../../openapi.json");
    assert!(
        kept == openapi::document(),
        "run: cargo run -p moorline-control --example openapi > control-plane/openapi.json"
    );
}

/// Every operation of the document is served, with no other method beside those of the document.
#[tokio::test]
async fn the_server_serves_what_the_document_says_and_nothing_else() {
    let mut api = Api::new().await;
    api.token = "nobody".into();
    let document: Json = serde_json::from_str(&openapi::document()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let target = path
            .replace("{instance}", "i-00000000000000000000000000000000")
            .replace("{reader}", "i-00000000000000000000000000000000")
            .replace("{path}", "a")
            .replace("{host}", "h1")
            .replace("{user}", "ann")
            .replace("{group}", "g")
            .replace("{member}", "user:ann")
            .replace("{session}", "s-0")
            .replace("{key}", "1")
            .replace("{operation}", "op-0");
        for method in [
            Method::GET,
            Method::PUT,
            Method::POST,
            Method::DELETE,
            Method::PATCH,
        ] {
            let documented = item.get(method.as_str().to_lowercase()).is_some();
            let reply = api.send(method.clone(), &target, &[], Body::empty()).await;
            // Whoever has no token yet is asked for a body.
            let open = item[method.as_str().to_lowercase()].get("security").is_some();
            let expected = match (documented, open) {
                (true, false) => StatusCode::UNAUTHORIZED,
                (true, true) if method == Method::GET => StatusCode::OK,
                (true, true) => StatusCode::UNPROCESSABLE_ENTITY,
                (false, _) => StatusCode::METHOD_NOT_ALLOWED,
            };
            assert_eq!(reply.status, expected, "{method} {path}");
        }
        ids.extend(
            item.as_object()
                .unwrap()
                .values()
                .filter_map(|op| op["operationId"].as_str().map(str::to_owned)),
        );
    }
    assert_eq!(ids.len(), 58, "{ids:?}");
}

/// What a program that is made of the document relies on.
#[test]
fn every_operation_says_what_it_takes_and_how_it_is_refused() {
    let document: Json = serde_json::from_str(&openapi::document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(
                operation["operationId"].is_string() && operation["summary"].is_string(),
                "{name}"
            );
            for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                let segment = format!("{{{}}}", parameter["name"].as_str().unwrap());
                assert!(parameter["description"].is_string(), "{name}: {parameter}");
                assert_eq!(
                    parameter["in"] == "path",
                    path.contains(&segment),
                    "{name}: {parameter}"
                );
            }
            let responses = operation["responses"].as_object().unwrap();
            for status in ["400", "401", "403", "422", "500", "503"] {
                let reference = responses[status]["$ref"].as_str().expect(&name);
                let at = reference.trim_start_matches('#');
                let problem = &document.pointer(at).expect(&name)["content"]["application/problem+json"];
                assert_eq!(problem["schema"]["$ref"], "#/components/schemas/ProblemDetails");
            }
        }
    }
}

/// No reference leads nowhere.
#[test]
fn everything_that_is_referred_to_is_there() {
    let text = openapi::document();
    let document: Json = serde_json::from_str(&text).unwrap();
    let references = text.split("\"$ref\": \"#").skip(1);
    let references: BTreeSet<_> = references.filter_map(|rest| rest.split('"').next()).collect();
    assert!(references.len() > 50, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}
