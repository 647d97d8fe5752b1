//! The metadata manager: what was done in an account, by whom, and what came of it.
//!
//! [`model`] finds operation records, [`api`] has the routes.

pub mod api;
pub mod model;

pub use model::{Model, Op};
