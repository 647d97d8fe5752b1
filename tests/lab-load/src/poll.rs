//! An epoll instance. What is ready is known by its place in the caller's list.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// As many as are ready at once in any bench.
const EVENTS: usize = 1024;

/// Waiting for many sockets at once.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("make an epoll instance")?;
        let events = Vec::with_capacity(EVENTS);
        Ok(Self { epoll, events })
    }

    /// Waits for `socket` to have something to read from now on, by the name `place`.
    pub(crate) fn add(&self, socket: impl AsFd, place: usize) -> Result<()> {
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN).context("wait for a socket")
    }

    /// The places of the sockets that have something to read, or have ended; none after `most`.
    pub(crate) fn wait(&mut self, most: Duration) -> Result<impl Iterator<Item = usize>> {
        let timeout = Timespec::try_from(most).context("wait for that long")?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for sockets"),
        }
        Ok(self.events.iter().map(place))
    }
}

fn place(event: &epoll::Event) -> usize {
    usize::try_from(event.data.u64()).unwrap_or(usize::MAX)
}
