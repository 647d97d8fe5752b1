//! Mirrors this instance's data, serves it to local programs, and runs what the host is told to have run.
//!
//! One thread does everything. [`link`] dials the host and keeps a session open; what the host pushes goes into the
//! [`mirror`], whole batches only; [`local`] serves the mirror on its surfaces, as far as [`access`] lets each program
//! read, passes other questions up the link, and wakes those who wait for a change. [`credentials`] holds the
//! instance's token and the credentials of its roles, as the host gives them. [`writes`] makes the instance's own
//! changes, at the master and here or nowhere, [`keep`] has part of the mirror outlast a reboot, and [`proof`] proves to
//! the control plane that they are this instance's. [`platform`] holds the calls to the guest's operating system. [`run`]
//! puts these together, and [`cli`] is the command line: the daemon itself, and small clients of its socket.
//!
//! | task | waits for | does |
//! |---|---|---|
//! | link | the host, local questions, the next heartbeat | applies batches, passes answers on, dials again |
//! | accept | local connections | bounds them, ends those that do nothing |
//! | each connection | its client, a change of the mirror, an answer of the host | answers |
//! | proof | a token of a new session | has a key of this guest's own known |
//! | writes | a change in doubt | asks the master what became of it |
//! | keeping | a change of what is kept | writes it to the disk |
//! | readiness | the first snapshot, for a while | tells the service manager |
//!
//! An idle agent wakes for its heartbeat, and for its watchdog, only.
#![deny(unsafe_code)]

pub mod access;
pub mod cli;
pub mod credentials;
mod daemon;
mod files;
pub mod keep;
pub mod link;
pub mod local;
pub mod mirror;
pub mod platform;
pub mod proof;
#[cfg(test)]
mod test_host;
pub mod writes;

pub use daemon::{Config, RunError, run};

/// The agent's name and version.
pub const BUILD: &str = concat!("moorline-agent ", env!("CARGO_PKG_VERSION"));
