//! A host's end of a feed: it keeps to the rules of the feed, and fails where the control plane doesn't.

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt as _;
use moorline_client::{Client, EventStream};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::feed::{
    FeedItem, FeedMessage, OpenFeed, Revocation, SetInterests, View, ViewEntry, ViewId,
};
use moorline_shared::{HostId, InstanceId, Revision};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::timeout;

/// A host's end of a feed, with what it makes of it.
pub(in crate::api) struct Host {
    pub(in crate::api) name: HostId,
    pub(in crate::api) client: Client,
    pub(in crate::api) stream: EventStream<FeedMessage>,
    pub(in crate::api) session: u64,
    pub(in crate::api) cursor: Option<Revision>,
    pub(in crate::api) views: BTreeMap<ViewId, BTreeMap<String, String>>,
    pub(in crate::api) instances: BTreeSet<InstanceId>,
    /// What has come of a snapshot or of a batch that is not whole.
    pub(in crate::api) coming: Vec<FeedItem>,
    pub(in crate::api) resync: BTreeSet<ViewId>,
    /// What the snapshot that has begun goes on from.
    pub(in crate::api) from: Option<Revision>,
    /// What the open feed said was revoked.
    pub(in crate::api) revoked: Vec<Revocation>,
}

/// What a host takes from one message.
#[derive(Debug)]
pub(in crate::api) enum Took {
    /// A snapshot or a batch.
    Whole {
        from: Option<Revision>,
        items: Vec<FeedItem>,
        resync: BTreeSet<ViewId>,
    },
    Bookmark,
    Revoked(Revocation),
}

impl Host {
    pub(in crate::api) async fn open(name: &str, client: Client) -> Result<Self> {
        let mut host = Self {
            name: name.parse()?,
            client,
            stream: futures_util::stream::empty().boxed(),
            session: 0,
            cursor: None,
            views: BTreeMap::new(),
            instances: BTreeSet::new(),
            coming: Vec::new(),
            resync: BTreeSet::new(),
            from: None,
            revoked: Vec::new(),
        };
        host.reopen(Vec::new()).await?;
        Ok(host)
    }

    /// Opens the feed where it stands.
    pub(in crate::api) async fn reopen(&mut self, interests: Vec<ViewId>) -> Result<()> {
        let open = OpenFeed {
            cursor: self.cursor,
            interests,
            poll: None,
        };
        self.stream = self.client.open_feed(&self.name, &open).await?;
        (self.coming, self.resync, self.revoked) = Default::default();
        match self.message().await? {
            FeedMessage::Hello { host, session, .. } if host == self.name => self.session = session,
            other => bail!("{other:?} came first"),
        }
        Ok(())
    }

    pub(in crate::api) async fn message(&mut self) -> Result<FeedMessage> {
        let message = timeout(PATIENCE, self.stream.next())
            .await
            .context("nothing came")?;
        Ok(message.context("the feed ended")??)
    }

    /// Takes what comes next as a host does: whole, and never backwards.
    pub(in crate::api) async fn take(&mut self) -> Result<Took> {
        loop {
            match self.message().await? {
                FeedMessage::Hello { .. } => bail!("a second HELLO came"),
                FeedMessage::Revoked(revocation) => {
                    ensure!(
                        self.revoked
                            .last()
                            .is_none_or(|last| last.sequence < revocation.sequence),
                        "{revocation:?} came behind {:?}",
                        self.revoked
                    );
                    self.revoked.push(revocation.clone());
                    return Ok(Took::Revoked(revocation));
                }
                FeedMessage::Snapshot { from, .. } => {
                    ensure!(
                        from.is_none() || from == self.cursor,
                        "a snapshot goes on from {from:?}"
                    );
                    self.from = from;
                }
                FeedMessage::Part { items } => self.coming.extend(items),
                FeedMessage::More { view, entries } => self.more(view, entries)?,
                FeedMessage::SnapshotEnd { to } => {
                    if self.from.is_none() {
                        self.views.clear();
                    }
                    self.instances.clear();
                    return self.whole(self.from, to);
                }
                FeedMessage::Resync { view } => drop(self.resync.insert(view)),
                FeedMessage::Bookmark { revision } => {
                    ensure!(
                        self.coming.is_empty() && self.resync.is_empty(),
                        "a batch has no end"
                    );
                    self.advance(revision)?;
                    return Ok(Took::Bookmark);
                }
                FeedMessage::Batch { from, to, items } => {
                    ensure!(
                        Some(from) <= self.cursor,
                        "a batch builds on {from}, and the host is at {:?}",
                        self.cursor
                    );
                    self.coming.extend(items);
                    return self.whole(Some(from), to);
                }
            }
        }
    }

    fn more(&mut self, of: ViewId, entries: Vec<ViewEntry>) -> Result<()> {
        match self.coming.last_mut() {
            Some(FeedItem::View(view)) if view.view == of => view.entries.extend(entries),
            other => bail!("more of {of:?} came after {other:?}"),
        }
        Ok(())
    }

    fn whole(&mut self, from: Option<Revision>, to: Revision) -> Result<Took> {
        self.advance(to)?;
        let (items, resync) = (std::mem::take(&mut self.coming), std::mem::take(&mut self.resync));
        for item in &items {
            self.apply(item);
        }
        Ok(Took::Whole { from, items, resync })
    }

    fn advance(&mut self, to: Revision) -> Result<()> {
        ensure!(Some(to) >= self.cursor, "the feed went back to {to}");
        self.cursor = Some(to);
        Ok(())
    }

    fn apply(&mut self, item: &FeedItem) {
        match item {
            FeedItem::Instance(spec) => {
                self.instances.insert(spec.instance);
            }
            FeedItem::InstanceGone { instance } => {
                self.instances.remove(instance);
            }
            FeedItem::View(view) => {
                self.views.insert(view.view, entries(view));
            }
            FeedItem::Entry { view, path, entry } => {
                let view = self.views.entry(*view).or_default();
                match entry {
                    Some(entry) => view.insert(path.to_string(), text(&entry.value)),
                    None => view.remove(path.as_str()),
                };
            }
        }
    }

    /// The next snapshot or batch that says something.
    pub(in crate::api) async fn batch(&mut self) -> Result<(Option<Revision>, Vec<FeedItem>)> {
        loop {
            if let Took::Whole { from, items, resync } = self.take().await? {
                ensure!(resync.is_empty(), "{resync:?} are to be asked for");
                if !items.is_empty() {
                    return Ok((from, items));
                }
            }
        }
    }

    /// Takes what comes until a view is as wanted.
    pub(in crate::api) async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) -> Result<()> {
        let taking = async {
            while !wanted(self) {
                self.take().await?;
            }
            Ok(())
        };
        timeout(PATIENCE, taking)
            .await
            .with_context(|| format!("waited in vain for {what}"))?
    }

    /// The next that was revoked.
    pub(in crate::api) async fn told(&mut self) -> Result<Revocation> {
        loop {
            if let Took::Revoked(revocation) = self.take().await? {
                return Ok(revocation);
            }
        }
    }

    /// Takes what comes until it stands where the control plane does.
    pub(in crate::api) async fn bookmark(&mut self) -> Result<()> {
        while !matches!(self.take().await?, Took::Bookmark) {}
        Ok(())
    }

    pub(in crate::api) fn seen(&self, view: ViewId, at: &str) -> Option<&str> {
        Some(self.views.get(&view)?.get(at)?.as_str())
    }

    pub(in crate::api) async fn want(&self, view: ViewId) -> Result<()> {
        let body = SetInterests {
            session: self.session,
            add: vec![view],
            remove: Vec::new(),
        };
        Ok(self.client.set_interests(&self.name, &body).await?)
    }
}

fn text(value: &moorline_shared::entry::Value) -> String {
    String::from_utf8_lossy(value.bytes()).into_owned()
}

pub(in crate::api) fn entries(view: &View) -> BTreeMap<String, String> {
    let pair =
        |entry: &moorline_shared::api::feed::ViewEntry| (entry.path.to_string(), text(&entry.entry.value));
    view.entries.iter().map(pair).collect()
}
