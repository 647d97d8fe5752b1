//! How every operation runs: pure rules over a view of the store, and one way to carry them out.
//!
//! A service's rules are a [`ServiceModel`]: a pure, synchronous function from an operation and what it reads to a
//! reply or a refusal. It reads and writes through a [`View`], which lies over a [`Base`]: the keys that were loaded
//! for a live operation, or a whole [`Fork`] of the store for a simulation or a replay. The rules can't tell.
//!
//! [`Executor::execute`] takes a snapshot at the head, steps, loads what the step asked for and steps again, then
//! commits one transaction: guards on everything that was read, the writes, and the operation's [`Record`] of what
//! was asked and what came of it. Whatever changes meanwhile makes a guard fail, and the operation is stepped anew.
//!
//! * [`record`]: what the store keeps and under which keys; [`content`]: values that live once; [`sealing`]: secret ones.
//! * [`operation`]: what an operation is, who asks and when. [`view`], [`base`]: what a step sees.
//! * [`journal`]: operation records. [`execute`]: the one way. [`replay`]: the same way, from the records.
//! * `transaction`: what is committed at once. [`outbox`]: what is to be done later, written with what decides it.
//! * `refused_reads`, `sweep`: how many refused reads and failed log-ins are recorded, and for how long.

pub mod base;
#[cfg(test)]
mod conformance;
pub mod content;
pub mod execute;
#[cfg(test)]
mod foresight_tests;
pub mod journal;
pub mod operation;
pub mod outbox;
pub mod record;
mod refused_reads;
pub mod replay;
#[cfg(test)]
mod replay_tests;
pub mod sealing;
mod sweep;
mod transaction;
pub mod view;

pub use base::{Base, Fork, Loaded};
pub use content::Content;
pub use execute::{Attempt, Done, ExecuteError, Executor};
pub use journal::OperationRecord;
pub use operation::{Caller, Env, Intent, Operation, Problem, Role, ServiceModel, Stop};
pub use record::Record;
pub use view::{Kept, Load, Page, View};
