//! Asks the control plane, in the name of guests, what the shards can't answer.

mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use moorline_client::{Client, ClientError, GuestRequest, RawReply};
use moorline_shared::api::SERVER_TIME;
use moorline_shared::api::data::{Entry, ListQuery};
use moorline_shared::link::body::{Code, Listed, Relay};
use moorline_shared::signature::{Clock, Seconds, TOKEN};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Timestamp};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::interests::InterestChange;
use crate::credentials::{self, NotVouched};
use crate::identity::HostIdentity;
use crate::link::{
    self, Answer, Ask, Asker, MissKey, Page, PageEntry, Question, Refusal, Reply, ShardsHandle,
};
use turns::Turns;

/// How many questions are asked at once, of all guests together.
const AT_ONCE: usize = 256;
/// The most entries of a page, as the control plane allows.
const PAGE: u32 = 1_000;
/// The most pages of a listing: an instance has at most 1,024 entries.
const MAX_PAGES: usize = 2;

const UNAUTHORIZED: u16 = 401;

/// The control plane, and what the host signs with that it passes on there.
#[derive(Clone, Debug)]
pub(super) struct Signing {
    pub(super) client: Client,
    pub(super) identity: HostIdentity,
    /// Which sessions were ended.
    pub(super) credentials: credentials::Handle,
    /// The control plane's time, which need not be this machine's.
    pub(super) clock: Arc<Mutex<Clock>>,
}

impl Signing {
    /// The control plane's time, as far as it is known.
    fn now(&self) -> Seconds {
        self.clock().at(link::now(), calendar_ms())
    }

    /// Sets the clock by what the answer to what was signed at `signed` says; whether that was another time.
    fn learn(&self, reply: &RawReply, signed: Seconds) -> bool {
        let mut headers = reply.headers.iter();
        let said = headers.find(|(name, _)| name == SERVER_TIME);
        let time = said.and_then(|(_, text)| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| self.clock().learn(time.millis(), signed, link::now()))
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This machine's time of day, in milliseconds since 1970.
fn calendar_ms() -> i64 {
    link::time().map_or(0, Timestamp::millis)
}

/// Answers until it is cancelled or nobody asks any more. What is being asked then is let go.
pub(super) async fn answer(
    control: Signing,
    shards: ShardsHandle,
    mut asks: mpsc::Receiver<Ask>,
    interests: mpsc::UnboundedSender<InterestChange>,
    cancel: CancellationToken,
) {
    let mut asking = Asking {
        turns: Turns::new(AT_ONCE),
        tasks: JoinSet::new(),
        readers: HashMap::new(),
    };
    loop {
        while let Some(ask) = asking.turns.next() {
            asking.begin(&control, &shards, ask);
        }
        // Cancel-safe: a question that wasn't taken stays in the channel, an ended task stays in the set.
        let ask = tokio::select! {
            () = cancel.cancelled() => return,
            Some(ended) = asking.tasks.join_next_with_id() => {
                asking.ended(ended);
                continue;
            }
            ask = asks.recv() => match ask {
                Some(ask) => ask,
                None => return,
            },
        };
        if let Question::Interest { add, remove } = ask.question {
            // The feed's task goes only when the daemon does.
            let _ = interests.send(InterestChange { add, remove });
        } else {
            asking.turns.wait(ask);
        }
    }
}

/// The questions that are being asked, and those that will be.
struct Asking {
    turns: Turns,
    tasks: JoinSet<()>,
    /// In whose name each task asks.
    readers: HashMap<Id, InstanceId>,
}

impl Asking {
    fn begin(&mut self, control: &Signing, shards: &ShardsHandle, ask: Ask) {
        let reader = ask.reader;
        let control = Signing {
            client: control.client.on_behalf_of(reader),
            identity: control.identity.clone(),
            credentials: control.credentials.clone(),
            clock: Arc::clone(&control.clock),
        };
        let promise = Promise {
            shards: shards.clone(),
            shard: ask.shard,
            reader,
            to: Whom::of(&ask.question),
        };
        let task = self.tasks.spawn(async move {
            if let Some(answer) = ask_one(&control, reader, ask.question).await {
                promise.keep(answer);
            }
        });
        self.readers.insert(task.id(), reader);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                tracing::error!(%error, "a guest's question panicked");
                error.id()
            }
        };
        if let Some(reader) = self.readers.remove(&id) {
            self.turns.ended(reader);
        }
    }
}

/// Who waits for an answer.
enum Whom {
    Entry(MissKey),
    Page(Asker),
    Relayed(Asker),
}

impl Whom {
    fn of(question: &Question) -> Option<Self> {
        Some(match question {
            Question::Entry(key) => Self::Entry(key.clone()),
            Question::Page { asker, .. } => Self::Page(*asker),
            Question::Relay { asker, .. } => Self::Relayed(*asker),
            Question::Interest { .. } => return None,
        })
    }

    fn refused(self, refusal: Refusal) -> Answer {
        match self {
            Self::Entry(key) => Answer::Entry(key, Err(refusal)),
            Self::Page(asker) => Answer::Page(asker, Err(refusal)),
            Self::Relayed(asker) => Answer::Relayed(asker, Err(refusal)),
        }
    }
}

/// That a question is answered, whatever becomes of its task: a shard would wait for it for ever, and have whoever asks
/// the same wait with it.
struct Promise {
    shards: ShardsHandle,
    shard: usize,
    reader: InstanceId,
    to: Option<Whom>,
}

impl Promise {
    fn keep(mut self, answer: Answer) {
        self.to = None;
        self.shards.answer(self.shard, self.reader, answer);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let refusal = match to {
                Whom::Relayed(_) => unsettled(),
                Whom::Entry(_) | Whom::Page(_) => {
                    Refusal::new(Code::Unavailable, "the host failed to ask: ask again later")
                }
            };
            self.shards.answer(self.shard, self.reader, to.refused(refusal));
        }
    }
}

async fn ask_one(control: &Signing, reader: InstanceId, question: Question) -> Option<Answer> {
    let client = &control.client;
    Some(match question {
        Question::Entry(key) => {
            let entry = entry(client, key.instance, &key.path).await;
            Answer::Entry(key, entry.map(Box::new))
        }
        Question::Page {
            instance,
            prefix,
            asker,
        } => Answer::Page(asker, page(client, instance, prefix).await),
        Question::Relay { relay, asker } => Answer::Relayed(asker, pass_on(control, reader, relay).await),
        Question::Interest { .. } => return None,
    })
}

async fn entry(client: &Client, instance: InstanceId, path: &EntryPath) -> Result<Entry, Refusal> {
    let answer = client.get_instance_data(instance, path).await;
    answer.map_err(|error| refusal(&error))
}

async fn page(client: &Client, instance: InstanceId, prefix: PathPrefix) -> Result<Page, Refusal> {
    let mut query = ListQuery {
        prefix,
        limit: Some(PAGE),
        ..ListQuery::default()
    };
    let mut entries = Vec::new();
    for _ in 0..MAX_PAGES {
        let answer = client.list_instance_data(instance, &query).await;
        let page = answer.map_err(|error| refusal(&error))?;
        entries.extend(page.entries.into_iter().map(listed));
        query.cursor = page.next;
        if query.cursor.is_none() {
            let revision = page.revision;
            return Ok(Page { revision, entries });
        }
    }
    Err(Refusal::new(
        Code::TooMuch,
        "the instance has more entries than a host lists: ask for a smaller subtree",
    ))
}

fn listed(entry: Entry) -> PageEntry {
    let listed = Listed {
        path: entry.path,
        revision: entry.revision,
        content_type: entry.content_type.as_str().to_owned(),
        length: u32::try_from(entry.length).unwrap_or(u32::MAX),
    };
    PageEntry {
        listed,
        secret: entry.secret,
    }
}

async fn pass_on(control: &Signing, reader: InstanceId, relay: Relay) -> Result<Reply, Refusal> {
    let request = GuestRequest::new(&relay.method, &relay.target, &relay.headers);
    let request = request.map_err(|refused| Refusal::new(Code::Invalid, refused.to_string()))?;
    // Without a token it is all the same what the guest asks for in its session, and falls with that.
    let mut headers = relay.headers.iter();
    let token = headers.find(|(name, _)| name.eq_ignore_ascii_case(TOKEN));
    let token = token.map_or("", |(_, token)| token.as_str());
    let vouched = control.credentials.vouch(reader, token).await;
    vouched.map_err(|refused| Refusal::new(code_of(refused), refused.to_string()))?;
    let body = relay.body.bytes();
    let signed = control.now();
    let mut reply = countersigned(control, reader, (request.clone(), body), signed).await?;
    if reply.status == UNAUTHORIZED && control.learn(&reply, signed) {
        reply = countersigned(control, reader, (request, body), control.now()).await?;
    }
    Ok(Reply {
        status: reply.status,
        headers: reply.headers,
        body: reply.body,
    })
}

/// Sends a guest's request with the host's signature of `now`.
async fn countersigned(
    control: &Signing,
    reader: InstanceId,
    (request, body): (GuestRequest, &Bytes),
    now: Seconds,
) -> Result<RawReply, Refusal> {
    let present = control.identity.present();
    let request = request.countersigned(now, present.key_id(), |base| present.sign(base));
    let reply = control.client.relay(reader, &request, body.clone()).await;
    reply.map_err(|error| without_reply(&error))
}

/// What a guest is told of a request that has no answer: whether it may be done all the same.
fn without_reply(error: &ClientError) -> Refusal {
    if error.may_have_happened() {
        tracing::debug!(error = %super::Causes(error), "the answer to a guest's request was lost");
        return unsettled();
    }
    refusal(error)
}

fn unsettled() -> Refusal {
    Refusal::new(
        Code::Unsettled,
        "the control plane's answer was lost: send the same again with the same idempotency key",
    )
}

const fn code_of(refused: NotVouched) -> Code {
    match refused {
        NotVouched::Ended => Code::Denied,
        NotVouched::Unknown => Code::Unavailable,
    }
}

/// What a guest is told of an answer that is none. It hears the control plane's own words about its request, and
/// nothing of how the host reaches the control plane.
fn refusal(error: &ClientError) -> Refusal {
    if let ClientError::TooLong { .. } = error {
        return Refusal::new(
            Code::TooMuch,
            "the answer is longer than a guest is given: ask for less at a time",
        );
    }
    let Some(problem) = error.problem() else {
        tracing::debug!(error = %super::Causes(error), "a guest's question was not answered");
        return Refusal::new(
            Code::Unavailable,
            "the control plane is out of reach: ask again later",
        );
    };
    let code = match problem.status {
        404 | 410 => Code::NotFound,
        401 | 403 => Code::Denied,
        413 => Code::TooMuch,
        429 | 500.. => Code::Unavailable,
        _ => Code::Invalid,
    };
    Refusal::new(code, problem.detail.clone()).as_of(problem.revision)
}

#[cfg(test)]
mod tests {
    use super::{Promise, Whom};
    use crate::config::{CacheConfig, LinkConfig};
    use crate::link::tests::{World, id};
    use moorline_shared::link::body::Code;

    #[test]
    fn a_question_whose_task_fails_is_refused_and_can_be_asked_again() {
        let cache = CacheConfig {
            refusal_ms: 0,
            ..CacheConfig::default()
        };
        let mut world = World::with(&LinkConfig::default(), &cache);
        world.add(1, &[("a", "0")]);
        let mut agent = world.guest(1);
        for _ in 0..2 {
            let stream = agent.ask_get(Some(id(2)), "x");
            let ask = world.asked();
            drop(Promise {
                shards: world.handle().clone(),
                shard: ask.shard,
                reader: ask.reader,
                to: Whom::of(&ask.question),
            });
            assert_eq!(agent.answer(stream).unwrap_err().code, Code::Unavailable as u16);
        }
    }
}
