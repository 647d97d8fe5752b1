//! The load of the lab's benches: one epoll loop for every server that is measured, and the echo they are compared
//! with.
//!
//! The lab starts the program `lab-load` with a [`plan`] on its standard input and reads what it measured, as JSON,
//! from its standard output. It is built with optimisations whatever the lab is built with, and has no runtime: what
//! it costs is the same for all servers, and little.
//!
//! * [`drive()`] puts several servers under load in turn, one request in flight per connection, and says for each round
//!   how many replies came, how long they took, and how much processor time the server needed.
//! * [`changes()`] sends changes to the control plane one by one and waits for each in the agent's watch.
//! * [`hold()`] keeps connections of idle guests open.
//! * [`attack()`] is a guest that doesn't behave, and [`hostile()`] puts honest guests under load beside such ones.
//! * [`echo()`] is the physical limit: as many bytes in and out as the server it stands for, and nothing in between.
//!
//! [`reply`] tells when a reply is whole, in each of the languages that are spoken. [`place`](plan::Place) says where
//! a server is. Guests' connections are opened by the session core of `moorline-shared`, as the agent does it; [`disk`]
//! keeps what they prove themselves by, [`signer`] signs their requests, and [`frames`] are those that the core wouldn't
//! make.

#![forbid(unsafe_code)]

mod attack;
mod changes;
pub mod disk;
mod drive;
mod echo;
pub mod frames;
mod guest;
mod hold;
mod hostile;
pub mod memory;
pub mod plan;
mod poll;
mod processor;
pub mod reply;
pub mod signer;
mod socket;

pub use attack::{attack, belongings};
pub use changes::changes;
pub use drive::drive;
pub use echo::echo;
pub use hold::hold;
pub use hostile::hostile;
