//! The kinds of frame and their numbers, which never change.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// What a frame is. The number is the byte on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind this build understands, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind with this number, if this build understands it.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Guest to host, first: who speaks and what it understands. Frozen for ever.
    Hello = 0x01;
    /// Host to guest: the session begins.
    HelloAck = 0x02;
    /// Either: are you there?
    Ping = 0x03;
    /// Either: the answer to a ping.
    Pong = 0x04;
    /// Either: this connection ends; when to come again.
    GoAway = 0x05;
    /// Host to guest: not now; when to ask again.
    Busy = 0x06;
    /// Either: so many more bytes of data may be sent on the stream.
    Credit = 0x07;
    /// Guest to host: the answer on this stream is no longer wanted.
    Cancel = 0x08;
    /// Either: the stream ended before its time.
    Reset = 0x09;
    /// Host to guest, before everything else: what a proof is made over. Frozen for ever.
    Challenge = 0x0a;

    /// Host to guest: a batch of changes begins.
    Begin = 0x10;
    /// Host to guest: a piece of the batch's content.
    Part = 0x11;
    /// Host to guest: the batch is whole; apply it.
    Commit = 0x12;
    /// Guest to host: the batch is applied; the next may come.
    Applied = 0x13;
    /// Host to guest: how far the mirror can be trusted from now on.
    Standing = 0x14;
    /// Host to guest: the instance's own token, from now on.
    Session = 0x15;
    /// Host to guest: the credentials of a role, from now on.
    Credential = 0x16;
    /// Host to guest: what its proofs are to be made with from now on.
    LinkKey = 0x17;
    /// Host to guest: which entries of what comes next on the stream are secret.
    Secrets = 0x18;
    /// Host to guest: the instance's token is worth nothing any more.
    SessionOver = 0x19;
    /// Host to guest: what the mirror is, if it is right.
    Digest = 0x1a;
    /// Guest to host: the mirror is something else.
    Differs = 0x1b;
    /// Host to guest: nothing of the mirror is pushed from now on; the guest asks.
    Pull = 0x1c;
    /// Guest to host: what has changed of the mirror?
    Poll = 0x1d;
    /// Host to guest: of when the mirror is, and how long that may count as fresh.
    AsOf = 0x1e;

    /// Guest to host: one entry, please.
    Get = 0x20;
    /// Guest to host: which entries are there?
    List = 0x21;
    /// Guest to host: batches of what changes from now on.
    Watch = 0x22;
    /// Host to guest: the entry, or its first piece.
    Found = 0x28;
    /// Either: the next piece of a value or of a body.
    Data = 0x29;
    /// Host to guest: a page of a listing.
    Listing = 0x2a;
    /// Host to guest: no, and why.
    Refused = 0x2b;

    /// Guest to host: a request for the control plane, as the guest made it.
    Relay = 0x30;
    /// Host to guest: the control plane's answer.
    Relayed = 0x31;
}

/// A set of kinds, known or not: 256 bits, bit `n & 7` of byte `n >> 3` for the kind with number `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindSet([u8; 32]);

impl KindSet {
    /// The kinds this build understands.
    pub fn ours() -> Self {
        Self::of(Kind::ALL)
    }

    /// Just these kinds.
    pub fn of(kinds: &[Kind]) -> Self {
        kinds.iter().fold(Self([0; 32]), |mut set, kind| {
            set.0[*kind as usize >> 3] |= 1 << (*kind as u8 & 7);
            set
        })
    }

    /// Whether the kind is in the set.
    pub const fn has(&self, kind: Kind) -> bool {
        self.0[kind as usize >> 3] & (1 << (kind as u8 & 7)) != 0
    }
}
