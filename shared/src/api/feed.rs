//! The feed: one stream from the control plane to each host, a line of JSON per message.
//!
//! A *view* is what a reader may see of an instance. Every instance on a host reads itself, so the host has the view
//! `(i, i)` of each; where a guest reads another instance's data, the host asks for the view `(reader, instance)` too.
//! A view holds only what the reader may read, so a right that is withdrawn arrives as a removal.
//!
//! No line is longer than [`MAX_LINE_BYTES`]; what takes more comes in several lines, in this order:
//!
//! * `hello`, once, and then a snapshot, which brings the host to where the feed begins;
//! * a snapshot: `snapshot`, any number of `part`s and `more`s, `snapshot_end`. Its items are first every instance that
//!   is the host's, so that one that isn't named is no more, and then the views that may have changed since the cursor.
//!   Each view is whole, and may be shown as soon as the next line is not a `more` of it: a host needs room for one
//!   view beside what it keeps. A host that loses the feed before `snapshot_end` stands where it stood;
//! * then batches and bookmarks. A batch is any number of `resync`s, `part`s and `more`s, closed by `batch`, and is
//!   applied whole or not at all. Its values take 4 MiB at most: what takes more is named by `resync`.
//!
//! `revoked` says that something is worth nothing from now on, and belongs to none of these: what was revoked since the
//! host's cursor (everything that may still matter, where the host goes on from nothing) comes between `hello` and
//! `snapshot`, and what is revoked later comes between any two lines, before whatever else waits. `snapshot` and each
//! `bookmark` say that everything was told that was revoked until then. A host that has heard neither for
//! [`MAX_SILENCE_MS`] doesn't know what was revoked meanwhile: before it gives a token out or vouches for a request it
//! asks the control plane, and where it can't, it refuses.
//!
//! A feed need not stay open. With `poll` of [`OpenFeed`] it is one, long or short: the same lines from `hello` to a
//! `bookmark`, and then the end. Where the host stands right already `hello` and `bookmark` are all of it. The host comes
//! again when it likes; what was revoked meanwhile it learns then, and until then the rule above holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::instances::{Desired, Driver};
use crate::digest::Digest;
use crate::entry::{ContentType, Value};
use crate::id::{AccountId, HostId, ImageName, InstanceId, RoleName};
use crate::path::EntryPath;
use crate::revision::Revision;

/// The most bytes of a line without its end: 2 MiB. A line whose values take more than 256 KiB holds one entry only,
/// and JSON makes at most six bytes of one.
pub const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;

/// For how long after a `snapshot` or `bookmark` a host may take it that it knows everything that was revoked, in
/// milliseconds. What is revoked counts everywhere within 5 s; half a second is for the way here.
pub const MAX_SILENCE_MS: u64 = 4_500;

/// How often the control plane sends a `bookmark` when it has nothing else to say, in seconds: twice within
/// [`MAX_SILENCE_MS`]. The `hello` of each feed says it to the host.
pub const BOOKMARK_SECONDS: u32 = 2;

/// The longest that a poll waits for something to bring, in milliseconds.
pub const MAX_POLL_MS: u32 = 60_000;

/// So many bookmarks missed mean that a feed is dead, and that what the host has is not the present state.
pub const MISSED_BOOKMARKS: u32 = 3;

/// `OpenFeed`: where the host stands, and what it wants beside its own instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenFeed {
    /// The last revision the host applied, of a snapshot's end, a batch or a bookmark; absent for everything anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Revision>,
    /// The views it wants beside those of its own instances on themselves, 65,536 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interests: Vec<ViewId>,
    /// Present: the feed ends by itself. Absent: it stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
}

/// How a feed is that ends by itself: it brings the host to where the control plane stands, and ends with a bookmark. One
/// that ends without was cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Poll {
    /// For how long it may be kept where there is nothing to bring, until there is, in milliseconds: [`MAX_POLL_MS`] at
    /// most, 0 for not at all. No bookmark comes meanwhile.
    pub wait_ms: u32,
    /// What the instances that the host was named come to: see [`named`]. If that is what they should, and nothing of the
    /// views changed since the cursor, there is no snapshot. Absent: there is one, which names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Digest>,
    /// Views that it wants from now on beside `interests`; each arrives whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<ViewId>,
}

/// What instances come to together, each with the revision of its [`InstanceSpec`], in the order of their ids: SHA-256 over
/// the id's 16 bytes, the epoch and the number of each, both with 8 bytes, little endian.
pub fn named(instances: impl IntoIterator<Item = (InstanceId, Revision)>) -> Digest {
    let sorted: BTreeMap<_, _> = instances.into_iter().collect();
    let mut bytes = Vec::with_capacity(sorted.len() * 32);
    for (instance, revision) in sorted {
        bytes.extend_from_slice(instance.bytes());
        bytes.extend_from_slice(&revision.epoch.to_le_bytes());
        bytes.extend_from_slice(&revision.n.to_le_bytes());
    }
    Digest::of(&bytes)
}

/// `SetInterests`: adds and removes views while the feed is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetInterests {
    /// The feed's session, from its `hello`.
    pub session: u64,
    /// Views wanted from now on; each arrives whole in the stream.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<ViewId>,
    /// Views no longer wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<ViewId>,
}

/// Which view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ViewId {
    /// Who reads; an instance on this host.
    pub reader: InstanceId,
    /// Whose entries.
    pub instance: InstanceId,
}

impl ViewId {
    /// What an instance sees of itself.
    pub const fn own(instance: InstanceId) -> Self {
        Self {
            reader: instance,
            instance,
        }
    }
}

/// A line of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FeedMessage {
    /// The first line.
    Hello {
        /// The host the feed is for.
        host: HostId,
        /// This feed's number.
        session: u64,
        /// The deployment's name, which the revisions belong to.
        deployment: String,
        /// How often a bookmark comes, in seconds; when nothing came for three times as long, the feed is dead.
        bookmark_seconds: u32,
    },
    /// A snapshot begins.
    Snapshot {
        /// The host's cursor, if it can go on from there: a view that isn't brought is as it was. Absent for everything
        /// anew: a view that isn't brought is not to be seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Revision>,
        /// The state that the snapshot shows.
        to: Revision,
    },
    /// Items of the snapshot that has begun, or of the batch that the next `batch` closes.
    Part {
        /// In their order.
        items: Vec<FeedItem>,
    },
    /// More entries of the view that the line before ended with.
    More {
        /// Which view.
        view: ViewId,
        /// Its next entries, in byte order of their paths.
        entries: Vec<ViewEntry>,
    },
    /// The snapshot is whole.
    SnapshotEnd {
        /// Where the host stands then.
        to: Revision,
    },
    /// The batch that is closed next would have been too large with what changed of this view: ask for the view once the
    /// batch is applied.
    Resync {
        /// Which view.
        view: ViewId,
    },
    /// What changed in `(from, to]`, with the lines before it: apply all of it or none.
    Batch {
        /// What the batch builds on.
        from: Revision,
        /// Where the host stands then.
        to: Revision,
        /// The last of its items. Each thing is there once.
        items: Vec<FeedItem>,
    },
    /// Something is worth nothing from now on. It may come again after a feed was lost.
    Revoked(Revocation),
    /// Everything was told that concerns this host up to here, or waits behind this line; and all that was revoked.
    Bookmark {
        /// Where the host stands.
        revision: Revision,
    },
}

/// Something of which no token is good that was issued before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revocation {
    /// The transaction by which it was revoked. Revocations come in this order.
    pub sequence: Revision,
    /// What.
    #[serde(flatten)]
    pub revoked: Revoked,
    /// Tokens that were issued before this are worth nothing.
    pub not_before: Timestamp,
    /// From when on each of them has expired by itself, so that nobody need remember this any longer.
    pub until: Timestamp,
}

/// What was revoked. A host is told of what its own guests may hold. Users, their groups and their accounts show nothing
/// to a host, and what is revoked of them counts at the control plane, which checks all that they show; a scope for them,
/// and for directories and single grants, comes with the first who has to know of it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Revoked {
    /// A session of an instance: its token, and whatever was made of that.
    Session {
        /// Whose.
        instance: InstanceId,
        /// Its id.
        id: String,
    },
    /// A key that tokens were sealed with, whosever they are. Their sessions stand, and get others.
    Key {
        /// Its id.
        id: u32,
    },
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FeedItem {
    /// An instance of this host, new or changed.
    Instance(InstanceSpec),
    /// An instance that is no longer this host's.
    InstanceGone {
        /// Which.
        instance: InstanceId,
    },
    /// A view, whole with the `more`s that follow: what is not in it is not to be seen.
    View(View),
    /// An entry of a view.
    Entry {
        /// Of which view.
        view: ViewId,
        /// Which entry.
        path: EntryPath,
        /// What it is now; absent if it is gone or may no longer be read. An entry that the view never showed isn't named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<FeedEntry>,
    },
}

/// A view, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct View {
    /// Which.
    pub view: ViewId,
    /// The state it shows.
    pub revision: Revision,
    /// Its entries, in byte order of their paths.
    pub entries: Vec<ViewEntry>,
}

/// An entry of a whole view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ViewEntry {
    /// Its path.
    pub path: EntryPath,
    /// The rest of it.
    #[serde(flatten)]
    pub entry: FeedEntry,
}

/// An entry as a host keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FeedEntry {
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: ContentType,
    /// The bytes.
    pub value: Value,
    /// Whether it is secret: a host keeps it sealed on its disk, and shows it to its reader only; absent if it isn't.
    #[serde(default, skip_serializing_if = "super::data::is_false")]
    pub secret: bool,
    /// When it stops being valid; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a host has to know of an instance to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceSpec {
    /// Which.
    pub instance: InstanceId,
    /// When this last changed; a host ignores an older one than it has.
    pub revision: Revision,
    /// Whose it is.
    pub account: AccountId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who runs its VM.
    pub driver: Driver,
    /// What it boots from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// How much memory it has, in MiB.
    pub memory_mib: u64,
    /// What is wanted of it.
    pub desired: Desired,
    /// The roles whose credentials it is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<RoleName>))]
    pub roles: BTreeSet<RoleName>,
    /// How often a reboot was asked for; a host that has done fewer reboots the VM.
    pub reboots: u64,
    /// The life of its VM that the host last reported; the next one it begins has a higher number.
    pub incarnation: u64,
}
