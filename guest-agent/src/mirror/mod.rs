//! The local copy of what the instance may read. Pure: batches, paths and the time in, entries and changes out.
//!
//! [`Mirror`] stands at one revision. A batch brings it to the next one whole or not at all, so no reader ever sees
//! half of a change; a batch that builds on another revision than the mirror's is refused, and a revision never goes
//! back. It may stay: an entry that runs out goes without a commit. The last changes stay in a bounded [`log`], from
//! which watches resume; whoever asks for more than the log holds is told so and never skipped silently.
//!
//! Reads go on when the host is away: every answer has an age, which grows from the host's last word on, and is stale
//! once that is [`STALE_AFTER_MS`] old. While the host itself is cut off from the control plane its words make nothing
//! younger ([`Standing`]), and answers are stale at once. Nor do they where somebody on the way asks for what changes in
//! place of being told: then the host says of when its copy is, and how long that is fresh ([`Dated`]). An entry past its
//! validity is not given out.
//!
//! A mirror can begin with what was [`Kept`] of an earlier one. Then it holds part of what the instance has, says so
//! ([`Extent`]), and is stale until the host's first snapshot takes its place.
//!
//! This module is also for programs that want the mirror inside. [`Live`] adds waiting for changes to it, for the tasks
//! of one thread.

mod entry;
mod kept;
mod live;
mod log;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use moorline_shared::agent::Freshness;
use moorline_shared::digest::ViewDigest;
use moorline_shared::entry::{MAX_ENTRIES, MAX_INSTANCE_BYTES};
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Secrets};
use moorline_shared::link::session::DEAD_MS;
use moorline_shared::{Digest, EntryPath, PathPrefix, Revision};

pub use entry::{Entry, etag};
pub use kept::{Kept, MAX_FILE_BYTES, Origin, Stamp, Unreadable};
pub use live::Live;
pub use log::{Before, Change, Changed, Compacted, Cursor};

use log::ChangeLog;

/// An answer is stale once the host has been silent for so long, in milliseconds: when the link takes it for dead.
pub const STALE_AFTER_MS: u64 = DEAD_MS;

/// The entries of one instance at one revision, and the last changes.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    entries: BTreeMap<EntryPath, Arc<Entry>>,
    bytes: usize,
    position: Option<Position>,
    extent: Extent,
    standing: Standing,
    log: ChangeLog,
}

/// How much of what the instance has a mirror holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All of it, as the host gave it.
    #[default]
    Whole,
    /// What was kept of an earlier mirror: the entries below these prefixes, without the secret ones.
    Kept(Vec<PathPrefix>),
}

#[derive(Clone, Copy, Debug)]
struct Position {
    revision: Revision,
    known: Known,
    /// Until when it is fresh, if the host has said so.
    fresh_until: Option<Moment>,
}

/// When something was last known to be the present state. That may have been before this machine began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// When it was said.
    pub at: Moment,
    /// How old it was then, in milliseconds.
    pub age_ms: u64,
}

impl Known {
    fn just(now: Moment) -> Self {
        Self { at: now, age_ms: 0 }
    }

    fn age_ms(self, now: Moment) -> u64 {
        now.since(self.at).saturating_add(self.age_ms)
    }
}

/// What the host's words say about the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet: the session has just begun.
    Unsaid,
    /// Each word says that the mirror is the present state, once it stands at this revision.
    InStep(Revision),
    /// Nothing: the host is not in step itself. Its copy, if it can give it, stands at this revision, and it was so last then.
    Behind(Option<Revision>, Known),
    /// Nothing either, but once the mirror stands at this revision it is of a time that the host has said.
    AsOf(Revision, Dated),
}

/// Of when something is, and until when that counts as fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// When it was last known to be the present state.
    pub known: Known,
    /// From then on it is stale.
    pub fresh_until: Moment,
}

impl Default for Standing {
    /// What holds of a host that doesn't speak of itself.
    fn default() -> Self {
        Self::InStep(Revision::ZERO)
    }
}

/// A batch as it comes over the guest link.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it builds on; `None` for a snapshot, which replaces everything.
    pub from: Option<Revision>,
    /// Where the mirror stands then.
    pub to: Revision,
    /// What changed.
    pub items: Vec<Item>,
    /// Which of these are secret.
    pub secrets: Secrets,
}

/// Why a batch was not applied. The mirror is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something between is missing.
    #[error("the batch builds on revision {from}, but the mirror stands at {}", shown(*at))]
    Gap {
        /// What the batch builds on.
        from: Revision,
        /// Where the mirror stands.
        at: Option<Revision>,
    },
    /// It would bring the past back.
    #[error("the batch leads back to revision {to}, but the mirror stands at {at}")]
    Backwards {
        /// Where the batch leads.
        to: Revision,
        /// Where the mirror stands.
        at: Revision,
    },
    /// There would be more than an instance may have.
    #[error(
        "the mirror would have {entries} entries with {bytes} bytes; the most are {MAX_ENTRIES} with {MAX_INSTANCE_BYTES}"
    )]
    TooMuch {
        /// How many entries there would be.
        entries: usize,
        /// How many bytes their values would have together.
        bytes: usize,
    },
}

fn shown(at: Option<Revision>) -> String {
    at.map_or_else(|| "no revision yet".to_owned(), |at| at.to_string())
}

/// What the mirror has under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The entry, valid now.
    Found(&'a Arc<Entry>),
    /// An entry whose validity has passed.
    Expired(&'a Arc<Entry>),
    /// Nothing.
    Absent,
    /// Nothing, but the mirror holds only what was kept of an earlier one: there may be something.
    Unknown,
}

/// How old an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// How long ago this was known to be the present state, in milliseconds.
    pub ms: u64,
    /// What follows from that.
    pub freshness: Freshness,
}

impl Mirror {
    /// Applies a batch that came at `now`, whole or not at all. A snapshot of a time before what is shown is passed over
    /// while the host says that it is behind. What the host sends of changes to that one later doesn't fit, and has everything
    /// asked for anew.
    ///
    /// # Errors
    /// [`Refusal`] if the batch doesn't fit; the mirror is as it was.
    pub fn apply(&mut self, batch: Batch, now: Moment) -> Result<(), Refusal> {
        match self.judge(&batch) {
            Err(Refusal::Backwards { .. }) if batch.from.is_none() && self.is_behind() => return Ok(()),
            judged => judged?,
        }
        let to = batch.to;
        let secrets = batch.secrets;
        let items = batch.items.into_iter().enumerate().map(|(place, item)| {
            let entry = item.entry.map(|mirrored| {
                let entry = Entry::new(&item.path, mirrored, now);
                Arc::new(if secrets.has(place) { entry.secret() } else { entry })
            });
            (item.path, entry)
        });
        let items: Vec<_> = items.collect();
        match batch.from {
            None => self.replace(items, to)?,
            Some(_) => self.change(items, to)?,
        }
        // What comes first was the present state at least for the host, and by the host's word just now.
        let known = match (self.standing, self.position.filter(|_| self.is_whole())) {
            (Standing::Behind(_, known), _) => known,
            (_, Some(before)) => before.known,
            (Standing::AsOf(_, dated), None) => dated.known,
            (_, None) => Known::just(now),
        };
        self.position = Some(Position {
            revision: to,
            known,
            fresh_until: self.position.and_then(|before| before.fresh_until),
        });
        self.extent = Extent::Whole;
        self.date(now);
        self.heard(now);
        Ok(())
    }

    /// The mirror is of the time that the host has said, if it stands where that counts.
    fn date(&mut self, now: Moment) {
        let (Some(position), Standing::AsOf(from, dated)) = (&mut self.position, self.standing) else {
            return;
        };
        if position.revision >= from && self.extent == Extent::Whole {
            // Both are true, and the younger says more.
            if dated.known.age_ms(now) < position.known.age_ms(now) {
                position.known = dated.known;
            }
            position.fresh_until = Some(dated.fresh_until);
        }
    }

    /// Begins with what was kept of an earlier mirror, at `now`; does nothing once there is anything. What is kept of more
    /// than an instance may have is refused.
    pub fn restore(&mut self, kept: Kept, now: &Stamp) -> Result<(), Refusal> {
        if self.position.is_some() {
            return Ok(());
        }
        let (known, moment) = (kept.known(now), now.moment());
        let items = kept.items_at(now);
        let items = items.map(|(path, entry)| {
            let entry = Arc::new(Entry::new(&path, entry, moment));
            (path, Some(entry))
        });
        self.replace(items.collect(), kept.revision)?;
        let revision = kept.revision;
        self.position = Some(Position {
            revision,
            known,
            fresh_until: None,
        });
        self.extent = Extent::Kept(kept.below);
        Ok(())
    }

    fn judge(&self, batch: &Batch) -> Result<(), Refusal> {
        let at = self.applied();
        if let Some(from) = batch.from
            && Some(from) != at
        {
            return Err(Refusal::Gap { from, at });
        }
        // What a reader was shown never goes back, even if it was what had been kept.
        match self.revision() {
            Some(at) if batch.to < at => Err(Refusal::Backwards { to: batch.to, at }),
            _ => Ok(()),
        }
    }

    /// A snapshot. What differs from before goes to the log, so that watches live through it.
    fn replace(&mut self, items: Vec<(EntryPath, Option<Arc<Entry>>)>, to: Revision) -> Result<(), Refusal> {
        let entries: BTreeMap<_, _> = items
            .into_iter()
            .filter_map(|(path, entry)| entry.map(|entry| (path, entry)))
            .collect();
        let bytes = entries.values().map(|entry| entry.value().len()).sum();
        bounded(entries.len(), bytes)?;
        let before = std::mem::replace(&mut self.entries, entries);
        self.bytes = bytes;
        match self.applied() {
            None => self.log.begin(to),
            Some(from) => self.log.push(from, to, difference(&before, &self.entries)),
        }
        Ok(())
    }

    fn change(&mut self, items: Vec<(EntryPath, Option<Arc<Entry>>)>, to: Revision) -> Result<(), Refusal> {
        let (entries, bytes) = self.size_after(&items);
        bounded(entries, bytes)?;
        let changed = items.into_iter().map(|(path, entry)| {
            let before = match &entry {
                Some(entry) => self.entries.insert(path.clone(), Arc::clone(entry)),
                None => self.entries.remove(&path),
            };
            let before = Before::of(before.as_ref());
            Changed { path, before, entry }
        });
        let changed = changed.collect();
        self.bytes = bytes;
        self.log.push(self.revision().unwrap_or(to), to, changed);
        Ok(())
    }

    /// How many entries and bytes there would be with `items`; of a path that comes twice the last counts.
    fn size_after(&self, items: &[(EntryPath, Option<Arc<Entry>>)]) -> (usize, usize) {
        let last: BTreeMap<&EntryPath, _> =
            items.iter().map(|(path, entry)| (path, entry.as_ref())).collect();
        let (mut entries, mut bytes) = (self.entries.len(), self.bytes);
        for (path, after) in last {
            if let Some(before) = self.entries.get(path) {
                entries -= 1;
                bytes -= before.value().len();
            }
            if let Some(after) = after {
                entries += 1;
                bytes += after.value().len();
            }
        }
        (entries, bytes)
    }

    /// The host spoke at `now`: what the mirror holds was the present state then, if the host is in step itself.
    pub fn heard(&mut self, now: Moment) {
        if let (Some(position), Standing::InStep(from), Extent::Whole) =
            (&mut self.position, self.standing, &self.extent)
            && position.revision >= from
        {
            position.known = Known::just(now);
        }
    }

    /// The host says at `now` what its words mean from now on.
    pub fn stand(&mut self, standing: Standing, now: Moment) {
        self.standing = standing;
        if let (Some(position), Standing::Behind(stands, known), Extent::Whole) =
            (&mut self.position, standing, &self.extent)
        {
            // What is said of another copy than this makes it no younger.
            let is_of_this = stands == Some(position.revision);
            if is_of_this || known.age_ms(now) > position.known.age_ms(now) {
                position.known = known;
            }
        }
        if let (Some(position), Standing::InStep(_) | Standing::Behind(..)) = (&mut self.position, standing) {
            position.fresh_until = None;
        }
        self.date(now);
        self.heard(now);
    }

    /// Drops everything: these entries belong to another life of the VM or to another deployment.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.position = None;
        self.extent = Extent::Whole;
        self.log.begin(Revision::ZERO);
    }

    /// Where the mirror stands; `None` while there is nothing.
    pub fn revision(&self) -> Option<Revision> {
        self.position.map(|position| position.revision)
    }

    /// Where the host brought it; `None` before the first snapshot, whatever was kept of an earlier mirror.
    pub fn applied(&self) -> Option<Revision> {
        self.revision().filter(|_| self.is_whole())
    }

    /// Whether the host says that it is not in step itself.
    fn is_behind(&self) -> bool {
        matches!(self.standing, Standing::Behind(..))
    }

    /// Whether it shows something later than `revision` because the host, as it says, is behind.
    pub fn is_ahead_of(&self, revision: Revision) -> bool {
        self.is_behind() && self.revision() > Some(revision)
    }

    fn is_whole(&self) -> bool {
        self.extent == Extent::Whole
    }

    /// Whether it holds everything below `prefix`, secret entries aside.
    pub fn reaches(&self, prefix: &PathPrefix) -> bool {
        match &self.extent {
            Extent::Whole => true,
            Extent::Kept(below) => below.iter().any(|kept| kept.includes(prefix)),
        }
    }

    /// How old answers are at `now`; `None` while there is nothing.
    pub fn age(&self, now: Moment) -> Option<Age> {
        let position = self.position?;
        let ms = position.known.age_ms(now);
        let old = match position.fresh_until {
            Some(until) => until <= now,
            None => ms > STALE_AFTER_MS,
        };
        let freshness = if self.is_behind() || !self.is_whole() || old {
            Freshness::Stale
        } else {
            Freshness::Fresh
        };
        Some(Age { ms, freshness })
    }

    /// What there is under `path` at `now`.
    pub fn get(&self, path: &str, now: Moment) -> Lookup<'_> {
        match self.entries.get(path) {
            Some(entry) if entry.is_valid(now) => Lookup::Found(entry),
            Some(entry) => Lookup::Expired(entry),
            None => self.nothing(),
        }
    }

    /// What it says of a path that it holds nothing of.
    pub fn nothing(&self) -> Lookup<'_> {
        if self.is_whole() {
            Lookup::Absent
        } else {
            Lookup::Unknown
        }
    }

    /// The entry under `path`, whether it is valid or not.
    pub fn peek(&self, path: &str) -> Option<&Arc<Entry>> {
        self.entries.get(path)
    }

    /// The entries below `prefix` that are valid at `now`, in byte order of their paths.
    pub fn list<'a>(&'a self, prefix: &'a PathPrefix, now: Moment) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = self
            .entries
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        let below = from.take_while(|(path, _)| path.starts_with(prefix.as_str()));
        let covered = below.filter(|(path, _)| prefix.covers(path));
        covered
            .map(|(_, entry)| entry)
            .filter(move |entry| entry.is_valid(now))
    }

    /// How many entries there are, those past their validity included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The length of all values together, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What all of it comes to, by which the host's copy and this one are compared. It looks at every byte.
    pub fn digest(&self) -> Digest {
        ViewDigest::of(self.entries.values().map(|entry| entry.row()))
    }

    /// Where a watch of what comes from now on begins.
    pub fn cursor(&self) -> Cursor {
        self.log.end()
    }

    /// Where a watch of what came after `revision` begins, if the log reaches back so far.
    pub fn cursor_after(&self, revision: Revision) -> Result<Cursor, Compacted> {
        self.log.after(revision, self.revision().unwrap_or_default())
    }

    /// The oldest change behind `cursor`, and the cursor behind it; `None` if there is none yet.
    pub fn next_change(&self, cursor: Cursor) -> Result<Option<(&Arc<Change>, Cursor)>, Compacted> {
        self.log.next(cursor)
    }

    /// The revision at which a commit removed `path`, as far back as the log goes, and what it removed. What ran out was
    /// removed by none.
    pub fn removed_at(&self, path: &str) -> Option<(Revision, Before)> {
        self.log.removed_at(path)
    }
}

fn bounded(entries: usize, bytes: usize) -> Result<(), Refusal> {
    if entries > MAX_ENTRIES || bytes > MAX_INSTANCE_BYTES {
        Err(Refusal::TooMuch { entries, bytes })
    } else {
        Ok(())
    }
}

/// What leads from one state to another.
fn difference(
    before: &BTreeMap<EntryPath, Arc<Entry>>,
    after: &BTreeMap<EntryPath, Arc<Entry>>,
) -> Vec<Changed> {
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    let gone = gone.map(|path| (path, None));
    let changed = after
        .iter()
        .filter(|(path, entry)| before.get(*path).is_none_or(|before| !before.is_same(entry)));
    let all = gone.chain(changed.map(|(path, entry)| (path, Some(Arc::clone(entry)))));
    all.map(|(path, entry)| Changed {
        path: path.clone(),
        before: Before::of(before.get(path)),
        entry,
    })
    .collect()
}
