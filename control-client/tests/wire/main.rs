//! The client against servers in this process: what it sends, and what it makes of the answers.

mod calls;
mod command;
mod loss;
mod server;
mod streams;
