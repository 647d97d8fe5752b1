//! The guest link: what a guest and its host say to each other over vsock. `PROTOCOL.md` is the document.
//!
//! The guest dials; there is one connection per guest. The host greets with a CHALLENGE, the guest says HELLO, the
//! host answers `HELLO_ACK`, and from then on frames of any open stream follow each other. [`frame`] is the header and
//! nothing else; [`kind`] numbers the kinds of frame; [`body`] has the body of each kind.
//!
//! [`session`] holds the two ends as pure cores: [`session::Host`] and [`session::Guest`] take bytes and the time, and
//! give events and bytes. Whoever drives them owns the socket and the clock. [`proof`] is how a guest's root is told from
//! its other processes where the transport doesn't do that.
//!
//! Versioning: **a kind's body never changes.** A changed body is a new kind with a new number, and old kinds stay.
//! Both ends say in their first frame which kinds they understand, and neither sends a kind the other lacks.

pub mod body;
pub mod frame;
pub mod kind;
pub mod proof;
pub mod session;

pub use frame::{Frame, FrameError, StreamId};
pub use kind::{Kind, KindSet};

/// The vsock port on which a host waits for its guests; on hybrid vsock the socket `<path>_<port>`.
pub const PORT: u32 = 8470;

/// A moment on a clock that never steps back and counts suspend, in milliseconds from any fixed point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
