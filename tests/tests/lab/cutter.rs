//! A connection that breaks where a test wants it to: stands between two ends, and passes only so many bytes on.

use anyhow::{Context, Result};
use moorline_lab::deployment::PATIENCE;
use moorline_lab::wait;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes everything on.
const WHOLE: u64 = u64::MAX;

/// Stands between whoever dials and who is meant, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cutter {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// How many bytes of answers a new connection passes on.
    allowed: AtomicU64,
    connections: AtomicU32,
    /// Every connection that began before the present number is cut.
    cut: watch::Sender<u32>,
}

impl Shared {
    /// Passes bytes between two ends, until there were enough, one of them ends, or all are cut.
    async fn pass<A, B>(&self, from: A, to: B)
    where
        A: AsyncRead + AsyncWrite,
        B: AsyncRead + AsyncWrite,
    {
        let allowed = self.allowed.load(Ordering::SeqCst);
        let nth = self.connections.fetch_add(1, Ordering::SeqCst);
        let mut cut = self.cut.subscribe();
        let ((mut asks, mut hears), (answers, mut told)) = (tokio::io::split(from), tokio::io::split(to));
        let mut answers = answers.take(allowed);
        // Whichever ends first, both ends are dropped, so that cut bytes are lost as on a broken wire.
        tokio::select! {
            _ = copy(&mut asks, &mut told) => {}
            _ = copy(&mut answers, &mut hears) => {}
            _ = cut.wait_for(|cut| *cut > nth) => {}
        }
        // An end that has gone can't be told.
        let _ = hears.shutdown().await;
    }
}

impl Cutter {
    fn new() -> Self {
        let shared = Shared {
            allowed: WHOLE.into(),
            connections: 0.into(),
            cut: watch::Sender::new(0),
        };
        Self {
            shared: shared.into(),
            tasks: JoinSet::new(),
        }
    }

    /// Stands in front of a guest's socket, at `path`.
    pub(crate) fn unix(path: &Path, to: PathBuf) -> Result<Self> {
        let mut cutter = Self::new();
        let (shared, listener) = (cutter.shared.clone(), UnixListener::bind(path).context("listen")?);
        cutter.tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let (shared, to) = (shared.clone(), to.clone());
                passing.spawn(async move {
                    if let Ok(to) = UnixStream::connect(to).await {
                        shared.pass(from, to).await;
                    }
                });
            }
        });
        Ok(cutter)
    }

    /// Stands in front of a server on loopback; answers with the port at which it stands.
    pub(crate) fn tcp(to: u16) -> Result<(Self, u16)> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listen")?;
        let port = listener.local_addr().context("listen")?.port();
        Ok((Self::at(listener, to)?, port))
    }

    /// Stands at this socket, in front of a server on loopback.
    pub(crate) fn at(listener: std::net::TcpListener, to: u16) -> Result<Self> {
        let mut cutter = Self::new();
        let shared = cutter.shared.clone();
        listener.set_nonblocking(true).context("listen")?;
        let listener = TcpListener::from_std(listener).context("listen")?;
        cutter.tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let shared = shared.clone();
                passing.spawn(async move {
                    if let Ok(to) = TcpStream::connect(("127.0.0.1", to)).await {
                        shared.pass(from, to).await;
                    }
                });
            }
        });
        Ok(cutter)
    }

    /// Cuts every connection there is, and each new one after so many bytes of answers.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.shared.allowed.store(bytes, Ordering::SeqCst);
        self.cut();
    }

    /// Lets new connections be.
    pub(crate) fn mend(&self) {
        self.shared.allowed.store(WHOLE, Ordering::SeqCst);
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        self.shared.cut.send_replace(self.connections());
    }

    /// Waits until there is a connection more.
    pub(crate) async fn more_connections(&self) -> Result<()> {
        let before = self.connections();
        let more = async || (self.connections() > before).then_some(());
        wait::until("another connection", PATIENCE, more).await
    }

    /// How many connections there have been.
    fn connections(&self) -> u32 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}
