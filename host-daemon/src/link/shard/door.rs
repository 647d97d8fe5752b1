//! The guests' ways in: lives that begin and end, connections that are accepted.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use moorline_shared::InstanceId;

use super::Shard;
use crate::channel::{Accepted, PreparedListener};
use crate::link::admission::LifeId;
use crate::link::conn::Conn;
use crate::link::floor::{Arrival, NotLater, Way};
use crate::link::guest::{Guest, Listening};
use crate::link::handle::{BeginError, Ended};
use crate::link::lobby::Reception;
use crate::link::log::Line;
use crate::link::mailbox::{Begin, Channel, Hybrid};
use crate::link::poll::{Interest, LOBBY, Poll};

/// How many connections of one guest are accepted before the others have their turn.
const ACCEPTS: usize = 4;

impl Shard {
    pub(super) fn begin(&mut self, begin: Begin) -> Result<(), BeginError> {
        let (instance, incarnation) = (begin.instance, begin.incarnation);
        let life = LifeId {
            instance,
            incarnation,
        };
        let not_later = |NotLater { current }| BeginError::Stale {
            instance,
            incarnation,
            current,
        };
        self.floor.check_later(life).map_err(not_later)?;
        let place = self.floor.place(&instance)?;
        let mut way = Way {
            place,
            ..Way::default()
        };
        let admission = match begin.channel {
            Channel::Cid(cid) => {
                way.cid = Some(cid);
                None
            }
            Channel::Hybrid(Hybrid { listener, admission }) => {
                way.listening = Some(self.listen(instance, listener)?);
                Some(admission)
            }
        };
        if let Some(old) = self.floor.begin_at(life, way, admission) {
            self.listeners.remove(&old.token);
        }
        Ok(())
    }

    /// Has the instance's connections arrive at a socket.
    fn listen(&mut self, instance: InstanceId, prepared: PreparedListener) -> Result<Listening, BeginError> {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let added = self.poll.add(&prepared, token, Interest::READ);
        added.map_err(|source| BeginError::Poll { instance, source })?;
        // Last of what can fail: it takes the name of the socket that there is.
        let listener = prepared.publish()?;
        self.listeners.insert(token, instance);
        Ok(Listening::new(listener, token))
    }

    /// Ends the life if it is the present one, and then returns it.
    pub(super) fn end(&mut self, instance: InstanceId, ended: Ended) -> Option<Ended> {
        let (ended, listening) = self.floor.end_at(instance, ended)?;
        if let Some(old) = listening {
            self.listeners.remove(&old.token);
        }
        Some(ended)
    }

    pub(super) fn accept(&mut self, instance: InstanceId) {
        for _ in 0..ACCEPTS {
            let Some(guest) = self.floor.desk.guests.get_mut(&instance) else {
                return;
            };
            let Some(listening) = &mut guest.listening else {
                return;
            };
            if !guest.knocks.has(self.floor.desk.now) {
                listening.paused = true;
                self.crowded.push(instance);
                self.floor.desk.counts.crowded.add();
                let _ = self
                    .poll
                    .modify(&listening.listener, listening.token, Interest::NONE);
                return;
            }
            match listening.listener.accept() {
                Ok(None) => return,
                Ok(Some(Accepted::Guest(socket))) => self.arrived(instance, socket),
                Ok(Some(Accepted::Stranger { uid, pid })) => {
                    guest.knocks.take(self.floor.desk.now);
                    self.floor.desk.counts.strangers.add();
                    if let Some(Line { suppressed }) = self.floor.desk.line_about(&instance) {
                        tracing::warn!(%instance, uid, pid, suppressed, "somebody else than the VM's device connected");
                    }
                }
                Err(error) => {
                    // Descriptors are short, most likely; the socket is left alone until the next tick.
                    listening.paused = true;
                    let _ = self
                        .poll
                        .modify(&listening.listener, listening.token, Interest::NONE);
                    if let Some(Line { suppressed }) = self.floor.desk.line_about(&instance) {
                        tracing::error!(%instance, %error, suppressed, "a guest's connection can't be accepted");
                    }
                    return;
                }
            }
        }
    }

    /// A connection from a CID that was the instance's when it was accepted. Another life may have begun since, on another
    /// channel, and whoever has the CID of an earlier one sees nothing of that.
    pub(super) fn arrived_from(&mut self, cid: u32, instance: InstanceId, socket: OwnedFd) {
        let guest = self.floor.desk.guests.get(&instance);
        if guest.is_some_and(|guest| guest.cid == Some(cid)) {
            self.arrived(instance, socket);
        }
    }

    /// A connection from the instance's channel.
    fn arrived(&mut self, instance: InstanceId, socket: OwnedFd) {
        if self.draining.is_some() || self.floor.knock(&instance) == Arrival::TurnedAway {
            return;
        }
        let mut nonce = [0; 16];
        if let Err(error) = getrandom::fill(&mut nonce) {
            tracing::error!(%error, "no random bytes for a guest's challenge");
            return;
        }
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        // A seat is for a connection that there is.
        if let Err(error) = self.poll.add_once(&socket, token, Interest::READ) {
            if let Some(Line { suppressed }) = self.floor.desk.line_about(&instance) {
                tracing::error!(%instance, %error, suppressed, "a guest's connection can't be waited for");
            }
            return;
        }
        self.conns.insert(token, Conn::new(socket));
        self.floor.greet(instance, token, nonce);
        self.nudge_due();
    }

    /// Lets in who arrived over `AF_VSOCK`.
    pub(super) fn receive(&mut self) {
        let Some(lobby) = &mut self.lobby else {
            return;
        };
        if lobby.receive() == Reception::Refused {
            lobby.paused = true;
            let _ = self.poll.modify(&lobby.port, LOBBY, Interest::NONE);
        }
    }

    pub(super) fn resume_listeners(&mut self) {
        if let Some(lobby) = self.lobby.as_mut().filter(|lobby| lobby.paused) {
            lobby.paused = false;
            let _ = self.poll.modify(&lobby.port, LOBBY, Interest::READ);
        }
        for guest in self.floor.desk.guests.values_mut() {
            listen_again(&self.poll, guest);
        }
    }

    /// Listens again to those who had connected as often as they may, and may once more.
    pub(super) fn resume_crowded(&mut self) {
        let desk = &mut self.floor.desk;
        self.crowded.retain(|instance| {
            let Some(guest) = desk.guests.get_mut(instance) else {
                return false;
            };
            let waits = !guest.knocks.has(desk.now);
            if !waits {
                listen_again(&self.poll, guest);
            }
            waits
        });
    }
}

fn listen_again(poll: &Poll, guest: &mut Guest) {
    if let Some(listening) = guest.listening.as_mut().filter(|listening| listening.paused) {
        listening.paused = false;
        let _ = poll.modify(&listening.listener, listening.token, Interest::READ);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::Shard;
    use crate::config::{CacheConfig, LinkConfig};
    use crate::link::clock::now;
    use crate::link::desk::Desk;
    use crate::link::mailbox::{Begin, Channel, mailbox};
    use crate::link::tests::id;

    fn shard() -> Shard {
        let (asks, _) = tokio::sync::mpsc::channel(1);
        let (link, cache) = (LinkConfig::default(), CacheConfig::default());
        let desk = Desk::new(0, link, cache, Arc::default(), Arc::default(), asks, now());
        let (_, inbox) = mailbox().unwrap();
        Shard::new(desk, inbox, None, Arc::default()).unwrap()
    }

    fn begin(shard: &mut Shard, incarnation: u64, cid: u32) {
        let begin = Begin {
            instance: id(1),
            incarnation,
            channel: Channel::Cid(cid),
        };
        shard.begin(begin).unwrap();
    }

    /// Whether a connection that was accepted from the CID is greeted.
    fn is_greeted(shard: &mut Shard, cid: u32) -> bool {
        let (socket, mut guest) = UnixStream::pair().unwrap();
        shard.arrived_from(cid, id(1), socket.into());
        guest.set_nonblocking(true).unwrap();
        match guest.read(&mut [0; 1]) {
            Ok(count) => count > 0,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("neither greeted nor closed: {error}"),
        }
    }

    #[test]
    fn who_came_by_the_cid_of_an_earlier_life_sees_nothing_of_this_one() {
        let mut shard = shard();
        begin(&mut shard, 1, 7);
        assert!(is_greeted(&mut shard, 7));
        begin(&mut shard, 2, 8);
        assert!(!is_greeted(&mut shard, 7));
        assert!(is_greeted(&mut shard, 8));
    }
}
