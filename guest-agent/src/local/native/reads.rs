//! Reads of the instance's own data: from the mirror, and through the host where the mirror won't do.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use moorline_shared::agent::{EntryReading, FRESHNESS, Listing};
use moorline_shared::entry::Value;
use moorline_shared::link::body::{Found, Get};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};
use tokio::time::{Instant, timeout};

use super::Native;
use super::answer::Outcome;
use super::foreign::may_read_other;
use super::params::{Etag, Params, Wait};
use super::problem::Problem;
use super::respond::{self, Values, entry_bytes, json, json_entry, text};
use crate::access::{Content, Peer};
use crate::link::Asking;
use crate::local::portions::Portion;
use crate::local::view::View;
use crate::mirror::{Compacted, Cursor, Entry, Lookup, Mirror, etag};
use crate::platform::now;

/// What a listing shows.
#[derive(Debug)]
pub(super) struct ListAsked {
    pub(super) prefix: PathPrefix,
    pub(super) values: Values,
    pub(super) wait: Option<Wait>,
}

/// How a single entry is to be read.
#[derive(Debug)]
struct EntryAsked<'a> {
    path: &'a str,
    wait: Option<Wait>,
    max_age_ms: Option<u32>,
}

/// What there is under a path now.
enum State {
    Present(Arc<Entry>),
    Expired,
    /// Nothing; since when, as far as that is known.
    Absent(Revision),
    /// Nothing is known of it until the host gives its data.
    Unknown,
}

impl State {
    fn of(view: View<'_>, path: &str) -> Self {
        match view.get(path, now()) {
            Lookup::Found(entry) => Self::Present(Arc::clone(entry)),
            Lookup::Expired(_) => Self::Expired,
            Lookup::Absent => Self::Absent(view.removed_at(path)),
            Lookup::Unknown => Self::Unknown,
        }
    }

    fn revision(&self) -> Revision {
        match self {
            Self::Present(entry) => entry.revision(),
            Self::Expired | Self::Unknown => Revision::ZERO,
            Self::Absent(removed) => *removed,
        }
    }

    /// For how long it stays so if the host says nothing.
    fn lasts(&self) -> Option<Duration> {
        match self {
            Self::Present(entry) => entry
                .expires_at()
                .map(|at| Duration::from_millis(at.since(now()))),
            _ => None,
        }
    }
}

impl Native {
    /// `GET /v1/data/...`: an entry's bytes, or a listing.
    pub(super) async fn read(
        &self,
        peer: &Peer,
        other: Option<InstanceId>,
        path: &str,
        mut params: Params<'_>,
        headers: &HeaderMap,
    ) -> Outcome {
        let recursive = params.flag("recursive")?;
        if path.is_empty() || path.ends_with('/') || recursive {
            return self.list(peer, other, path, params).await;
        }
        let asked = entry_asked(path, params)?;
        match other {
            Some(id) => {
                self.foreign_bytes(peer, id, path, asked.wait, asked.max_age_ms, headers)
                    .await
            }
            None => self.own_bytes(peer, asked, headers).await,
        }
    }

    async fn list(
        &self,
        peer: &Peer,
        other: Option<InstanceId>,
        path: &str,
        mut params: Params<'_>,
    ) -> Outcome {
        let below = |text: &str| text.parse().map_err(|error| Problem::invalid("prefix", error));
        let prefix = match params.text("prefix") {
            Some(text) if path.is_empty() => below(&text)?,
            Some(_) => {
                return Err(Problem::invalid(
                    "prefix",
                    "the path already says which entries are meant",
                ));
            }
            None => below(path)?,
        };
        let values = if params.flag("values")? {
            Values::Included
        } else {
            Values::Omitted
        };
        let wait = params.wait()?;
        params.finish()?;
        let asked = ListAsked { prefix, values, wait };
        match other {
            Some(id) => self.foreign_listing(peer, id, asked).await,
            None => self.own_listing(peer, &asked).await,
        }
    }

    /// `GET /v1/entries/{path}`.
    pub(super) async fn describe(
        &self,
        peer: &Peer,
        other: Option<InstanceId>,
        path: &str,
        params: Params<'_>,
    ) -> Outcome {
        let asked = entry_asked(path, params)?;
        if asked.wait.is_some() {
            return Err(Problem::invalid(
                "wait_for_change",
                "long polls are for /v1/data; watch with /v1/watch",
            ));
        }
        if let Some(id) = other {
            self.may_read_other(peer, id, path)?;
            return self.reading_from_host(peer, other, path, asked.max_age_ms).await;
        }
        self.first_snapshot().await?;
        let Some(entry) = self.present(peer, &asked)? else {
            self.may_ask(peer, path)?;
            return self.reading_from_host(peer, None, path, asked.max_age_ms).await;
        };
        let age = self
            .backing
            .given
            .mirror
            .read()
            .age(now())
            .ok_or_else(Problem::not_ready)?;
        Ok(json(&EntryReading {
            path: entry.path().clone(),
            revision: entry.revision(),
            content_type: text(entry.content_type()),
            length: entry.value().len() as u64,
            value: Value::clone(entry.value()),
            age_ms: age.ms,
            freshness: age.freshness,
        }))
    }

    async fn reading_from_host(
        &self,
        peer: &Peer,
        other: Option<InstanceId>,
        path: &str,
        max_age_ms: Option<u32>,
    ) -> Outcome {
        let found = self.ask_host(peer, other, path, max_age_ms).await?;
        Ok(json(&EntryReading {
            path: path.parse().map_err(|error| Problem::invalid("path", error))?,
            revision: found.revision,
            content_type: found.content_type.into_owned(),
            length: u64::from(found.length),
            value: Value::from(bytes::Bytes::from(found.value.into_owned())),
            age_ms: u64::from(found.age_ms),
            freshness: found.freshness.into(),
        }))
    }

    /// Waits for the first snapshot for a while: right after the boot it is on its way. What was kept of an earlier mirror
    /// will do, too.
    pub(super) async fn first_snapshot(&self) -> Result<(), Problem> {
        let first = self
            .backing
            .given
            .mirror
            .until(|mirror| mirror.revision().map(|_| ()));
        timeout(self.backing.settings.first_wait, first)
            .await
            .map_err(|_| Problem::not_ready())
    }

    async fn own_bytes(&self, peer: &Peer, asked: EntryAsked<'_>, headers: &HeaderMap) -> Outcome {
        self.first_snapshot().await?;
        if let Some(wait) = &asked.wait {
            self.until_changed(peer, asked.path, wait).await;
        }
        let Some(entry) = self.present(peer, &asked)? else {
            self.may_ask(peer, asked.path)?;
            let found = self.ask_host(peer, None, asked.path, asked.max_age_ms).await?;
            return self.found_bytes(peer, found, headers);
        };
        let age = self
            .backing
            .given
            .mirror
            .read()
            .age(now())
            .ok_or_else(Problem::not_ready)?;
        Ok(entry_bytes(
            &entry,
            age.freshness,
            self.backing.given.mirror.age_header(age.ms),
            headers,
        ))
    }

    /// The entry if the mirror's answer will do, `None` if the host must be asked.
    fn present(&self, peer: &Peer, asked: &EntryAsked<'_>) -> Result<Option<Arc<Entry>>, Problem> {
        let mirror = self.backing.given.mirror.read();
        let age = mirror.age(now()).ok_or_else(Problem::not_ready)?;
        if asked.max_age_ms.is_some_and(|most| age.ms > u64::from(most)) {
            return if self.backing.line.is_away() {
                Err(Problem::too_old(age.ms))
            } else {
                Ok(None)
            };
        }
        match State::of(self.backing.seen(&mirror, peer), asked.path) {
            State::Present(entry) => Ok(Some(entry)),
            State::Expired if self.backing.line.is_away() => Err(Problem::expired(asked.path)),
            State::Unknown if self.backing.line.is_away() => Err(Problem::not_ready()),
            State::Expired | State::Unknown => Ok(None),
            State::Absent(removed) => Err(Problem::absent(asked.path, removed)),
        }
    }

    /// What the peer may not read, nobody asks the host for on its behalf.
    fn may_ask(&self, peer: &Peer, path: &str) -> Result<(), Problem> {
        let mirror = self.backing.given.mirror.read();
        if self.backing.seen(&mirror, peer).may_ask(path) {
            Ok(())
        } else {
            Err(Problem::absent(path, Revision::ZERO))
        }
    }

    /// Waits until there is something else under `path` than the client has, or for as long as it wants to wait.
    async fn until_changed(&self, peer: &Peer, path: &str, wait: &Wait) {
        let deadline = Instant::now() + wait.timeout;
        let state = |mirror: &Mirror| State::of(self.backing.seen(mirror, peer), path);
        let present = || state(&self.backing.given.mirror.read()).revision();
        let known = wait.last_etag.unwrap_or_else(|| Etag::Revision(present()));
        loop {
            let present = state(&self.backing.given.mirror.read());
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !known.is(present.revision()) {
                return;
            }
            // An entry may also change by running out, of which nobody is told.
            let look_again = present.lasts().map_or(left, |lasts| left.min(lasts));
            let changed = self
                .backing
                .given
                .mirror
                .until(|mirror| (!known.is(state(mirror).revision())).then_some(()));
            // If the time runs out first, the next round sees why.
            let _ = timeout(look_again, changed).await;
        }
    }

    async fn own_listing(&self, peer: &Peer, asked: &ListAsked) -> Outcome {
        self.first_snapshot().await?;
        if let Some(wait) = &asked.wait {
            self.until_touched(peer, &asked.prefix, wait).await;
        }
        let now = now();
        let mirror = self.backing.given.mirror.read();
        let (Some(revision), Some(age)) = (mirror.revision(), mirror.age(now)) else {
            return Err(Problem::not_ready());
        };
        if !mirror.reaches(&asked.prefix) {
            return Err(Problem::not_ready());
        }
        // One state, kept by its pointers while it is written.
        let seen = self.backing.seen(&mirror, peer);
        let entries: Vec<Arc<Entry>> = seen.list(&asked.prefix, now).cloned().collect();
        let head = Listing {
            revision,
            age_ms: age.ms,
            freshness: age.freshness,
            entries: Vec::new(),
        };
        let values = asked.values;
        let entries = entries.into_iter().map(move |entry| json_entry(&entry, values));
        let mut response = respond::listing(&head, entries);
        response
            .headers_mut()
            .insert(FRESHNESS, HeaderValue::from_static(age.freshness.as_str()));
        Ok(response)
    }

    /// Waits until something below `prefix` changes after what the client has.
    async fn until_touched(&self, peer: &Peer, prefix: &PathPrefix, wait: &Wait) {
        let begin = {
            let mirror = self.backing.given.mirror.read();
            match wait.last_etag {
                Some(Etag::Other) => return,
                Some(Etag::Revision(known)) if Some(known) != mirror.revision() => mirror.cursor_after(known),
                _ => Ok(mirror.cursor()),
            }
        };
        let Ok(mut cursor) = begin else {
            return;
        };
        let touched = self.backing.given.mirror.until(|mirror| {
            touched_after(self.backing.seen(mirror, peer), prefix, &mut cursor).then_some(())
        });
        // Running out of time is an answer, too: the present state.
        let _ = timeout(wait.timeout, touched).await;
    }

    /// Asks the host for an entry.
    pub(super) async fn ask_host(
        &self,
        peer: &Peer,
        other: Option<InstanceId>,
        path: &str,
        max_age_ms: Option<u32>,
    ) -> Result<Found<'static>, Problem> {
        EntryPath::check(path).map_err(|error| Problem::invalid("path", error))?;
        let get = Get {
            instance: other,
            path: path.into(),
            max_age_ms,
        };
        let answer = self.backing.line.get(self.backing.asking(peer), &get).await;
        let (found, secrets) = answer.map_err(Problem::from_host)?;
        let rules = &self.backing.rules;
        let shown = match other {
            _ if !secrets.has(0) => true,
            Some(id) => may_read_other(rules, peer, id, path, Content::Secret),
            None => rules.may_read(peer, path, Content::Secret),
        };
        if shown {
            Ok(found)
        } else {
            Err(Problem::absent(path, Revision::ZERO))
        }
    }

    /// What the host found, as bytes.
    pub(super) fn found_bytes(&self, peer: &Peer, found: Found<'static>, headers: &HeaderMap) -> Outcome {
        let content_type = HeaderValue::from_str(&found.content_type);
        let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        let freshness = found.freshness.into();
        let age = self.backing.given.mirror.age_header(u64::from(found.age_ms));
        let value = found.value.into_owned();
        let value = self.portion(peer, value.len())?.holding(value);
        let (etag, known) = (etag(found.revision), (freshness, age));
        Ok(respond::bytes(&content_type, &etag, &value, known, headers))
    }

    /// Room for an answer that the mirror doesn't hold anyway.
    pub(super) fn portion(&self, peer: &Peer, bytes: usize) -> Result<Portion, Problem> {
        match self.backing.asking(peer) {
            Asking::Agent => Ok(Portion::unbounded()),
            Asking::User(_) => self.portions.take(bytes).ok_or_else(Problem::too_much_unread),
        }
    }
}

fn entry_asked<'a>(path: &'a str, mut params: Params<'_>) -> Result<EntryAsked<'a>, Problem> {
    EntryPath::check(path).map_err(|error| Problem::invalid("path", error))?;
    let (wait, max_age_ms) = (params.wait()?, params.value("max_age_ms")?);
    params.finish()?;
    Ok(EntryAsked {
        path,
        wait,
        max_age_ms,
    })
}

/// Whether anything below `prefix` changed behind `cursor`, which follows; also true where nobody can tell any more.
fn touched_after(view: View<'_>, prefix: &PathPrefix, cursor: &mut Cursor) -> bool {
    loop {
        match view.mirror.next_change(*cursor) {
            Err(Compacted { .. }) => return true,
            Ok(None) => return false,
            Ok(Some((change, _))) if view.touches(change, prefix) => return true,
            Ok(Some((_, next))) => *cursor = next,
        }
    }
}
