//! A watch that is taken up again where it was lost.

use std::time::Duration;

use futures_util::StreamExt;
use moorline_shared::api::data::{WatchEvent, WatchQuery};
use moorline_shared::{InstanceId, PathPrefix, Revision};

use crate::error::ClientError;
use crate::stream::EventStream;
use crate::transport::Client;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What a follower learns.
#[derive(Debug)]
pub enum Followed {
    /// The watch brought this.
    Event(WatchEvent),
    /// The watch was lost, and is begun again after a wait, from the last revision that came.
    Lost {
        /// Why; absent where the server ended the stream in good order.
        error: Option<ClientError>,
        /// How long the wait is.
        wait: Duration,
    },
}

/// A watch of an instance's entries that outlives its connections. See [`Client::follow`].
pub struct Follow {
    client: Client,
    instance: InstanceId,
    query: WatchQuery,
    stream: Option<EventStream<WatchEvent>>,
    wait: Duration,
    due: Duration,
}

impl Client {
    /// Watches `prefix` after a revision, again and again, from the last revision that came.
    ///
    /// Without a revision it begins with the changes from now on; if the watch is lost before anything came, those
    /// made meanwhile are missed. Whoever must miss none lists first and gives the listing's revision.
    pub fn follow(&self, instance: InstanceId, prefix: PathPrefix, after: Option<Revision>) -> Follow {
        Follow {
            client: self.clone(),
            instance,
            query: WatchQuery {
                prefix,
                after,
                wait_seconds: None,
            },
            stream: None,
            wait: FIRST_WAIT,
            due: Duration::ZERO,
        }
    }
}

impl Follow {
    /// What happens next. It waits for as long as nothing does. Dropping the future loses no event.
    ///
    /// # Errors
    /// What asking again doesn't mend: a refusal, or an answer that is not understood.
    pub async fn next(&mut self) -> Result<Followed, ClientError> {
        let next = match &mut self.stream {
            Some(stream) => stream.next().await,
            None => self.open().await?.next().await,
        };
        match next {
            Some(Ok(event)) => Ok(self.progressed(event)),
            Some(Err(error)) if mends_itself(&error) => Ok(self.lost(Some(error))),
            Some(Err(error)) => Err(error),
            None => Ok(self.lost(None)),
        }
    }

    async fn open(&mut self) -> Result<&mut EventStream<WatchEvent>, ClientError> {
        tokio::time::sleep(self.due).await;
        let stream = match self.client.watch_instance_data(self.instance, &self.query).await {
            Ok(stream) => stream,
            // It goes the way of a stream that breaks at once.
            Err(error) => futures_util::stream::once(std::future::ready(Err(error))).boxed(),
        };
        self.due = Duration::ZERO;
        Ok(self.stream.insert(stream))
    }

    /// The wait is short again once something came, not when a connection came about.
    fn progressed(&mut self, event: WatchEvent) -> Followed {
        let (WatchEvent::Changes { revision, .. }
        | WatchEvent::Bookmark { revision }
        | WatchEvent::Resync { revision }) = &event;
        self.query.after = Some(*revision);
        self.wait = FIRST_WAIT;
        Followed::Event(event)
    }

    fn lost(&mut self, error: Option<ClientError>) -> Followed {
        self.stream = None;
        let wait = self.wait;
        self.due = wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        Followed::Lost { error, wait }
    }
}

/// Whether waiting is worth while: no answer came, or one that says "not now" (RFC 9110, 15.6.4; RFC 6585, 4).
fn mends_itself(error: &ClientError) -> bool {
    error.is_silence() || matches!(error.problem(), Some(problem) if matches!(problem.status, 429 | 503))
}
