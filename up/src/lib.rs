//! The control plane and the host daemon in one process, for people with one machine.
//!
//! [`config`] makes the host daemon's configuration of what the [`machine`] is. [`deployment`] runs the two: each is what it
//! is on two machines, with a state of its own, and the host daemon calls the control plane as any other host does. So a
//! deployment that grows is taken apart by starting the two programs with the same folders.
#![forbid(unsafe_code)]

pub mod config;
pub mod deployment;
mod enrolment;
pub mod machine;
