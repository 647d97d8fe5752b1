//! The native surface for local programs: HTTP/1.1 and JSON on a unix socket, as `moorline_shared::agent` describes.
//!
//! [`socket`] binds the file, [`mod@serve`] accepts connections, bounds them and ends those that do nothing. [`answer`] sends a request where it
//! belongs: an entry of the mirror's own is answered on the spot, without a task, a lock or a wait; [`reads`] knows the
//! rest of reading, [`watch`] the stream of changes, [`credentials`] the roles' credentials, [`foreign`] other instances' data through the host, and [`writes`]
//! passes changes on to the control plane. Everything from a local program is as little trusted as anything from a
//! network.

mod answer;
mod body;
mod connection;
mod credentials;
mod foreign;
mod params;
mod problem;
mod reads;
mod respond;
mod route;
mod serve;
mod socket;
#[cfg(test)]
mod tests;
mod watch;
mod writes;

use std::rc::Rc;
use std::time::Duration;

use crate::credentials::Credentials;
use crate::link::{Given, Line};
use crate::mirror::Live;

pub use serve::serve;
pub use socket::{BindError, Bound, bind};

/// What the surface keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most connections at once. One user has at most three quarters of them.
    pub connections: usize,
    /// The user whose programs may change data; those of any other may only read. What a program changes, it changes in
    /// the instance's name.
    pub writer: u32,
    /// How long a read waits for the first snapshot before it says that there is none.
    pub first_wait: Duration,
    /// How long a connection may do nothing, or take to say what it wants. It ends within twice that.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 128,
            writer: 0,
            first_wait: Duration::from_secs(5),
            patience: Duration::from_secs(30),
        }
    }
}

/// What local programs ask.
#[derive(Debug)]
pub struct Surface {
    mirror: Rc<Live>,
    credentials: Rc<Credentials>,
    line: Rc<Line>,
    settings: Settings,
}

impl Surface {
    /// A surface over what the host gave and the way to the host.
    pub fn new(given: Given, line: Rc<Line>, settings: Settings) -> Self {
        Self {
            mirror: given.mirror,
            credentials: given.credentials,
            line,
            settings,
        }
    }
}
