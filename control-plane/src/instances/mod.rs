//! Lifecycle and placement: instances, and the hosts they are on.
//!
//! A user says what is wanted of an instance; its host hears it by the feed, does it, and reports what it saw. Both
//! are operations here.
//!
//! * [`operations`]: what can be asked and what is answered; [`refusal`]: why it is not done. [`api`]: the routes.
//! * [`model`]: which function does what is asked; `checks`: what several of them check first.
//! * `launch`: new instances; [`placement`]: a host with room; [`provider_data`]: what instances are told.
//! * `modify`: instances that exist; [`lifecycle`]: which state follows which. `hosts`: what hosts say.
//! * [`hearing`]: whether an instance is heard that asks for something.
//! * `end`: what becomes of terminated instances. `describe`: what administrators see. [`records`]: what the store keeps.

pub mod api;
mod checks;
mod describe;
mod end;
pub mod hearing;
mod hosts;
mod launch;
pub mod lifecycle;
pub mod model;
mod modify;
pub mod operations;
pub mod placement;
pub mod provider_data;
pub mod records;
pub mod refusal;

pub use model::Model;
pub use operations::Op;
pub use refusal::Refusal;
