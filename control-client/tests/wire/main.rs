//! The client against servers in this process: what it sends, and what it makes of the answers.

mod calls;
#[cfg(feature = "cli")]
mod command;
mod host;
mod loss;
mod server;
mod streams;
mod tls;
