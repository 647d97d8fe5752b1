//! The connections of a surface: bounded, and swept of those that do nothing.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Settings;
use super::connection::{self, Activity, Asker, Mark};
use super::surface::{Arrival, Door, Opened, Surface};
use crate::access::{Peer, User};

/// How long answers under way may take once the agent stops.
const GRACE: Duration = Duration::from_secs(1);

/// Serves local programs until `stop` is cancelled and what was under way is answered, or a second has passed.
///
/// Must run on a runtime that takes local tasks. Dropping the future closes all connections.
pub(super) async fn serve<D: Door, S: Surface>(
    opened: Opened<D, S>,
    settings: Settings,
    stop: CancellationToken,
) {
    let Opened { mut door, surface } = opened;
    let mut connections = Connections::new(surface, settings);
    loop {
        // Accepting, joining and sleeping all lose nothing when another arm wins.
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = connections.sweep(), if !connections.is_empty() => {}
            arrival = door.accept() => match arrival {
                Ok(Arrival::Program(stream, peer)) => {
                    if let Some(stream) = connections.take(stream, peer) {
                        door.turn_away(stream);
                    }
                }
                Ok(Arrival::Stranger) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept a local connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    door.close();
    connections.drain().await;
}

/// The connections that are open.
struct Connections<S: Surface> {
    surface: Rc<S>,
    settings: Settings,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    next_look: Instant,
}

struct Open {
    task: AbortHandle,
    user: User,
    activity: Rc<Activity>,
    mark: Mark,
}

impl<S: Surface> Connections<S> {
    fn new(surface: Rc<S>, settings: Settings) -> Self {
        Self {
            surface,
            settings,
            tasks: JoinSet::new(),
            open: HashMap::new(),
            next_look: Instant::now(),
        }
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Begins to serve a connection, or gives it back if there is no seat for it.
    fn take<T: AsyncRead + AsyncWrite + Unpin + 'static>(&mut self, stream: T, peer: Peer) -> Option<T> {
        let user = peer.user();
        if !self.has_seat_for(user) {
            return Some(stream);
        }
        if self.open.is_empty() {
            self.next_look = Instant::now() + self.settings.patience;
        }
        let asker = Rc::new(Asker::new(peer));
        let activity = Rc::clone(asker.activity());
        let serving = connection::run(stream, Rc::clone(&self.surface), asker);
        let task = self.tasks.spawn_local(serving);
        let mark = activity.mark();
        let open = Open {
            task,
            user,
            activity,
            mark,
        };
        self.open.insert(open.task.id(), open);
        None
    }

    fn has_seat_for(&self, user: User) -> bool {
        let seated = self.open.values().map(|open| open.user);
        self.settings.seats().has_room(user, seated)
    }

    /// Waits for a connection to end, or ends those that got nowhere since the last look.
    async fn sweep(&mut self) {
        // A task that ended stays in the set, and the time of the next look stays what it is, if the other arm wins.
        tokio::select! {
            ended = self.tasks.join_next_with_id() => self.ended(ended),
            () = sleep_until(self.next_look) => self.look(),
        }
    }

    fn ended(&mut self, ended: Option<Result<(Id, ()), JoinError>>) {
        match ended {
            Some(Ok((id, ()))) => self.open.remove(&id),
            Some(Err(error)) => self.open.remove(&error.id()),
            None => None,
        };
    }

    fn look(&mut self) {
        self.next_look = Instant::now() + self.settings.patience;
        for open in self.open.values_mut() {
            if !open.activity.goes_on_since(open.mark) {
                open.task.abort();
            }
            open.mark = open.activity.mark();
        }
    }

    async fn drain(&mut self) {
        for open in self.open.values().filter(|open| !open.activity.is_busy()) {
            open.task.abort();
        }
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(GRACE, rest).await.is_err() {
            tracing::debug!("cutting off local requests that still waited");
        }
        self.tasks.shutdown().await;
    }
}
