//! The connections of the socket: bounded, and swept of those that do nothing.

use std::collections::HashMap;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::Surface;
use super::connection::{self, Activity, Mark, Peer};
use super::socket::Bound;

/// How long answers under way may take once the agent stops.
const GRACE: Duration = Duration::from_secs(1);
/// What a client hears that comes when all connections are taken.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/problem+json\r\n\
    Retry-After: 1\r\nContent-Length: 156\r\n\r\n{\"type\":\"too-many-connections\",\"title\":\"Too many connections\",\"status\":503,\
    \"detail\":\"the agent serves no more connections at once; close some or try later\"}";

/// Serves local programs until `stop` is cancelled and what was under way is answered, or a second has passed.
///
/// Must run on a runtime that takes local tasks. Dropping the future closes all connections.
pub async fn serve(bound: Bound, surface: Rc<Surface>, stop: &CancellationToken) {
    let mut connections = Connections::new(surface);
    loop {
        // Accepting, joining and sleeping all lose nothing when another arm wins.
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = connections.sweep(), if !connections.is_empty() => {}
            accepted = bound.accept() => match accepted {
                Ok(stream) => connections.take(stream),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a local connection");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    bound.close();
    connections.drain().await;
}

/// The connections that are open.
struct Connections {
    surface: Rc<Surface>,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    next_look: Instant,
}

struct Open {
    task: AbortHandle,
    user: u32,
    activity: Rc<Activity>,
    mark: Mark,
}

impl Connections {
    fn new(surface: Rc<Surface>) -> Self {
        Self {
            surface,
            tasks: JoinSet::new(),
            open: HashMap::new(),
            next_look: Instant::now(),
        }
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn take(&mut self, stream: UnixStream) {
        // One that is gone already needs no seat.
        let Ok(user) = stream.peer_cred().map(|peer| peer.uid()) else {
            return;
        };
        if !self.has_seat_for(user) {
            // The kernel takes these few bytes of a new connection at once, or the client does without.
            let _ = stream.into_std().and_then(|mut stream| stream.write(FULL));
            return;
        }
        if self.open.is_empty() {
            self.next_look = Instant::now() + self.surface.settings.patience;
        }
        let activity = Rc::new(Activity::default());
        let serving = connection::run(
            stream,
            Peer { user },
            Rc::clone(&self.surface),
            Rc::clone(&activity),
        );
        let task = self.tasks.spawn_local(serving);
        let mark = activity.mark();
        let open = Open {
            task,
            user,
            activity,
            mark,
        };
        self.open.insert(open.task.id(), open);
    }

    /// The last quarter of the seats is for users who have few, so that no user keeps all others out.
    fn has_seat_for(&self, user: u32) -> bool {
        let seats = self.surface.settings.connections;
        let own = self.open.values().filter(|open| open.user == user).count();
        self.open.len() < seats && own < seats - seats / 4
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
        self.next_look = Instant::now() + self.surface.settings.patience;
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_full_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(super::FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = head
            .split("Content-Length: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(body.len(), length);
    }
}
