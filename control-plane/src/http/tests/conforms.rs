//! Whether an exchange is as the document says: every reply that a test gets is looked at.
//!
//! Of JSON Schema this knows what the document uses, but for patterns: types, properties and whether they must be there,
//! items, alternatives, enumerations and bounds. A property that the document doesn't name is a difference too.

use std::sync::LazyLock;

use axum::http::{HeaderMap, Method};
use serde_json::{Value as Json, json};

use super::Reply;
use crate::http::openapi;

static DOCUMENT: LazyLock<Json> =
    LazyLock::new(|| serde_json::from_str(&openapi::document()).expect("the document is JSON"));

/// Headers that every operation takes.
const EVERYWHERE: [&str; 7] = [
    "authorization",
    "content-digest",
    "content-type",
    "moorline-instance",
    "moorline-token",
    "signature",
    "signature-input",
];

/// Fails if the document doesn't know the request's headers, the reply's status, or the reply's body.
pub(super) fn check(method: &Method, target: &str, sent: &HeaderMap, reply: &Reply) {
    let path = target.split('?').next().unwrap_or_default();
    let Some(operation) = operation(method, path) else {
        return;
    };
    let at = format!("{method} {path}");
    // A signature always covers a key, also where nothing is changed.
    let signed = sent.contains_key("signature-input").then_some("idempotency-key");
    for name in sent.keys().map(axum::http::HeaderName::as_str) {
        let known = EVERYWHERE.contains(&name) || Some(name) == signed || takes(operation, name);
        // A server says that a header is not for it by refusing; what it takes in silence has to be written down.
        assert!(known || !reply.status.is_success(), "{at}: takes {name}");
    }
    let Some(response) = operation["responses"].get(reply.status.as_str()) else {
        panic!("{at}: answers {}, by the document it never does", reply.status);
    };
    let kind = reply
        .headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    let schema = kind.and_then(|kind| resolved(response)["content"].get(kind)?.get("schema"));
    match schema {
        Some(schema) => {
            if let Err(why) = conforms(schema, &reply.body) {
                panic!("{at}: {why} in {}", reply.body);
            }
        }
        None => assert!(
            reply.body.is_null(),
            "{at}: the document knows no {kind:?} of {}",
            reply.status
        ),
    }
}

/// The operation that serves `path`.
fn operation(method: &Method, path: &str) -> Option<&'static Json> {
    let paths = DOCUMENT["paths"].as_object().expect("the document has paths");
    let fits = |template: &str| {
        let mut segments = path.split('/');
        template.split('/').all(|wanted| match wanted {
            "{path}" => segments.by_ref().last().is_some_and(|last| !last.is_empty()),
            wanted => segments
                .next()
                .is_some_and(|segment| segment == wanted || wanted.starts_with('{')),
        }) && segments.next().is_none()
    };
    // A fixed segment comes before a variable one, as it does for the server.
    let found = paths.iter().filter(|(template, _)| fits(template));
    let (_, item) = found.min_by_key(|(template, _)| template.matches('{').count())?;
    item.get(method.as_str().to_lowercase())
}

fn takes(operation: &Json, header: &str) -> bool {
    let parameters = operation["parameters"].as_array();
    parameters.is_some_and(|all| {
        all.iter()
            .any(|one| one["in"] == "header" && one["name"] == header)
    })
}

fn resolved(schema: &Json) -> &Json {
    match schema["$ref"].as_str() {
        Some(reference) => DOCUMENT
            .pointer(&reference[1..])
            .expect("every reference leads somewhere"),
        None => schema,
    }
}

/// Why `value` is not as `schema` says.
fn conforms(schema: &Json, value: &Json) -> Result<(), String> {
    let schema = resolved(schema);
    if let Some(all) = schema["allOf"].as_array() {
        // Each names a part of the properties, so none can say that there are no others.
        return all.iter().try_for_each(|part| part_of(part, value));
    }
    if let Some(some) = schema["oneOf"].as_array() {
        let wrong: Vec<_> = some.iter().map_while(|one| conforms(one, value).err()).collect();
        return if wrong.len() < some.len() {
            Ok(())
        } else {
            Err(format!("none of: {}", wrong.join("; ")))
        };
    }
    part_of(schema, value)?;
    let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
        return Ok(());
    };
    let unknown = object.keys().find(|name| !known.contains_key(*name));
    match unknown.filter(|_| schema["additionalProperties"].is_null()) {
        Some(name) => Err(format!("'{name}' is not written down")),
        None => Ok(()),
    }
}

fn part_of(schema: &Json, value: &Json) -> Result<(), String> {
    let schema = resolved(schema);
    typed(&schema["type"], value)?;
    if let Some(allowed) = schema["enum"]
        .as_array()
        .filter(|allowed| !allowed.contains(value))
    {
        return Err(format!("{value} is none of {allowed:?}"));
    }
    for (key, beyond) in [
        ("minimum", f64::lt as fn(&f64, &f64) -> bool),
        ("maximum", f64::gt),
    ] {
        if let (Some(bound), Some(number)) = (schema[key].as_f64(), value.as_f64())
            && beyond(&number, &bound)
        {
            return Err(format!("{value} is beyond the {key} {bound}"));
        }
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
    {
        if value.get(name).is_none() {
            return Err(format!("'{name}' is missing"));
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let property = schema["properties"].get(name);
        let wanted = property.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object()));
        if let Some(wanted) = wanted {
            conforms(wanted, inner).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    if let Some(wanted) = schema.get("items") {
        let items = value.as_array().into_iter().flatten();
        items.into_iter().try_for_each(|item| conforms(wanted, item))?;
    }
    Ok(())
}

fn typed(types: &Json, value: &Json) -> Result<(), String> {
    let is = |name: &Json| match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    let fits = types
        .as_array()
        .map_or_else(|| is(types), |any| any.iter().any(is));
    fits.then_some(()).ok_or_else(|| format!("{value} is no {types}"))
}

#[test]
fn a_difference_is_found() {
    let schema = json!({"$ref": "#/components/schemas/ViewId"});
    let id = "i-00000000000000000000000000000000";
    assert_eq!(conforms(&schema, &json!({"reader": id, "instance": id})), Ok(()));
    for wrong in [
        json!({"reader": id}),
        json!({"reader": id, "instance": 1}),
        json!({"reader": id, "instance": id, "more": 1}),
        json!(id),
    ] {
        assert!(conforms(&schema, &wrong).is_err(), "{wrong}");
    }
}
