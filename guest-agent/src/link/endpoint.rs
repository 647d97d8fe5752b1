//! Where the host is, and a connection to it.

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use moorline_shared::link::PORT;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::UnixStream;
use tokio_vsock::VsockStream;

use crate::platform::{HOST_CID, connect_vsock, until_broken};

/// Where the agent dials: `vsock` for the host by `AF_VSOCK`, `vsock:CID:PORT` for another place there, or
/// `unix:/PATH` for a socket, as tests and odd set-ups have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `AF_VSOCK`.
    Vsock {
        /// The machine's context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Vsock {
            cid: HOST_CID,
            port: PORT,
        }
    }
}

/// The text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no place to dial: write vsock, vsock:CID:PORT or unix:/PATH")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || EndpointError(text.chars().take(128).collect());
        match text.split_once(':') {
            None if text == "vsock" => Ok(Self::default()),
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("vsock", place)) => {
                let (cid, port) = place.split_once(':').ok_or_else(refuse)?;
                let number = |text: &str| text.parse().map_err(|_| refuse());
                Ok(Self::Vsock {
                    cid: number(cid)?,
                    port: number(port)?,
                })
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Connects. It sets no limit on the time that takes.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match self {
            Self::Vsock { cid, port } => connect_vsock(*cid, *port).await.map(Stream::Vsock),
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Stream {
    Vsock(VsockStream),
    Unix(UnixStream),
}

impl Stream {
    /// Waits until the kernel says that the connection broke, where reading it doesn't tell. It borrows nothing.
    pub(super) fn broken(&self) -> impl Future<Output = io::Error> + use<> {
        let socket = match self {
            Self::Vsock(stream) => stream.as_fd().try_clone_to_owned().ok(),
            Self::Unix(_) => None,
        };
        async move {
            match socket {
                Some(socket) => until_broken(socket).await,
                None => std::future::pending().await,
            }
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn endpoints_read_as_they_are_written() {
        assert_eq!("vsock".parse(), Ok(Endpoint::Vsock { cid: 2, port: 8470 }));
        for text in ["vsock:2:8470", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for bad in ["", "vsock:2", "vsock:a:b", "unix:", "unix:relative", "tcp:1:2"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} was taken");
        }
    }
}
