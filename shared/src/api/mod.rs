//! The bodies of the control plane's HTTP API, version 1, and of the feed to hosts. The `OpenAPI` document is made of
//! these types; `control-plane/openapi.json` is it.
//!
//! Fields are added, never changed: a reader ignores what it doesn't know, and refuses a request with a field it
//! doesn't know, so that a misspelt field is never taken for an absent one.

pub mod data;
pub mod enrolment;
pub mod feed;
pub mod health;
pub mod hosts;
pub mod identity;
pub mod instances;
pub mod operations;
pub mod problem;
pub mod session;
pub mod sync;

pub use problem::ProblemDetails;

/// The header that makes a change safe to send again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The kind of problem that says that an idempotency key was used for another request.
pub const KEY_REUSED: &str = "idempotency-key-reused";
/// The header by which a host says for which of its instances a request is made.
pub const ON_BEHALF_OF: &str = "moorline-instance";
/// The header that names the operation's record in the reply to a change.
pub const OPERATION: &str = "moorline-operation";
/// The header that names the revision at which a change was committed or a read was made.
pub const REVISION: &str = "moorline-revision";
/// The header with the time here, in answers that somebody is not known: a guest sets the time of its signatures by it.
pub const SERVER_TIME: &str = "moorline-time";
