//! One connection: hyper over a socket, and signs of life for whoever ends connections that do nothing.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Body;
use super::surface::Surface;
use crate::access::Peer;

/// The longest head of a request, and how much of a body is read at once, in bytes.
const BUFFER_BYTES: usize = 8 * 1024;
/// An answer up to this long, its head included, is written in one piece, in bytes.
const ONE_WRITE: usize = 1024;
/// What a client that has more to read than it takes must take between two looks at it, in bytes: a program that reads
/// at all takes more, and one that takes a byte now and then would hold its answer for ever.
const LEAST_READ: u64 = 16 * 1024;
/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// Who asks on a connection.
#[derive(Debug)]
pub(super) struct Asker<M> {
    /// Whose program it is.
    pub(super) peer: Peer,
    /// What the surface remembers of the connection.
    pub(super) memory: M,
    activity: Rc<Activity>,
}

impl<M: Default> Asker<M> {
    /// A program that has asked nothing yet.
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            memory: M::default(),
            activity: Rc::default(),
        }
    }

    /// What the connection did so far.
    pub(super) fn activity(&self) -> &Rc<Activity> {
        &self.activity
    }

    /// To be held while an answer takes time, so that the connection isn't taken for one that does nothing.
    pub(super) fn busy(&self) -> Busy {
        Busy::begin(&self.activity)
    }
}

/// Serves a connection until its client leaves. Dropping the future closes it.
pub(super) async fn run<S: Surface>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    surface: Rc<S>,
    asker: Rc<Asker<S::Memory>>,
) {
    let io = Watched {
        inner: TokioIo::new(stream),
        activity: Rc::clone(&asker.activity),
    };
    let mut http = http1::Builder::new();
    // A date is of no use on this side of a socket, and a header timer for each request costs more than the request:
    // connections that do nothing are ended by the one that accepted them.
    http.auto_date_header(false)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(MOST_HEADERS);
    let served = http.serve_connection(io, Serving { surface, asker }).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a local connection ended badly");
    }
}

struct Serving<S: Surface> {
    surface: Rc<S>,
    asker: Rc<Asker<S::Memory>>,
}

impl<S: Surface> Service<Request<Incoming>> for Serving<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let requests = &self.asker.activity.requests;
        requests.set(requests.get() + 1);
        self.surface.answer(request, &self.asker)
    }
}

/// An answer that is there, or one that takes time.
pub(super) enum Answering {
    Now(Option<Response<Body>>),
    Later(LocalBoxFuture<'static, Response<Body>>),
}

impl Answering {
    pub(super) fn now(response: Response<Body>) -> Self {
        Self::Now(Some(response))
    }

    pub(super) fn later(answer: impl Future<Output = Response<Body>> + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // Hyper polls an answer until it is ready and no more.
            Self::Now(response) => response
                .take()
                .map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Later(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}

/// What a connection did, counted where it happens.
#[derive(Debug, Default)]
pub(super) struct Activity {
    requests: Cell<u64>,
    written: Cell<u64>,
    /// The client doesn't take what it is sent.
    stalled: Cell<bool>,
    /// Requests that are being answered.
    busy: Cell<u32>,
}

/// How far a connection was when it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    requests: u64,
    written: u64,
}

impl Activity {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            requests: self.requests.get(),
            written: self.written.get(),
        }
    }

    /// Whether something is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.get() > 0
    }

    /// Whether the connection got anywhere since `mark`. One that waits for a long poll does; one that takes its time
    /// over a request's head, or that hardly reads what it asked for, doesn't.
    pub(super) fn goes_on_since(&self, mark: Mark) -> bool {
        if self.stalled.get() {
            return self.written.get() - mark.written >= LEAST_READ;
        }
        self.is_busy() || self.requests.get() != mark.requests
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Rc<Activity>);

impl Busy {
    fn begin(activity: &Rc<Activity>) -> Self {
        activity.busy.set(activity.busy.get() + 1);
        Self(Rc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

/// Copies the pieces one behind the other, if they fit: for a small answer the kernel takes longer over two pieces than
/// a copy does. Returns how many bytes there are.
fn joined(bufs: &[io::IoSlice<'_>], one: &mut [u8; ONE_WRITE]) -> Option<usize> {
    let mut length = 0;
    for piece in bufs {
        one.get_mut(length..length + piece.len())?.copy_from_slice(piece);
        length += piece.len();
    }
    Some(length)
}

/// A socket that notes what is written to it.
struct Watched<T> {
    inner: TokioIo<T>,
    activity: Rc<Activity>,
}

impl<T> Watched<T> {
    fn note(&self, written: &Poll<io::Result<usize>>) {
        self.activity.stalled.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.activity
                .written
                .set(self.activity.written.get() + *count as u64);
        }
    }
}

impl<T: AsyncRead + Unpin> Read for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> Write for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut one = [0; ONE_WRITE];
        if let Some(length) = joined(bufs, &mut one) {
            return self.poll_write(cx, &one[..length]);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Activity, LEAST_READ};

    #[test]
    fn a_client_that_hardly_reads_goes_nowhere() {
        let activity = Activity::default();
        activity.written.set(1);
        let mark = activity.mark();
        let wrote = |bytes: u64, stalled| {
            activity.written.set(1 + bytes);
            activity.stalled.set(stalled);
            activity.goes_on_since(mark)
        };
        activity.busy.set(1);
        assert!(wrote(0, false), "it is being answered");
        assert!(!wrote(1, true) && !wrote(LEAST_READ - 1, true));
        assert!(wrote(LEAST_READ, true));
    }
}
