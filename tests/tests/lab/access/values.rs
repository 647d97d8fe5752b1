//! How values, listings and waits come through to a guest's programs.

use super::{Guest, Scene};
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline_client::{Terms, fresh_key};
use moorline_lab::deployment::PATIENCE;
use moorline_lab::guest::Output;
use moorline_shared::agent::DEFAULT_SOCKET;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};
use moorline_shared::entry::{MAX_VALUE_BYTES, Value};
use sha2::{Digest, Sha256};

/// How many entries the listing has, beside those of the provider.
const MANY: usize = 1_000;

/// All of it, in a guest that is up.
pub(super) async fn in_a_guest(scene: &Scene, guest: &Guest) -> Result<()> {
    the_largest_value_arrives_as_it_is(scene, guest)
        .await
        .context("the largest value")?;
    a_poll_is_answered_at_the_change(scene, guest)
        .await
        .context("long polls")?;
    a_thousand_entries_are_listed(scene, guest)
        .await
        .context("a long listing")
}

async fn the_largest_value_arrives_as_it_is(scene: &Scene, guest: &Guest) -> Result<()> {
    let mut bytes = vec![0; MAX_VALUE_BYTES];
    getrandom::fill(&mut bytes)?;
    let sum = format!("{:x}  -", Sha256::digest(&bytes));
    let body = PutEntry::value(Value::from(Bytes::from(bytes)));
    let client = scene.deployment.client();
    let mut watch = guest.own().watch("large").await?;
    client
        .put_instance_data(guest.id, &path("large/value"), &body, &Terms::fresh())
        .await?;
    watch.shows("large/value").await?;
    let by_agent = "moorline-agent get large/value | sha256sum";
    ensure!(guest.shell(by_agent).await? == sum);
    let by_http =
        format!("curl -sS --unix-socket {DEFAULT_SOCKET} http://agent/v1/data/large/value | sha256sum");
    ensure!(guest.shell(by_http).await? == sum);
    client
        .delete_instance_data(guest.id, &path("large/value"), &Terms::fresh())
        .await?;
    watch.loses("large/value").await
}

async fn a_thousand_entries_are_listed(scene: &Scene, guest: &Guest) -> Result<()> {
    let at = |n: usize| format!("many/{n:04}");
    let changes = (0..MANY).map(|n| Change {
        path: path(&at(n)),
        guard: None,
        action: Action::Put(PutEntry::value(n.to_string().as_str().into())),
    });
    let batch = Batch {
        changes: changes.collect(),
    };
    let client = scene.deployment.client();
    client.batch_instance_data(guest.id, &batch, &fresh_key()).await?;
    guest.own().reads(&at(MANY - 1), &(MANY - 1).to_string()).await?;
    let names = guest.own().names("many").await?;
    let expected: Vec<_> = (0..MANY).map(at).collect();
    ensure!(names == expected, "{} names: {names:?}", names.len());
    Ok(())
}

/// An answer to `curl --include`.
struct Answer {
    status: String,
    etag: String,
    body: String,
}

impl Answer {
    fn of(output: Output) -> Result<Self> {
        let text = output.text()?;
        let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
        let mut lines = head.lines();
        let status = lines.next().context("a status line")?.to_owned();
        let etag = lines.find_map(|line| line.strip_prefix("etag: "));
        Ok(Self {
            status,
            etag: etag.with_context(|| format!("no ETag: {head}"))?.to_owned(),
            body: body.to_owned(),
        })
    }
}

async fn a_poll_is_answered_at_the_change(scene: &Scene, guest: &Guest) -> Result<()> {
    scene.put(guest.id, "polled/entry", "before").await?;
    guest.own().reads("polled/entry", "before").await?;
    let curl = |query: &str, more: &str| {
        let url = format!("http://agent/v1/data/polled/entry{query}");
        format!("curl -sS --include {more} --unix-socket {DEFAULT_SOCKET} '{url}'")
    };
    let before = Answer::of(guest.control.run(curl("", "")).await?)?;
    ensure!(before.body == "before");
    // curl takes the quotes of an ETag for what it is to send; in a query they mean nothing.
    let etag = before.etag.trim_matches('"');
    let waiting = |seconds| format!("?wait_for_change=true&last_etag={etag}&timeout_sec={seconds}");

    // Nothing changes: the present state, when the time is over.
    let same = Answer::of(guest.control.run(curl(&waiting(1), "")).await?)?;
    ensure!((&*same.etag, &*same.body) == (&*before.etag, "before"));

    // It ends long before its time. What it waits for is made once the request is on its way.
    let mut poll = guest
        .control
        .lines(format!("{} 2>&1", curl(&waiting(300), "--verbose")))?;
    poll.wait_for("the request", PATIENCE, |line| line.starts_with("> GET "))
        .await?;
    scene.put(guest.id, "polled/entry", "after").await?;
    poll.wait_for("the answer", PATIENCE, |line| line == "after")
        .await?;

    // Whoever has an old state isn't kept waiting, and who has the present one is told so.
    let late = Answer::of(guest.control.run(curl(&waiting(300), "")).await?)?;
    ensure!(late.body == "after" && late.etag != before.etag);
    let known = format!("--header 'If-None-Match: {}'", late.etag);
    let known = guest.control.run(curl("", &known)).await?.text()?;
    ensure!(known.starts_with("HTTP/1.1 304 "), "{known}");
    ensure!(late.status.starts_with("HTTP/1.1 200 "), "{}", late.status);
    Ok(())
}
