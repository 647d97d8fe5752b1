//! Entries, access, listing, propagation: the data of all instances.
//!
//! [`records`] is what the store keeps; [`access`] the one function that decides who may do what; [`rules`] how
//! entries are written, for this service and for those that write entries of theirs; [`model`] the operations;
//! [`api`] their routes.

pub mod access;
pub mod api;
pub mod model;
pub mod records;
pub mod rules;
pub mod watch;

pub use model::{Model, Op};
