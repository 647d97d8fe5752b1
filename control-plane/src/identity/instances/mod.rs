//! Instances as callers: the sessions that their hosts are given for them, and the proof that a request is theirs.
//!
//! A host asks for the session of each of its instances when a life of its VM begins, and is given a token of it, and the
//! key that goes with the token; further tokens leave nothing in the store. The session of an earlier life ends when a
//! later one has one. The guest shows within a while that it has the token ([`operations::Op::IdentifyInstance`]), and
//! may give the public part of a key of its own: from then on nothing that is signed otherwise is the instance's.
//!
//! What an instance changes, it signs. [`proof`] checks the two signatures of such a request, its own and its host's, and
//! [`nonces`] knows which requests were seen. Who asks is put together in `http/auth/instance.rs`.
//!
//! *What this proves.* A host holds the tokens of its own guests and the keys that come with them, and may ask for a
//! session anew, so that it can always act as one of its own guests: it runs their machines. It can't act as a guest of
//! another host, and nobody on the way can. Once a guest has identified with a key of its own, its host can't sign as it
//! in that session; it would have to end the session, which is on record, and the guest notices.

pub mod api;
pub mod model;
pub mod nonces;
pub mod operations;
pub mod proof;
pub mod refusal;
mod rules;

pub use model::Model;
pub use operations::Op;
pub use refusal::Refusal;

/// For how many seconds an instance's token is good.
pub const TOKEN_SECONDS: u32 = 3_600;
/// For how many seconds an instance's session is good. The next one begins before that.
pub const SESSION_SECONDS: u32 = 7 * 86_400;
