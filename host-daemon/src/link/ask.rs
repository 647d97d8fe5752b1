//! What a shard asks of the rest of the daemon, and what comes back.

use std::borrow::Cow;

use bytes::Bytes;
use moorline_shared::api::data::Entry;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::StreamId;
use moorline_shared::link::body::{Code, Listed, Relay};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};

/// A question that only the control plane can answer, on behalf of a guest.
#[derive(Debug)]
pub struct Ask {
    /// Which shard the answer goes to.
    pub shard: usize,
    /// In whose name.
    pub reader: InstanceId,
    /// What.
    pub question: Question,
}

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// One entry, whoever in the shard waits for it.
    Entry(MissKey),
    /// All entries of a subtree, without values.
    Page {
        /// Of which instance.
        instance: InstanceId,
        /// Which subtree.
        prefix: PathPrefix,
        /// For whom.
        asker: Asker,
    },
    /// A request as the guest made it.
    Relay {
        /// The request.
        relay: Relay,
        /// For whom.
        asker: Asker,
    },
    /// Views that the feed is to bring, or need not any more.
    Interest {
        /// To be brought.
        add: Vec<ViewId>,
        /// No longer.
        remove: Vec<ViewId>,
    },
}

/// What of a guest's questions is bounded together. It has a bound for each kind, so that however much of one it asks, the
/// other is asked all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// What the host's copy doesn't answer.
    Read,
    /// What is passed on as the guest made it.
    Relay,
}

impl Question {
    /// What bounds it; `None` for what the host asks for itself.
    pub const fn errand(&self) -> Option<Errand> {
        match self {
            Self::Entry(_) | Self::Page { .. } => Some(Errand::Read),
            Self::Relay { .. } => Some(Errand::Relay),
            Self::Interest { .. } => None,
        }
    }
}

impl Answer {
    /// What bounded the question.
    pub const fn errand(&self) -> Errand {
        match self {
            Self::Entry(..) | Self::Page(..) => Errand::Read,
            Self::Relayed(..) => Errand::Relay,
        }
    }
}

/// An entry that a reader's cache doesn't have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MissKey {
    /// Who reads.
    pub reader: InstanceId,
    /// Whose entry.
    pub instance: InstanceId,
    /// Which.
    pub path: EntryPath,
}

/// A request that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The session it came on.
    pub session: u64,
    /// Its stream.
    pub stream: StreamId,
    /// Which request on that stream: numbers of streams are used again.
    pub ticket: u64,
}

/// What the control plane answered.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Entry`].
    Entry(MissKey, Result<Box<Entry>, Refusal>),
    /// To [`Question::Page`].
    Page(Asker, Result<Page, Refusal>),
    /// To [`Question::Relay`].
    Relayed(Asker, Result<Reply, Refusal>),
}

/// The entries of a subtree, in byte order of their paths.
#[derive(Debug)]
pub struct Page {
    /// The state they show.
    pub revision: Revision,
    /// All of them.
    pub entries: Vec<PageEntry>,
}

/// An entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// As a listing names it.
    pub listed: Listed,
    /// Whether it is secret.
    pub secret: bool,
}

/// An HTTP reply for a guest.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers it may see.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of no.
    pub code: Code,
    /// What is wrong and what to do, for people.
    pub message: Cow<'static, str>,
    /// The state in which the control plane said so; `None` where no state decided, or the host says so itself.
    pub as_of: Option<Revision>,
}

impl Refusal {
    /// A no with a reason.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            as_of: None,
        }
    }

    /// The same, as the control plane said it of a state.
    #[must_use]
    pub fn as_of(self, as_of: Option<Revision>) -> Self {
        Self { as_of, ..self }
    }
}
