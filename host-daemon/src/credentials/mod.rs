//! What guests are given to be somebody: each instance's own token, and the credentials of its roles.
//!
//! [`table`] says, without side effects, what has to be fetched when and what a guest has: `now` and what happened go
//! in, [`Action`](table::Action)s come out. [`Credentials::run`] is the one task. It hears which instances there are
//! (from the feed), which lives of their VMs begin and end (from the shards), and what was fetched; it fetches, and gives
//! each guest what it has through the shard that owns it. Where credentials come from is a [source](sources): one module
//! and one line.
//!
//! A session may end before its time. The feed says so, and what hangs on it is taken back: the token, and the credentials
//! of the sources that fall with it, `moorline` and `web-identity`. Those of `exec` are the operator's, for the
//! instance whatever its session does, and go on. A session that was ended is ended for this life of the VM, here and at
//! the control plane; one whose token was sealed with a key that is gone gets another token. A host that has not heard for
//! some seconds what was revoked doesn't know, and gives out nothing that hangs on a session, and vouches for no request,
//! without having asked the control plane just then.
//!
//! A guest that was restored from a snapshot, or copied, says that it is of another generation of its VM than before, and
//! gets another session. Which generation it was, is [on disk](Generations), so that a restart of this daemon hides nothing.
//! No secret is ever written to a disk or a log, and what people are shown are names, kinds and times. What is kept of
//! secrets is kept for as long as they are good, in memory that is wiped afterwards. On their way to it and from it they
//! go through buffers that are only freed: those of TLS and HTTP, of answers of the control plane, and of the guest link.
//!
//! Architecture invariant: a guest has what it has until its deadline on a clock that nobody sets, and not a moment longer.
//! While a source works, something takes its place long before. A source that fails or hangs costs the one role of the
//! one instance, and at worst the others of the same role.

pub mod config;
mod denied;
mod document;
mod fetch;
mod generations;
mod serve;
mod sources;
mod table;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, RoleConfig, Roles};
pub use generations::Generations;
pub use serve::{Credentials, Events, Handle, NotVouched, channel};
