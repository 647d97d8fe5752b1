//! Asks the control plane, in the name of guests, what the shards can't answer.

use std::sync::Arc;

use moorline_client::{Client, ClientError, GuestRequest};
use moorline_shared::api::data::{Entry, ListQuery};
use moorline_shared::link::body::{Code, Listed, Relay};
use moorline_shared::{EntryPath, InstanceId, PathPrefix};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::interests::InterestChange;
use crate::link::{Answer, Ask, Page, Question, Refusal, Reply, ShardsHandle};

/// How many questions are asked at once. Each guest's share is bounded by its own limits and budget.
const AT_ONCE: usize = 256;
/// The most entries of a page, as the control plane allows.
const PAGE: u32 = 1_000;
/// The most pages of a listing: an instance has at most 1,024 entries.
const MAX_PAGES: usize = 2;

/// Answers until it is cancelled or nobody asks any more. What is being asked then is let go.
pub(super) async fn answer(
    client: Client,
    shards: ShardsHandle,
    mut asks: mpsc::Receiver<Ask>,
    interests: mpsc::UnboundedSender<InterestChange>,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    loop {
        // Cancel-safe: a question that wasn't taken stays in the channel, an ended task stays in the set.
        let ask = tokio::select! {
            () = cancel.cancelled() => return,
            Some(_) = asking.join_next() => continue,
            ask = asks.recv() => match ask {
                Some(ask) => ask,
                None => return,
            },
        };
        if let Question::Interest { add, remove } = ask.question {
            // The feed's task goes only when the daemon does.
            let _ = interests.send(InterestChange { add, remove });
            continue;
        }
        let (client, shards, places) = (client.on_behalf_of(ask.reader), shards.clone(), places.clone());
        asking.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire_owned().await;
            let (shard, reader) = (ask.shard, ask.reader);
            if let Some(answer) = ask_one(&client, reader, ask.question).await {
                shards.answer(shard, reader, answer);
            }
        });
    }
}

async fn ask_one(client: &Client, reader: InstanceId, question: Question) -> Option<Answer> {
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
        Question::Relay { relay, asker } => Answer::Relayed(asker, pass_on(client, reader, relay).await),
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

fn listed(entry: Entry) -> Listed {
    Listed {
        path: entry.path,
        revision: entry.revision,
        content_type: entry.content_type.as_str().to_owned(),
        length: u32::try_from(entry.length).unwrap_or(u32::MAX),
    }
}

async fn pass_on(client: &Client, reader: InstanceId, relay: Relay) -> Result<Reply, Refusal> {
    let request = GuestRequest::new(&relay.method, &relay.target, &relay.headers);
    let request = request.map_err(|refused| Refusal::new(Code::Invalid, refused.to_string()))?;
    let body = relay.body.bytes().clone();
    let reply = client.relay(reader, &request, body).await;
    let reply = reply.map_err(|error| refusal(&error))?;
    Ok(Reply {
        status: reply.status,
        headers: reply.headers,
        body: reply.body,
    })
}

/// What a guest is told of an answer that is none. It hears the control plane's own words about its request, and
/// nothing of how the host reaches the control plane.
fn refusal(error: &ClientError) -> Refusal {
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
    Refusal::new(code, problem.detail.clone())
}
