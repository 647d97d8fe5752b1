//! How values, listings and waits come through to a guest's programs, be it of their own instance's data or of another's.

use super::{Scene, View};
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline_client::{Terms, fresh_key};
use moorline_lab::deployment::PATIENCE;
use moorline_lab::guest::Output;
use moorline_lab::wait;
use moorline_shared::access::AccessList;
use moorline_shared::agent::DEFAULT_SOCKET;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};
use moorline_shared::entry::{MAX_VALUE_BYTES, Value};
use moorline_shared::{InstanceId, Ttl};
use sha2::{Digest, Sha256};

/// How many entries the listing has, which is nearly all that an instance may have.
const MANY: usize = 1_000;

/// How long the entry that runs out is valid, in seconds: long enough to be seen on a machine that builds meanwhile.
const BRIEF: u32 = 5;

/// The way that data take: from an instance, with the access list that lets them be read, to a guest's programs.
pub(super) struct Way<'s> {
    pub(super) scene: &'s Scene,
    pub(super) owner: InstanceId,
    pub(super) access: AccessList,
    pub(super) view: View<'s>,
}

impl Way<'_> {
    /// Everything here, one after the other. What it makes is gone afterwards, but for a few entries.
    pub(super) async fn is_good(&self) -> Result<()> {
        self.largest_value().await.context("the largest value")?;
        self.long_poll().await.context("long polls")?;
        self.running_out().await.context("an entry that runs out")?;
        self.long_listing().await.context("a long listing")
    }

    fn entry(&self, value: impl Into<Value>) -> PutEntry {
        PutEntry {
            access: Some(self.access.clone()),
            ..PutEntry::value(value.into())
        }
    }

    async fn largest_value(&self) -> Result<()> {
        let mut bytes = vec![0; MAX_VALUE_BYTES];
        getrandom::fill(&mut bytes)?;
        let sum = format!("{:x}  -", Sha256::digest(&bytes));
        let at = "large/value";
        let mut watch = self.view.watch("large").await?;
        self.scene
            .put_whole(self.owner, at, self.entry(Bytes::from(bytes)))
            .await?;
        watch.shows(at).await?;
        let by_agent = self.view.command(&format!("get {at}"));
        let by_curl = self.curl(&format!("data/{at}"), "");
        for command in [by_agent, by_curl] {
            let read = self.view.guest.shell(format!("{command} | sha256sum")).await?;
            ensure!(read == sum, "`{command}` reads {read} and not {sum}");
        }
        let client = self.scene.deployment.client();
        client
            .delete_instance_data(self.owner, &path(at), &Terms::fresh())
            .await?;
        watch.loses(at).await
    }

    async fn long_listing(&self) -> Result<()> {
        let at = |n: usize| format!("many/{n:04}");
        let put = |n: usize| Action::Put(self.entry(&*n.to_string()));
        self.change_many(|n| (at(n), put(n))).await?;
        self.view.reads(&at(MANY - 1), &(MANY - 1).to_string()).await?;
        let names = self.view.names("many").await?;
        let expected: Vec<_> = (0..MANY).map(at).collect();
        ensure!(names == expected, "{} names: {names:?}", names.len());
        self.change_many(|n| (at(n), Action::Delete {})).await?;
        let gone = async || self.view.names("many").await.ok()?.is_empty().then_some(());
        wait::until("an empty listing", PATIENCE, gone).await
    }

    /// As many changes, in one transaction.
    async fn change_many(&self, change: impl Fn(usize) -> (String, Action)) -> Result<()> {
        let changes = (0..MANY).map(|n| {
            let (at, action) = change(n);
            Change {
                path: path(&at),
                guard: None,
                action,
            }
        });
        let batch = Batch {
            changes: changes.collect(),
        };
        let client = self.scene.deployment.client();
        client
            .batch_instance_data(self.owner, &batch, &fresh_key())
            .await?;
        Ok(())
    }

    async fn running_out(&self) -> Result<()> {
        let at = "brief/entry";
        let brief = PutEntry {
            ttl: Some(Ttl::try_from(BRIEF)?),
            ..self.entry("brief")
        };
        let mut watch = self.view.watch("brief").await?;
        self.scene.put_whole(self.owner, at, brief).await?;
        watch.shows(at).await?;
        watch.loses(at).await?;
        self.view.hides(at).await?;
        // What is put there afterwards is a new entry, and valid for ever.
        self.scene.put_whole(self.owner, at, self.entry("again")).await?;
        watch.shows(at).await?;
        self.view.reads(at, "again").await
    }

    /// A command line that asks the agent's socket, as the agent's own documentation has it.
    fn curl(&self, what: &str, options: &str) -> String {
        let target = &self.view.target;
        format!("curl -sS {options} --unix-socket {DEFAULT_SOCKET} 'http://agent{target}/{what}'")
    }

    async fn answer(&self, query: &str) -> Result<Answer> {
        let curl = self.curl(&format!("data/polled/entry{query}"), "--include");
        Answer::of(self.view.guest.control.run(curl).await?)
    }

    async fn long_poll(&self) -> Result<()> {
        let at = "polled/entry";
        self.scene.put_whole(self.owner, at, self.entry("before")).await?;
        self.view.reads(at, "before").await?;
        let before = self.answer("").await?;
        ensure!(before.body == "before", "{before:?}");
        let etag = before.etag.trim_matches('"');
        let waiting = |seconds| format!("?wait_for_change=true&last_etag={etag}&timeout_sec={seconds}");

        // Nothing changes: the present state, when the time is over.
        let same = self.answer(&waiting(1)).await?;
        ensure!(same == before, "{same:?}");

        // It ends long before its time. What it waits for is made once the request is on its way.
        let target = format!("data/{at}{}", waiting(300));
        let poll = format!("{} 2>&1", self.curl(&target, "--verbose"));
        let mut poll = self.view.guest.control.lines(poll)?;
        poll.wait_for("the request", PATIENCE, |line| line.starts_with("> GET "))
            .await?;
        self.scene.put(self.owner, at, "after").await?;
        poll.wait_for("the answer", PATIENCE, |line| line == "after")
            .await?;

        // Whoever has an old state isn't kept waiting, and who has the present one is told so.
        let late = self.answer(&waiting(300)).await?;
        ensure!(late.body == "after" && late.etag != before.etag, "{late:?}");
        let known = format!("--include --header 'If-None-Match: {}'", late.etag);
        let known = self
            .view
            .guest
            .shell(self.curl(&format!("data/{at}"), &known))
            .await?;
        ensure!(known.starts_with("HTTP/1.1 304 "), "{known}");
        Ok(())
    }
}

/// An answer to `curl --include`.
#[derive(Debug, PartialEq)]
struct Answer {
    etag: String,
    body: String,
}

impl Answer {
    fn of(output: Output) -> Result<Self> {
        let text = output.text()?;
        let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let etag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        Ok(Self {
            etag: etag.with_context(|| format!("no ETag: {head}"))?.to_owned(),
            body: body.to_owned(),
        })
    }
}
