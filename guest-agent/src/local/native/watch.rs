//! The stream of changes: whole batches, and never one left out in silence.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::stream::{self, Stream, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use moorline_shared::agent::{Entry, EntryChange, WatchEvent};
use moorline_shared::link::body::{Item, Secrets, Watch};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};

use super::Native;
use super::answer::Outcome;
use super::document::Document;
use super::foreign::{content, may_read_other};
use super::params::Params;
use super::problem::Problem;
use super::respond::{Values, json_entry};
use crate::access::Content;
use crate::link::{AskFailure, WatchBatch, Watching};
use crate::local::Backing;
use crate::local::body::Body;
use crate::local::connection::{Asker, Busy};
use crate::local::view::View;
use crate::mirror::{Change, Compacted, Cursor, Mirror};

impl Native {
    /// `GET /v1/watch`. The stream ends with a resync, with the connection, or with the agent.
    pub(super) async fn watch(
        &self,
        asker: &Rc<Asker<()>>,
        other: Option<InstanceId>,
        mut params: Params<'_>,
    ) -> Outcome {
        let prefix: PathPrefix = params.value("prefix")?.unwrap_or_default();
        let after: Option<Revision> = params.value("after")?;
        params.finish()?;
        match other {
            None => {
                self.first_snapshot().await?;
                let own = Own::begin((Rc::clone(&self.backing), Rc::clone(asker)), prefix, after);
                Ok(lines(stream::unfold(own, Own::next), asker.busy()))
            }
            Some(id) => {
                self.may_read_below_other(&asker.peer, id, &prefix)?;
                let watch = Watch {
                    instance: Some(id),
                    prefix,
                };
                // The first batch comes with it, so that a refusal becomes a status and not a broken stream.
                let asking = self.backing.asking(&asker.peer);
                let watching = self.backing.line.watch(asking, &watch).await;
                let watching = watching.map_err(Problem::from_host)?;
                let foreign = Foreign {
                    backing: Rc::clone(&self.backing),
                    asker: Rc::clone(asker),
                    id,
                    watching,
                    after,
                    begun: Begun::No,
                    present: BTreeMap::new(),
                };
                Ok(lines(stream::unfold(Some(foreign), Foreign::step), asker.busy()))
            }
        }
    }
}

fn lines(events: impl Stream<Item = WatchEvent> + 'static, busy: Busy) -> Response<Body> {
    let pieces = events.flat_map(move |event| {
        let _under_way = &busy;
        stream::iter(Document::line(event))
    });
    let mut response = Response::new(Body::Pieces(pieces.boxed_local()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// A watch of the instance's own data. It holds a place in the mirror's log and no changes, so a reader that doesn't
/// read costs nothing but its place, and is told when that is lost.
struct Own {
    backing: Rc<Backing>,
    asker: Rc<Asker<()>>,
    prefix: PathPrefix,
    place: Place,
}

enum Place {
    /// A bookmark is due, then changes from here on.
    Bookmark(Revision, Cursor),
    At(Cursor),
    Lost(Compacted),
    Ended,
}

impl Own {
    fn begin(
        (backing, asker): (Rc<Backing>, Rc<Asker<()>>),
        prefix: PathPrefix,
        after: Option<Revision>,
    ) -> Self {
        let place = match after {
            None => {
                let present = backing.given.mirror.read();
                Place::Bookmark(present.revision().unwrap_or_default(), present.cursor())
            }
            Some(after) => backing
                .given
                .mirror
                .read()
                .cursor_after(after)
                .map_or_else(Place::Lost, Place::At),
        };
        Self {
            backing,
            asker,
            prefix,
            place,
        }
    }

    async fn next(mut self) -> Option<(WatchEvent, Self)> {
        if let Place::At(cursor) = self.place {
            let prefix = &self.prefix;
            let (event, place) = {
                let look =
                    |mirror: &Mirror| step(self.backing.seen(mirror, &self.asker.peer), prefix, cursor);
                self.backing.given.mirror.until(look).await
            };
            self.place = place;
            return Some((event, self));
        }
        let (event, place) = match std::mem::replace(&mut self.place, Place::Ended) {
            Place::Bookmark(revision, cursor) => (WatchEvent::Bookmark { revision }, Place::At(cursor)),
            Place::Lost(Compacted { oldest }) => (WatchEvent::Resync { revision: oldest }, Place::Ended),
            Place::At(_) | Place::Ended => return None,
        };
        self.place = place;
        Some((event, self))
    }
}

/// The next event behind `cursor`: a change of what is watched, or a bookmark behind those that touch nothing of it.
fn step(view: View<'_>, prefix: &PathPrefix, mut cursor: Cursor) -> Option<(WatchEvent, Place)> {
    let mut passed = None;
    loop {
        match view.mirror.next_change(cursor) {
            Err(Compacted { oldest }) => {
                return Some((WatchEvent::Resync { revision: oldest }, Place::Ended));
            }
            Ok(None) => {
                return passed.map(|revision| (WatchEvent::Bookmark { revision }, Place::At(cursor)));
            }
            Ok(Some((change, next))) if view.touches(change, prefix) => {
                return Some((changes(view, change, prefix), Place::At(next)));
            }
            Ok(Some((change, next))) => {
                passed = Some(change.revision());
                cursor = next;
            }
        }
    }
}

fn changes(view: View<'_>, change: &Change, prefix: &PathPrefix) -> WatchEvent {
    let changes = view.below(change, prefix).map(|(path, entry)| EntryChange {
        path: path.clone(),
        entry: entry.map(|entry| json_entry(entry, Values::Included)),
    });
    WatchEvent::Changes {
        revision: change.revision(),
        changes: changes.collect(),
    }
}

/// A watch of another instance's data. The host sends the next batch only when this reader took the last one, and
/// merges what happens meanwhile.
struct Foreign {
    backing: Rc<Backing>,
    asker: Rc<Asker<()>>,
    id: InstanceId,
    watching: Watching,
    after: Option<Revision>,
    begun: Begun,
    /// What the host showed last, and how it is marked: what was never shown is never said to be gone.
    present: BTreeMap<EntryPath, Content>,
}

/// Whether the state from which the changes go on is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    At(Revision),
}

impl Foreign {
    async fn step(foreign: Option<Self>) -> Option<(WatchEvent, Option<Self>)> {
        let mut foreign = foreign?;
        let batch = foreign.watching.next().await;
        let event = foreign.event(batch);
        let ends = matches!(event, WatchEvent::Resync { .. });
        Some((event, (!ends).then_some(foreign)))
    }

    /// The changes that the rules show. What was shown and may not be read any more is gone.
    fn changes(&mut self, items: Vec<Item>, secrets: &Secrets) -> Vec<EntryChange> {
        let mut changes = Vec::new();
        for (place, mut item) in items.into_iter().enumerate() {
            let after = item.entry.as_ref().map(|_| content(secrets, place));
            let before = match after {
                Some(content) => self.present.insert(item.path.clone(), content),
                None => self.present.remove(&item.path),
            };
            let shows =
                |content: Option<Content>| content.is_some_and(|content| self.shows(&item.path, content));
            let (was_shown, is_shown) = (shows(before), shows(after));
            item.entry = item.entry.filter(|_| is_shown);
            if was_shown || is_shown {
                changes.push(change_of(item));
            }
        }
        changes
    }

    fn shows(&self, path: &EntryPath, content: Content) -> bool {
        may_read_other(&self.backing.rules, &self.asker.peer, self.id, path, content)
    }

    fn event(&mut self, batch: Result<WatchBatch, AskFailure>) -> WatchEvent {
        let at = match self.begun {
            Begun::No => None,
            Begun::At(revision) => Some(revision),
        };
        let Ok(batch) = batch else {
            return WatchEvent::Resync {
                revision: at.unwrap_or_default(),
            };
        };
        self.watching.applied(batch.to);
        self.begun = Begun::At(batch.to);
        let changes = self.changes(batch.items, &batch.secrets);
        match (at, batch.from) {
            // The first batch is the state from which changes go on; whoever has another one has to list again.
            (None, None) if self.after.is_none_or(|after| after == batch.to) => {
                WatchEvent::Bookmark { revision: batch.to }
            }
            (_, None) => WatchEvent::Resync { revision: batch.to },
            (_, Some(_)) => WatchEvent::Changes {
                revision: batch.to,
                changes,
            },
        }
    }
}

fn change_of(item: Item) -> EntryChange {
    let path = item.path;
    let entry = item.entry.map(|entry| Entry {
        path: path.clone(),
        revision: entry.revision,
        content_type: entry.content_type,
        length: entry.value.len() as u64,
        value: Some(entry.value),
    });
    EntryChange { path, entry }
}
