//! What a surface is made of.

use std::io;
use std::rc::Rc;

use http::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Answering, Asker};
use crate::access::Peer;

/// Where local programs come in.
pub(super) trait Door: 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// The next one who comes. Cancel-safe.
    async fn accept(&mut self) -> io::Result<Arrival<Self::Stream>>;

    /// Sends one away for whom there is no room.
    fn turn_away(&self, stream: Self::Stream);

    /// Takes no more connections.
    fn close(self);
}

/// One who came.
pub(super) enum Arrival<T> {
    /// A program of this machine.
    Program(T, Peer),
    /// One that is none, or that is gone already. The connection is closed.
    Stranger,
}

/// What local programs are answered.
pub(super) trait Surface: 'static {
    /// What a connection remembers from one request to the next.
    type Memory: Default + 'static;

    /// The answer to a request.
    fn answer(self: &Rc<Self>, request: Request<Incoming>, asker: &Rc<Asker<Self::Memory>>) -> Answering;
}

/// A surface with its door open.
pub(super) struct Opened<D, S> {
    pub(super) door: D,
    pub(super) surface: Rc<S>,
}
