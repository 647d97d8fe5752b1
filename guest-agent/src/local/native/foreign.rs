//! Reads of other instances' data: through the host, which decides by the entries' access lists.

use http::HeaderMap;
use moorline_shared::agent::{Entry, Listing};
use moorline_shared::entry::MAX_ENTRIES;
use moorline_shared::link::body::{self, List, Secrets, Watch};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};
use tokio::time::timeout;

use super::Native;
use super::answer::Outcome;
use super::params::{Etag, Wait};
use super::problem::Problem;
use super::reads::ListAsked;
use super::respond::{self, Values};
use crate::access::{Content, Peer, Rules};
use crate::link::{AskFailure, Watching};

/// How often a listing begins anew because a page showed another state than the one before.
const ATTEMPTS: usize = 4;

impl Native {
    /// The bytes of another instance's entry.
    pub(super) async fn foreign_bytes(
        &self,
        peer: &Peer,
        id: InstanceId,
        path: &str,
        wait: Option<Wait>,
        max_age_ms: Option<u32>,
        headers: &HeaderMap,
    ) -> Outcome {
        self.may_read_other(peer, id, path)?;
        if let Some(wait) = wait {
            self.until_foreign_changed(peer, id, path, &wait).await?;
        }
        let found = self.ask_host(peer, Some(id), path, max_age_ms).await?;
        self.found_bytes(peer, found, headers)
    }

    /// What the rules of this machine deny looks like what the other instance doesn't have.
    pub(super) fn may_read_other(&self, peer: &Peer, id: InstanceId, path: &str) -> Result<(), Problem> {
        if self.shows_other(peer, id, path) {
            Ok(())
        } else {
            Err(Problem::absent(path, Revision::ZERO))
        }
    }

    /// Whom the rules of this machine show nothing below `prefix`, the host isn't asked for: the revisions of what it
    /// would say are a word about it, too.
    pub(super) fn may_read_below_other(
        &self,
        peer: &Peer,
        id: InstanceId,
        prefix: &PathPrefix,
    ) -> Result<(), Problem> {
        let path = match prefix.as_str() {
            "" => format!("instances/{id}"),
            prefix => format!("instances/{id}/{prefix}"),
        };
        if self.backing.rules.may_read_below(peer, &path) {
            Ok(())
        } else {
            Err(Problem::ruled_out(&path))
        }
    }

    fn shows_other(&self, peer: &Peer, id: InstanceId, path: &str) -> bool {
        may_read_other(&self.backing.rules, peer, id, path, Content::Ordinary)
    }

    /// Waits until a watch shows something else than the client has, or for as long as it wants to wait.
    async fn until_foreign_changed(
        &self,
        peer: &Peer,
        id: InstanceId,
        path: &str,
        wait: &Wait,
    ) -> Result<(), Problem> {
        let path: EntryPath = path.parse().map_err(|error| Problem::invalid("path", error))?;
        let watch = Watch {
            instance: Some(id),
            prefix: path.clone().into(),
        };
        let watching = self.backing.line.watch(self.backing.asking(peer), &watch).await;
        let watching = watching.map_err(Problem::from_host)?;
        let rules = &self.backing.rules;
        let shows = |content| may_read_other(rules, peer, id, &path, content);
        match timeout(wait.timeout, changed(watching, &path, shows, wait.last_etag)).await {
            Ok(watched) => watched.map_err(Problem::from_host),
            // Running out of time is an answer, too: the present state.
            Err(_) => Ok(()),
        }
    }

    /// A listing of another instance's entries.
    pub(super) async fn foreign_listing(&self, peer: &Peer, id: InstanceId, asked: ListAsked) -> Outcome {
        if asked.values == Values::Included {
            let detail = "another instance's values are read one by one: GET /v1/instances/ID/data/PATH";
            return Err(Problem::invalid("values", detail));
        }
        if asked.wait.is_some() {
            let detail = "listings of another instance can't be waited for; use GET /v1/instances/ID/watch";
            return Err(Problem::invalid("wait_for_change", detail));
        }
        self.may_read_below_other(peer, id, &asked.prefix)?;
        for _ in 0..ATTEMPTS {
            if let Some(listing) = self.foreign_pages(peer, id, &asked.prefix).await? {
                return self.shown_listing(peer, listing);
            }
        }
        Err(Problem::unsettled(&asked.prefix))
    }

    fn shown_listing(&self, peer: &Peer, mut listing: Listing) -> Outcome {
        let entries = std::mem::take(&mut listing.entries);
        let portion = self.portion(peer, entries.iter().map(held_by).sum())?;
        let entries = entries.into_iter().inspect(move |_| {
            let _until_the_last_is_written = &portion;
        });
        Ok(respond::listing(&listing, entries))
    }

    /// All pages of one state, as far as the rules show them; `None` if the state changed between two of them.
    async fn foreign_pages(
        &self,
        peer: &Peer,
        id: InstanceId,
        prefix: &PathPrefix,
    ) -> Result<Option<Listing>, Problem> {
        let (mut listing, mut after) = (None, None);
        loop {
            let list = List {
                instance: Some(id),
                prefix: prefix.clone(),
                after,
            };
            let page = self.backing.line.list(self.backing.asking(peer), &list).await;
            let (page, secrets) = page.map_err(Problem::from_host)?;
            let whole = listing.get_or_insert_with(|| begun(&page));
            if whole.revision != page.revision {
                return Ok(None);
            }
            after = page.entries.last().map(|last| last.path.clone());
            let entries = page.entries.into_iter().enumerate().filter(|(place, listed)| {
                let content = content(&secrets, *place);
                may_read_other(&self.backing.rules, peer, id, &listed.path, content)
            });
            whole.entries.extend(entries.map(|(_, listed)| entry(listed)));
            // A host that goes on past the bound, or without end, is not followed.
            if !page.more || after.is_none() || whole.entries.len() >= MAX_ENTRIES {
                return Ok(listing);
            }
        }
    }
}

/// The listing that a page is the first of, without its entries.
fn begun(page: &body::Listing) -> Listing {
    Listing {
        revision: page.revision,
        age_ms: u64::from(page.age_ms),
        freshness: page.freshness.into(),
        entries: Vec::new(),
    }
}

fn entry(listed: body::Listed) -> Entry {
    Entry {
        path: listed.path,
        revision: listed.revision,
        content_type: listed.content_type,
        length: u64::from(listed.length),
        value: None,
    }
}

/// How many bytes of memory an entry of a listing takes.
fn held_by(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.path.as_str().len() + entry.content_type.len()
}

/// Whether the rules let the peer read an entry of another instance.
pub(super) fn may_read_other(
    rules: &Rules,
    peer: &Peer,
    id: InstanceId,
    path: &str,
    content: Content,
) -> bool {
    rules.may_read(peer, &format!("instances/{id}/{path}"), content)
}

/// How the entry at this place is marked.
pub(super) fn content(secrets: &Secrets, place: usize) -> Content {
    if secrets.has(place) {
        Content::Secret
    } else {
        Content::Ordinary
    }
}

/// Waits until the entry is not what `known` says; without that, until it changes. What isn't shown is not there.
async fn changed(
    mut watching: Watching,
    path: &EntryPath,
    shows: impl Fn(Content) -> bool,
    mut known: Option<Etag>,
) -> Result<(), AskFailure> {
    loop {
        let batch = watching.next().await?;
        let items = batch.items.iter().enumerate();
        let present = match items.rev().find(|(_, item)| item.path == *path) {
            Some((place, item)) => {
                let entry = item
                    .entry
                    .as_ref()
                    .filter(|_| shows(content(&batch.secrets, place)));
                Some(entry.map_or(Revision::ZERO, |entry| entry.revision))
            }
            // A snapshot that doesn't name it says that it isn't there; a batch says nothing about it.
            None => batch.from.is_none().then_some(Revision::ZERO),
        };
        if let Some(present) = present
            && !known.get_or_insert(Etag::Revision(present)).is(present)
        {
            return Ok(());
        }
        watching.applied(batch.to);
    }
}
