//! Lifecycle and placement: instances, and the hosts they are on.
//!
//! A user says what is wanted of an instance; its host hears it by the feed, does it, and reports what it saw. Both
//! are operations here. [`records`] is what the store keeps, [`placement`] finds a host with room, [`lifecycle`] says
//! which state follows which, [`model`] has the operations, [`api`] their routes.

pub mod api;
pub mod lifecycle;
pub mod model;
pub mod placement;
pub mod provider_data;
pub mod records;

pub use model::{Model, Op};
