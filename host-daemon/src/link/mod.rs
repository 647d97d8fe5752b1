//! Drives the session of each guest: one thread per shard, and each shard owns its guests.
//!
//! A *shard* is a loop around one epoll instance. What it owns - listeners, connections, sessions, the cache of its
//! guests - nobody else touches, so nothing is locked: a request is parsed out of the shard's read buffer, looked up,
//! and answered into the session's out buffer, and all answers to one read go out in one write. The rest of the daemon
//! speaks with a shard by messages, through [`ShardsHandle`]; the shard asks the rest of the daemon what it can't
//! answer by [`Ask`], and the answer comes back as a message. A batch of the feed is one message and is applied whole
//! before the shard looks at a guest again.
//!
//! A runtime would add a task and its wake-ups to each connection, and would make every access to what guests share a
//! run-time check; the loop is a few dozen lines.
//!
//! By module: `shard` is the loop, and `conn` one connection's socket; `floor` has the guests, and is all of a shard that
//! is no socket; `talk` is one guest's session; `admission` tells a guest's root from its other processes; `answer` turns
//! requests into answers and `reply` those into frames; `follow` and `push` turn changes of views into batches; `compare`
//! looks whether a mirror is what it should be; `standing` says how far it can be trusted; `misses` keeps what was asked
//! of the control plane; `grants` is what a guest is given to be somebody; `guest` is what there is of a guest beside its
//! connection, `desk` what the guests share, and `room` what they may take up together; `log` is how often the log tells
//! of one, and `counts` what metrics tell.

mod admission;
mod answer;
mod ask;
mod budget;
mod clock;
mod compare;
mod conn;
mod counts;
mod desk;
mod floor;
mod follow;
mod grants;
mod guest;
mod handle;
mod lobby;
mod log;
mod mailbox;
mod misses;
mod poll;
mod polls;
mod push;
mod reply;
mod room;
mod shard;
mod standing;
mod talk;
#[cfg(test)]
pub(crate) mod tests;

pub use admission::{Admission, Handover, LifeId};
pub use ask::{Answer, Ask, Asker, MissKey, Page, PageEntry, Question, Refusal, Reply};
pub(crate) use clock::now_and_time;
pub use clock::{FeedClock, Standing, now, time};
pub use counts::{Count, Counts, FeedCounts};
pub use floor::{Arrival, Floor, NotLater};
pub use grants::{Grant, Notice, RoleGrant, SessionGrant, Speaker};
pub use guest::{Conversation, GuestStatus, Requests};
pub use handle::{
    BeginError, Ended, Ending, FeedEffects, PortState, ShardError, Shards, ShardsHandle, StartError,
};
pub use room::{Full, TooMany};
pub use talk::End;
