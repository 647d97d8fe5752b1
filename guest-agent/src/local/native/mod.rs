//! The native surface: HTTP/1.1 and JSON on a unix socket, as `moorline_shared::agent` describes.
//!
//! [`socket`] binds the file and tells who connects. [`answer`] sends a request where it belongs: an entry of the
//! mirror's own is answered on the spot, without a task, a lock or a wait; [`reads`] knows the rest of reading, [`watch`]
//! the stream of changes, [`credentials`] those of roles, [`foreign`] other instances' data through the host, and
//! [`writes`] passes changes on to the control plane. [`document`] writes long answers while they are sent.

mod answer;
mod credentials;
mod document;
mod foreign;
mod params;
mod problem;
mod reads;
mod respond;
mod route;
mod socket;
#[cfg(test)]
mod tests;
mod watch;
mod writes;

use std::rc::Rc;

use hyper::Request;
use hyper::body::Incoming;

use super::Backing;
use super::connection::{Answering, Asker};
use super::portions::Portions;
use super::surface::{Opened, Surface};
use socket::{Bound, bind};

pub use socket::BindError;

/// What local programs ask.
#[derive(Debug)]
pub(super) struct Native {
    backing: Rc<Backing>,
    /// What answers to users may hold of other instances' data.
    portions: Portions,
}

impl Native {
    fn new(backing: &Rc<Backing>) -> Self {
        Self {
            backing: Rc::clone(backing),
            portions: Portions::default(),
        }
    }
}

/// Binds the socket.
pub(super) async fn open(backing: &Rc<Backing>) -> Result<Option<Opened<Bound, Native>>, BindError> {
    let door = bind(&backing.settings.socket).await?;
    let surface = Rc::new(Native::new(backing));
    Ok(Some(Opened { door, surface }))
}

impl Surface for Native {
    type Memory = ();

    fn answer(self: &Rc<Self>, request: Request<Incoming>, asker: &Rc<Asker<()>>) -> Answering {
        if let Some(response) = self.at_once(&request, &asker.peer) {
            return Answering::now(response);
        }
        let (surface, asker) = (Rc::clone(self), Rc::clone(asker));
        Answering::later(async move {
            let _busy = asker.busy();
            surface.full_answer(request, &asker).await
        })
    }
}
