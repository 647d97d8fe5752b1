//! The shard's epoll instance. Whatever is ready is known by its token.

use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Whose readiness it is. From 2 on they are listeners' and connections'.
pub(super) type Token = u64;
/// The mailbox.
pub(super) const MAILBOX: Token = 0;
/// The port of `AF_VSOCK`.
pub(super) const LOBBY: Token = 1;

/// Waiting for many descriptors at once.
#[derive(Debug)]
pub(super) struct Poll {
    epoll: OwnedFd,
}

/// What was ready when the wait ended.
pub(super) struct Events(Vec<epoll::Event>);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Interest {
    /// Something to read.
    pub(super) const READ: Self = Self {
        read: true,
        write: false,
    };

    /// Nothing but the end.
    pub(super) const NONE: Self = Self {
        read: false,
        write: false,
    };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN | epoll::EventFlags::RDHUP, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) token: Token,
    /// There may be something to read.
    pub(super) read: bool,
    /// The other end sends nothing any more: what it sent last may still have to be read.
    pub(super) ended: bool,
    /// The other end is gone.
    pub(super) broken: bool,
}

impl Poll {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Waits for the source for as long as it is ready: what is not done is said again.
    pub(super) fn add(&self, source: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, source, data, interest.flags())
    }

    /// Changes what is waited for of a source added by [`Self::add`].
    pub(super) fn modify(&self, source: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        let data = epoll::EventData::new_u64(token);
        epoll::modify(&self.epoll, source, data, interest.flags())
    }

    /// Waits until the source becomes ready: that is said once, and costs the kernel half as much.
    pub(super) fn add_once(&self, source: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        let (data, flags) = (epoll::EventData::new_u64(token), interest.flags());
        epoll::add(&self.epoll, source, data, flags | epoll::EventFlags::ET)
    }

    /// Changes what is waited for of a source added by [`Self::add_once`]. If it is ready, that is said once more.
    pub(super) fn modify_once(
        &self,
        source: impl AsFd,
        token: Token,
        interest: Interest,
    ) -> Result<(), Errno> {
        let (data, flags) = (epoll::EventData::new_u64(token), interest.flags());
        epoll::modify(&self.epoll, source, data, flags | epoll::EventFlags::ET)
    }

    /// Waits until something is ready or so many milliseconds have passed; `None` waits for ever.
    pub(super) fn wait(&self, events: &mut Events, timeout_ms: Option<u64>) -> Result<(), Errno> {
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1_000 * 1_000_000).unwrap_or(0),
        });
        events.0.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Events {
    /// Room for what is ready at once; the rest is ready in the next turn.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    /// What is ready. What came before a hang-up can still be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = Ready> {
        self.0.iter().map(|event| {
            let (token, flags) = (event.data.u64(), event.flags);
            let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                token,
                read: broken || flags.contains(epoll::EventFlags::IN),
                ended: broken || flags.contains(epoll::EventFlags::RDHUP),
                broken,
            }
        })
    }
}
