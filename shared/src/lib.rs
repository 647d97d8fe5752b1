//! Domain types and the wire protocol spoken between guest, host and control plane; pure, no I/O.
//!
//! The words of the domain come first: [`id`] names instances, hosts, accounts and principals, [`path`] names the
//! entries of an instance, [`entry`] says what an entry is, [`access`] who may do what with it, [`revision`] when it
//! changed, [`ttl`] how long it is valid, [`credential`] what a role's credentials are, and [`secret`] holds what must
//! not be shown. Each is parsed once, at the edge; a value that exists is valid.
//!
//! [`link`] is the guest link: frames, the kinds of frame, and the session cores of both ends, which take bytes and the
//! time and give bytes and events. `PROTOCOL.md` beside this crate is its document.
//!
//! [`signature`] says what a signature of a request is made over, for those who make and those who check one.
//!
//! [`api`] holds the bodies of the control plane's HTTP API and of the feed to the hosts; [`agent`] those of the
//! agent's local surface; [`host`] those of the host daemon's two sockets.
#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod api;
pub mod credential;
pub mod digest;
pub mod enrolment;
pub mod entry;
pub mod host;
pub mod id;
pub mod link;
#[cfg(feature = "openapi")]
mod openapi;
pub mod path;
pub mod revision;
pub mod secret;
pub mod signature;
pub mod time;
pub mod ttl;

pub use digest::Digest;
pub use id::{AccountId, HostId, InstanceId, OperationId, Principal, UserName};
pub use path::{EntryPath, PathPrefix};
pub use revision::Revision;
pub use time::Timestamp;
pub use ttl::Ttl;
