//! What the handlers don't say of themselves, because it is the same for many: refusals, headers, parameters.

use axum::http::StatusCode;
use moorline_shared::api::{IDEMPOTENCY_KEY, OPERATION, REVISION};
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::Response;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

use super::examples;

const DESCRIPTION: &str = "The master copy of all instances' data and the services around it.\n\n\
    A request carries an access token, which `LogIn` gives to users, or the deployment's own; or it comes \
    over a connection that shows the certificate of a host. With the header `moorline-instance` it is that instance's, \
    which must be on that host. What an instance changes it signs itself \
    (RFC 9421; `shared/PROTOCOL.md` says how), and its host signs that: `moorline-token`, `content-digest`, \
    `signature-input`, `signature`. Every change leaves an operation record, \
    whose id is in the answer; a refused one does too. A change may be sent again under the same `idempotency-key` \
    until it is answered. Readers ignore fields that they don't know; requests with unknown fields are refused.";

/// Completes every operation.
pub(super) struct Complete;

impl utoipa::Modify for Complete {
    fn modify(&self, document: &mut OpenApi) {
        document.info.description = Some(DESCRIPTION.to_owned());
        let components = document.components.get_or_insert_default();
        for problem in &PROBLEMS {
            let response = RefOr::T(problem.response());
            components.responses.insert(problem.name.to_owned(), response);
        }
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                complete(path, operation);
            }
        }
    }
}

/// A way in which requests are refused.
struct Problem {
    /// Its name among the components.
    name: &'static str,
    status: StatusCode,
    description: &'static str,
    applies: fn(&str, &Operation) -> bool,
}

const PROBLEMS: [Problem; 12] = [
    Problem {
        name: "Malformed",
        status: StatusCode::BAD_REQUEST,
        description: "A header is not well formed; `field` names it.",
        applies: |_, _| true,
    },
    Problem {
        name: "Unauthenticated",
        status: StatusCode::UNAUTHORIZED,
        description: "There is no token, or it is not good. The answer tells the time here.",
        applies: |_, _| true,
    },
    Problem {
        name: "Denied",
        status: StatusCode::FORBIDDEN,
        description: "The caller may not do this.",
        applies: |_, _| true,
    },
    Problem {
        name: "Unknown",
        status: StatusCode::NOT_FOUND,
        description: "There is no such instance, entry or record, or the caller may not know of it.",
        applies: |path, operation| path.contains('{') || takes(operation, "instance"),
    },
    Problem {
        name: "Conflict",
        status: StatusCode::CONFLICT,
        description: "What there is doesn't allow it: a state, a quota, a lack of room.",
        applies: |_, operation| operation.request_body.is_some() || takes(operation, IDEMPOTENCY_KEY),
    },
    Problem {
        name: "Gone",
        status: StatusCode::GONE,
        description: "The revision is no longer kept: begin again without one.",
        applies: |_, operation| {
            ["revision", "cursor", "after"]
                .iter()
                .any(|name| takes(operation, name))
        },
    },
    Problem {
        name: "GuardFailed",
        status: StatusCode::PRECONDITION_FAILED,
        description: "The entry is not what the request says it must be. Nothing was changed.",
        applies: |path, operation| takes(operation, "if-match") || path.ends_with("/batch"),
    },
    Problem {
        name: "TooLarge",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        description: "The body, a value, or the operation as a whole is too large; `detail` tells the bound.",
        applies: |_, operation| operation.request_body.is_some(),
    },
    Problem {
        name: "Invalid",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        description: "A field is not well formed or out of bounds, or the idempotency key was used for another request; \
                      `field` names it.",
        applies: |_, _| true,
    },
    Problem {
        name: "TooManyAttempts",
        status: StatusCode::TOO_MANY_REQUESTS,
        description: "There were too many attempts at a password; `detail` says when there may be one again.",
        applies: |_, operation| {
            let takes_password = ["LogIn", "SetUserPassword"];
            operation
                .operation_id
                .as_deref()
                .is_some_and(|id| takes_password.contains(&id))
        },
    },
    Problem {
        name: "Internal",
        status: StatusCode::INTERNAL_SERVER_ERROR,
        description: "Something failed in the control plane; its log tells more.",
        applies: |_, _| true,
    },
    Problem {
        name: "Unavailable",
        status: StatusCode::SERVICE_UNAVAILABLE,
        description: "Not now. Send it again, a change under the same idempotency key: `detail` says whether it may \
                      have been done.",
        applies: |_, _| true,
    },
];

impl Problem {
    fn response(&self) -> Response {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("ProblemDetails")))
            .example(examples::problem(self.status))
            .build();
        let mut response = ResponseBuilder::new()
            .description(self.description)
            .content("application/problem+json", content)
            .build();
        header(&mut response, OPERATION, "The body's `operation`, if it has one.");
        header(&mut response, REVISION, "The body's `revision`, if it has one.");
        response
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ];
    all.into_iter().flatten()
}

fn takes(operation: &Operation, name: &str) -> bool {
    let parameters = operation.parameters.iter().flatten();
    parameters.into_iter().any(|parameter| parameter.name == name)
}

fn complete(path: &str, operation: &mut Operation) {
    let is_stamped = operation.operation_id.as_deref().is_some_and(is_stamped);
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            succeed(status, response);
            if is_stamped {
                stamp(response);
            }
        }
    }
    operation.responses.responses.remove("default");
    let problems = PROBLEMS
        .iter()
        .filter(|problem| (problem.applies)(path, operation));
    let problems: Vec<_> = problems.collect();
    for problem in problems {
        let reference = RefOr::Ref(Ref::from_response_name(problem.name));
        let status = problem.status.as_str().to_owned();
        operation.responses.responses.insert(status, reference);
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        let meaning = meaning(&parameter.name).map(ToOwned::to_owned);
        parameter.description = parameter.description.take().or(meaning);
    }
    if let Some(body) = &mut operation.request_body {
        let example = operation.operation_id.as_deref().and_then(examples::of);
        for content in body.content.values_mut() {
            content.example.clone_from(&example);
        }
    }
}

/// Streams, views and looks have no one operation that they answer.
fn is_stamped(operation: &str) -> bool {
    !matches!(
        operation,
        "OpenFeed"
            | "SetInterests"
            | "GetFeedView"
            | "SyncHost"
            | "WatchInstanceData"
            | "WhoAmI"
            | "GetHealth"
            | "GetReadiness"
    )
}

fn succeed(status: &str, response: &mut Response) {
    let description = match status {
        "201" => "They were made.",
        "204" => "It was done.",
        _ => "It was done; this is the answer.",
    };
    description.clone_into(&mut response.description);
}

fn stamp(response: &mut Response) {
    header(
        response,
        OPERATION,
        "The operation, whose record has this id; a read that is done leaves none.",
    );
    header(
        response,
        REVISION,
        "When a change was committed, or which state was read.",
    );
}

fn header(response: &mut Response, name: &str, description: &str) {
    let mut header = Header::default();
    header.description = Some(description.to_owned());
    response.headers.insert(name.to_owned(), header);
}

/// What a parameter means wherever it stands.
fn meaning(parameter: &str) -> Option<&'static str> {
    Some(match parameter {
        "instance" => "The instance, by its id.",
        "reader" => "The instance that reads, which must be on the host.",
        "host" => "The host, by its name.",
        "user" => "The user, by their name.",
        "group" => "The group, by its name.",
        "member" => "Who is in it, or is to be: `user:NAME` or `instance:ID`.",
        "session" => "The session, by its id.",
        "key" => "The key, by its number.",
        "operation" => "The operation, by its id.",
        "path" => {
            "The entry's path, of several segments with slashes between them, which stand in the URL as they are."
        }
        "if-match" => {
            "Do it only if the entry last changed at this revision: `\"EPOCH.N\"`, as its ETag has it."
        }
        "if-none-match" => "`*`: do it only if there is no such entry.",
        IDEMPOTENCY_KEY => {
            "1 to 128 printable ASCII characters. The same request under the same key is done once, however often it \
             is sent."
        }
        _ => return None,
    })
}
