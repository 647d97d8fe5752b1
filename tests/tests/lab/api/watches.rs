//! Watches and long polls: every change once and in order, and a word where some were lost.

use crate::alone::{Alone, readers};
use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use moorline_client::{Client, EventStream, Follow, Followed, Terms};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::data::{EntryChange, PutEntry, SetAccess, WatchEvent, WatchQuery};
use moorline_shared::{InstanceId, Revision};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// What changes say, as `PATH=VALUE`s.
pub(super) fn told(changes: &[EntryChange]) -> Vec<String> {
    let told = changes.iter().map(|change| {
        let entry = change.entry.as_ref();
        let value = entry.and_then(|entry| entry.value.as_ref()?.text());
        format!("{}={}", change.path, value.unwrap_or("(gone)"))
    });
    told.collect()
}

/// The next transaction that a followed watch shows, as its revision and `PATH=VALUE`s.
async fn next_change(follow: &mut Follow) -> Result<(Revision, Vec<String>)> {
    let next = async {
        loop {
            match follow.next().await? {
                Followed::Event(WatchEvent::Changes { revision, changes }) => {
                    return Ok((revision, told(&changes)));
                }
                Followed::Event(WatchEvent::Bookmark { .. }) | Followed::Lost { .. } => {}
                Followed::Event(event @ WatchEvent::Resync { .. }) => bail!("{event:?} came"),
            }
        }
    };
    timeout(PATIENCE, next).await.context("no change came")?
}

#[tokio::test]
async fn a_watch_that_is_taken_up_again_shows_every_change_once() -> Result<()> {
    let mut alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let begin = alone.put(id, "log", "begin").await?.revision;
    let mut follow = alone.client().follow(id, "log".parse()?, Some(begin));
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    let mut at = begin;
    for round in 0..3 {
        for n in 0..10 {
            let value = format!("{round}.{n}");
            let changed = alone.put(id, "log", &value).await?;
            expected.push((changed.revision, vec![format!("log={value}")]));
            alone.put(id, "logs", "beside it").await?;
            if n < 5 {
                seen.push(next_change(&mut follow).await?);
            }
        }
        // Five changes wait unread, or are on the wire, when the connection breaks.
        alone.control.kill().await?;
        alone.control.restart().await?;
        while seen.len() < expected.len() {
            seen.push(next_change(&mut follow).await?);
        }
    }
    ensure!(seen == expected, "{seen:?}\nwas seen instead of\n{expected:?}");
    for (revision, _) in &seen {
        ensure!(*revision > at, "the watch went back to {revision}");
        at = *revision;
    }
    Ok(())
}

#[tokio::test]
async fn a_long_poll_ends_with_the_first_change_or_in_time() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    let first = alone.put(id, "config/a", "1").await?.revision;
    let query = WatchQuery {
        prefix: "config".parse()?,
        after: Some(first),
        wait_seconds: None,
    };
    let client = alone.client();

    let begun = Instant::now();
    let nothing = client.poll_instance_data(id, &query, 1).await?;
    ensure!(
        matches!(nothing, WatchEvent::Bookmark { revision } if revision >= first),
        "{nothing:?}"
    );
    ensure!(
        begun.elapsed() >= Duration::from_secs(1),
        "it waited for {:?}",
        begun.elapsed()
    );

    let change = async {
        // The poll is under way by the time that another call was answered.
        client.describe_hosts().await?;
        alone.put(id, "other", "not polled").await?;
        alone.put(id, "config/b", "2").await
    };
    let begun = Instant::now();
    let poll = async { Ok(client.poll_instance_data(id, &query, 60).await?) };
    let (event, changed) = tokio::try_join!(poll, change)?;
    ensure!(
        begun.elapsed() < Duration::from_secs(30),
        "it waited for {:?}",
        begun.elapsed()
    );
    let WatchEvent::Changes { revision, changes } = event else {
        bail!("{event:?} came")
    };
    ensure!(revision == changed.revision && changes.len() == 1, "{changes:?}");

    // What happened before is answered at once.
    let begun = Instant::now();
    let again = client.poll_instance_data(id, &query, 60).await?;
    ensure!(
        matches!(again, WatchEvent::Changes { revision: at, .. } if at == revision),
        "{again:?}"
    );
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "it waited for {:?}",
        begun.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_watch_that_cannot_begin_where_it_should_says_so() -> Result<()> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let id = alone.instance("h", "web").await?;
    for after in [Revision::new(u64::MAX, 1), Revision::new(0, 0)] {
        let query = WatchQuery {
            after: Some(after),
            ..WatchQuery::default()
        };
        let mut stream = alone.client().watch_instance_data(id, &query).await?;
        let first = next(&mut stream).await?;
        ensure!(
            matches!(first, WatchEvent::Resync { .. }),
            "{first:?} came after {after}"
        );
        let end = timeout(PATIENCE, stream.next())
            .await
            .context("the stream doesn't end")?;
        ensure!(end.is_none(), "{end:?} came behind a resync");
    }
    let unknown = InstanceId::from_bytes([9; 16]);
    let refused = alone
        .client()
        .watch_instance_data(unknown, &WatchQuery::default())
        .await;
    let status = refused.err().and_then(|error| Some(error.problem()?.status));
    ensure!(status == Some(404), "{status:?}");
    Ok(())
}

async fn next(stream: &mut EventStream<WatchEvent>) -> Result<WatchEvent> {
    let event = timeout(PATIENCE, stream.next()).await.context("nothing came")?;
    Ok(event.context("the stream ended")??)
}

/// Invariants 1 and 3, for a guest that watches another's entries by way of the API.
#[tokio::test]
async fn a_watch_shows_what_its_caller_may_read_and_no_more() -> Result<()> {
    let alone = Alone::start().await?;
    let host = alone.host("h").await?;
    let (a, b) = (alone.instance("h", "a").await?, alone.instance("h", "b").await?);
    alone.put(b, "shared", "0").await?;
    let guest: Client = host.on_behalf_of(a);
    let mut stream = guest.watch_instance_data(b, &WatchQuery::default()).await?;
    alone.put(b, "withheld", "secret").await?;
    alone.put(b, "shared", "secret").await?;
    let readable = PutEntry {
        access: Some(readers(&["owner", &format!("instance:{a}")])?),
        ..PutEntry::value("for a".into())
    };
    alone
        .client()
        .put_instance_data(b, &"shared".parse()?, &readable, &Terms::fresh())
        .await?;
    let given = loop {
        match next(&mut stream).await? {
            // Of what it could not read, before or after, it doesn't hear so much as the path.
            WatchEvent::Changes { changes, .. } => match &changes[..] {
                [change] => break change.entry.clone().context("what it may not read came first")?,
                _ => bail!("{changes:?} came for one change"),
            },
            WatchEvent::Bookmark { .. } => {}
            event @ WatchEvent::Resync { .. } => bail!("{event:?} came"),
        }
    };
    ensure!(given.value == Some("for a".into()), "{given:?}");
    ensure!(
        given.access.is_none(),
        "a guest that doesn't administer sees the access list"
    );
    let back = SetAccess {
        access: readers(&["owner"])?,
    };
    alone
        .client()
        .set_entry_access(b, &"shared".parse()?, &back, &Terms::fresh())
        .await?;
    let WatchEvent::Changes { changes, .. } = next(&mut stream).await? else {
        bail!("no change came")
    };
    ensure!(
        changes.len() == 1 && changes[0].entry.is_none(),
        "{changes:?} came for a withdrawal"
    );
    let denied = guest.get_instance_data(b, &"shared".parse()?).await;
    ensure!(denied.is_err(), "a right that was withdrawn still counts");
    let listed = guest.list_instance_data(b, &Default::default()).await?;
    ensure!(
        listed.entries.is_empty(),
        "a listing names what a read denies: {listed:?}"
    );
    Ok(())
}
