//! The feed to hosts over real HTTP/2, as a host reads it: whole batches from a cursor on, and of every view only what
//! its reader may see.

pub(super) mod host;

use crate::alone::{Alone, path};
use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use moorline_client::{Client, Terms, fresh_key};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};
use moorline_shared::api::feed::{FeedItem, OpenFeed, ViewId};
use moorline_shared::api::instances::ModifyInstance;
use moorline_shared::{InstanceId, Revision};
use std::collections::BTreeSet;
use tokio::time::timeout;

use host::{Host, Took, entries};

fn batch_of(values: &[(&str, &str)]) -> Batch {
    let change = |(at, value): &(&str, &str)| Change {
        path: path(at),
        guard: None,
        action: Action::Put(PutEntry::value((*value).into())),
    };
    Batch {
        changes: values.iter().map(change).collect(),
    }
}

#[tokio::test]
async fn a_feed_goes_on_from_its_cursor_and_never_splits_a_transaction() -> Result<()> {
    let mut alone = Alone::start().await?;
    let client = alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let (elsewhere, own) = (alone.instance_elsewhere().await?, ViewId::own(id));
    let mut host = Host::open("h", client).await?;
    let (from, _) = host.batch().await?;
    ensure!(
        from.is_none() && host.instances == [id].into(),
        "the first batch is not everything"
    );
    ensure!(host.seen(own, "meta/instance-id") == Some(&*id.to_string()));

    let both = batch_of(&[("pair/one", "1"), ("pair/two", "1"), ("pair/three", "1")]);
    let changed = alone
        .client()
        .batch_instance_data(id, &both, &fresh_key())
        .await?;
    alone.put(elsewhere, "noise", "1").await?;
    let before = host.cursor;
    let (from, items) = host.batch().await?;
    ensure!(from == before, "it builds on {from:?}");
    ensure!(
        (items.len(), host.cursor) == (3, Some(changed.revision)),
        "{items:?}"
    );

    for (round, restart) in [(2, false), (3, true), (4, false)] {
        // Meanwhile the host isn't there.
        host.stream = futures_util::stream::empty().boxed();
        let value = round.to_string();
        let both = batch_of(&[("pair/one", &value), ("pair/two", &value)]);
        alone
            .client()
            .batch_instance_data(id, &both, &fresh_key())
            .await?;
        if restart {
            alone.control.kill().await?;
            alone.control.restart().await?;
        }
        let before = host.cursor;
        host.reopen(Vec::new()).await?;
        let (from, items) = host.batch().await?;
        ensure!(from == before, "everything came anew, or from {from:?}");
        ensure!(
            items.len() == 2,
            "more than the instance and its view came: {items:?}"
        );
        ensure!(host.seen(own, "pair/one") == Some(&value) && host.seen(own, "pair/two") == Some(&value));
        ensure!(host.instances == [id].into(), "it has another host's instances");
    }

    // A cursor of another store means nothing here.
    host.cursor = Some(Revision::new(0, u64::MAX));
    host.views.clear();
    host.reopen(Vec::new()).await?;
    let (from, _) = host.batch().await?;
    ensure!(
        from.is_none() && host.seen(own, "pair/one") == Some("4"),
        "it was taken up at {from:?}"
    );
    Ok(())
}

impl Alone {
    /// An instance of another host, whose changes concern nobody here.
    async fn instance_elsewhere(&self) -> Result<InstanceId> {
        self.host("elsewhere").await?;
        self.instance("elsewhere", "other").await
    }
}

#[tokio::test]
async fn the_next_feed_of_a_host_ends_the_one_before() -> Result<()> {
    let alone = Alone::start().await?;
    let client = alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let mut first = Host::open("h", client.clone()).await?;
    first.batch().await?;
    let mut second = Host::open("h", client).await?;
    second.batch().await?;
    let end = async {
        while let Some(message) = first.stream.next().await {
            message?;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(PATIENCE, end).await.context("the older feed goes on")??;
    let stale = first.want(ViewId::own(id)).await;
    ensure!(stale.is_err(), "a session that ended was told interests");
    alone.put(id, "a", "1").await?;
    second
        .until("the change", |host| host.seen(ViewId::own(id), "a") == Some("1"))
        .await
}

/// A host `h` with the instance `a`, and another host's instance `b`.
struct Foreign {
    alone: Alone,
    /// The API, as `h`.
    client: Client,
    a: InstanceId,
    b: InstanceId,
    /// What `a` may see of `b`.
    view: ViewId,
}

impl Foreign {
    async fn begin() -> Result<Self> {
        let alone = Alone::start().await?;
        let (client, _) = (alone.host("h").await?, alone.host("other").await?);
        let (a, b) = (
            alone.instance("h", "a").await?,
            alone.instance("other", "b").await?,
        );
        Ok(Self {
            alone,
            client,
            a,
            b,
            view: ViewId {
                reader: a,
                instance: b,
            },
        })
    }
}

/// Invariants 1 and 3, for a guest whose host reads another host's instance for it.
#[tokio::test]
async fn row_9_a_foreign_reader_hears_of_a_change_and_then_of_the_withdrawal() -> Result<()> {
    let Foreign {
        alone,
        client,
        a,
        b,
        view,
    } = Foreign::begin().await?;
    alone.put(b, "shared", "0").await?;
    alone.put(b, "withheld", "secret").await?;
    let mut host = Host::open("h", client).await?;
    host.batch().await?;
    host.want(view).await?;
    host.until("the view", |host| host.views.contains_key(&view))
        .await?;
    ensure!(
        host.views[&view].is_empty(),
        "{:?} is seen without a right",
        host.views[&view]
    );

    let reader = format!("instance:{a}");
    alone.let_read(b, "shared", &["owner", &reader]).await?;
    host.until("what may be read now", |host| {
        host.seen(view, "shared") == Some("0")
    })
    .await?;
    alone.put(b, "shared", "1").await?;
    host.until("the change", |host| host.seen(view, "shared") == Some("1"))
        .await?;

    // In one go: a last value for the reader, the withdrawal, and one that is none of its business.
    alone.put(b, "shared", "last").await?;
    alone.let_read(b, "shared", &["owner"]).await?;
    alone.put(b, "shared", "secret").await?;
    let marker = alone.put(a, "marker", "1").await?;
    let mut told = Vec::new();
    while host.cursor < Some(marker.revision) {
        if let Took::Whole { items, .. } = host.take().await? {
            told.extend(
                items
                    .into_iter()
                    .filter(|item| matches!(item, FeedItem::Entry { view: of, .. } if *of == view)),
            );
        }
    }
    let withdrawn = told
        .last()
        .is_some_and(|item| matches!(item, FeedItem::Entry { entry: None, .. }));
    ensure!(
        withdrawn && host.views[&view].is_empty(),
        "{told:?} came of the withdrawal"
    );
    let everything = serde_json::to_string(&told)?;
    ensure!(!everything.contains("secret"), "{everything}");

    // The same from a cursor before the withdrawal: what came in between is not told to who may not read it.
    alone.let_read(b, "shared", &["owner", &reader]).await?;
    host.until("it again", |host| host.seen(view, "shared") == Some("secret"))
        .await?;
    host.stream = futures_util::stream::empty().boxed();
    alone.let_read(b, "shared", &["owner"]).await?;
    alone.put(b, "shared", "later secret").await?;
    host.reopen(vec![view]).await?;
    host.until("the withdrawal", |host| host.views[&view].is_empty())
        .await
}

#[tokio::test]
async fn a_tag_that_gives_rights_gives_and_takes_them_with_itself() -> Result<()> {
    let Foreign {
        alone,
        client,
        a,
        b,
        view,
    } = Foreign::begin().await?;
    alone.put(b, "for/web", "1").await?;
    alone.let_read(b, "for/web", &["owner", "tag:role=web"]).await?;
    let mut host = Host::open("h", client).await?;
    host.batch().await?;
    host.want(view).await?;
    host.until("the view", |host| host.views.contains_key(&view))
        .await?;
    for round in 0..2 {
        ensure!(
            host.views[&view].is_empty(),
            "round {round}: {:?}",
            host.views[&view]
        );
        alone.tag(a, &["role=web"]).await?;
        host.until("what the tag gives", |host| host.seen(view, "for/web").is_some())
            .await?;
        let value = format!("changed {round}");
        alone.put(b, "for/web", &value).await?;
        host.until("the change", |host| host.seen(view, "for/web") == Some(&value))
            .await?;
        alone.tag(a, &["role=db"]).await?;
        host.until("the withdrawal", |host| host.views[&view].is_empty())
            .await?;
        alone.put(b, "for/web", "secret").await?;
    }
    let marker = alone.put(a, "marker", "1").await?;
    host.until("everything", |host| host.cursor >= Some(marker.revision))
        .await?;
    ensure!(host.views[&view].is_empty(), "{:?}", host.views[&view]);
    Ok(())
}

impl Alone {
    async fn delete(&self, instance: InstanceId, at: &str) -> Result<()> {
        let (path, terms) = (path(at), Terms::fresh());
        self.client()
            .delete_instance_data(instance, &path, &terms)
            .await?;
        Ok(())
    }

    async fn tag(&self, instance: InstanceId, tags: &[&str]) -> Result<()> {
        let tags: Result<Vec<_>, _> = tags.iter().map(|tag| tag.parse()).collect();
        let change = ModifyInstance {
            tags: Some(tags?),
            ..ModifyInstance::default()
        };
        self.client()
            .modify_instance(instance, &change, &fresh_key())
            .await?;
        Ok(())
    }
}

/// What a reader was never shown has no name for it: neither when it changes nor when it goes.
#[tokio::test]
async fn row_9_an_entry_that_was_never_shown_is_never_named() -> Result<()> {
    let Foreign {
        alone,
        client,
        a,
        b,
        view,
    } = Foreign::begin().await?;
    let reader = format!("instance:{a}");
    alone.put(b, "shared", "0").await?;
    alone.let_read(b, "shared", &["owner", &reader]).await?;
    alone.put(b, "withheld/before", "0").await?;
    let mut host = Host::open("h", client).await?;
    host.batch().await?;
    host.want(view).await?;
    host.until("the view", |host| host.seen(view, "shared") == Some("0"))
        .await?;
    for value in ["1", "2"] {
        alone.put(b, "withheld/before", value).await?;
        alone.put(b, "withheld/since", value).await?;
        alone.put(b, "shared", value).await?;
    }
    alone.delete(b, "withheld/before").await?;
    alone.delete(b, "withheld/since").await?;
    alone.delete(b, "shared").await?;
    let marker = alone.put(a, "marker", "1").await?;
    let mut told = Vec::new();
    while host.cursor < Some(marker.revision) {
        if let Took::Whole { items, .. } = host.take().await? {
            told.extend(items);
        }
    }
    ensure!(host.views[&view].is_empty(), "{:?}", host.views[&view]);
    let everything = serde_json::to_string(&told)?;
    ensure!(
        everything.contains("shared"),
        "nothing was told of what was shown: {everything}"
    );
    ensure!(!everything.contains("withheld"), "{everything}");
    Ok(())
}

#[tokio::test]
async fn a_view_is_asked_for_by_its_host_only() -> Result<()> {
    let alone = Alone::start().await?;
    let (client, other) = (alone.host("h").await?, alone.host("other").await?);
    let id = alone.instance("h", "web").await?;
    let (name, view) = ("h".parse()?, ViewId::own(id));
    let changed = alone.put(id, "a", "1").await?;
    let whole = client.get_feed_view(&name, view).await?;
    ensure!(entries(&whole).get("a").is_some_and(|value| value == "1"));
    ensure!(whole.revision >= changed.revision, "it is of {}", whole.revision);

    let forbidden = other.get_feed_view(&name, view).await;
    ensure!(status(forbidden) == Some(403), "another host has it");
    let not_there = other.get_feed_view(&"other".parse()?, view).await;
    ensure!(
        status(not_there) == Some(422),
        "a host has a view for a reader that isn't its own"
    );
    ensure!(status(alone.client().get_feed_view(&name, view).await) == Some(403));
    let of_anothers = other.open_feed(&name, &OpenFeed::default()).await;
    ensure!(status(of_anothers) == Some(403), "a host has another one's feed");
    Ok(())
}

fn status<T>(answer: Result<T, moorline_client::ClientError>) -> Option<u16> {
    answer.err().and_then(|error| Some(error.problem()?.status))
}

/// More than a host that doesn't read is kept waiting: it is told which views to ask for, and ends with all of them.
#[tokio::test]
async fn a_host_that_falls_behind_is_told_what_to_ask_for() -> Result<()> {
    const INSTANCES: usize = 12;
    let alone = Alone::start().await?;
    let client = alone.host("h").await?;
    let mut ids = Vec::new();
    for n in 0..INSTANCES {
        ids.push(alone.instance("h", &format!("web-{n}")).await?);
    }
    let mut host = Host::open("h", client).await?;
    host.batch().await?;
    // Twelve megabytes: four fill the connection's window, the queue holds four more, and the rest is too much.
    for path in ["a", "b", "c", "d"] {
        for id in &ids {
            alone.put(*id, path, &path.repeat(255 * 1_024)).await?;
        }
    }
    let marker = alone.put(ids[0], "marker", "1").await?;
    let mut behind = BTreeSet::new();
    while host.cursor < Some(marker.revision) {
        if let Took::Whole { resync, .. } = host.take().await? {
            behind.extend(resync);
        }
    }
    ensure!(
        !behind.is_empty(),
        "twelve megabytes waited for a host that didn't read"
    );
    for view in behind {
        let whole = host.client.get_feed_view(&host.name, view).await?;
        host.views.insert(view, entries(&whole));
    }
    for id in ids {
        let view = &host.views[&ViewId::own(id)];
        for path in ["a", "b", "c", "d"] {
            ensure!(
                view.get(path).is_some_and(|value| value.len() == 255 * 1_024),
                "{path} of {id} is lost"
            );
        }
    }
    Ok(())
}
