//! The client against servers in this process: what it sends, and what it makes of the answers.

mod calls;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "cli")]
mod doctor;
mod host;
#[cfg(feature = "cli")]
mod login;
mod loss;
mod server;
mod streams;
mod tls;
