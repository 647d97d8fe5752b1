//! Entries, access, listing, propagation: the data of all instances.
//!
//! * [`operations`]: what can be asked and what is answered; [`refusal`]: why it is not done. [`api`]: the routes.
//! * [`model`]: which function does what is asked. [`records`]: what the store keeps.
//! * [`access`]: the one function that decides who may do what.
//! * [`rules`]: how entries are read and written, for this service and for those that write entries of theirs.
//! * `show`: entries shown and listed; `history`: their past; [`watch`]: what changes, as it changes; `reveal`: the
//!   values put in, which the rules can't where they are secret.

pub mod access;
pub mod api;
mod history;
pub mod model;
pub mod operations;
pub mod records;
pub mod refusal;
pub(crate) mod reveal;
pub mod rules;
mod show;
pub mod watch;

pub use model::Model;
pub use operations::Op;
pub use refusal::Refusal;
