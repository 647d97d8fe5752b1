//! What the host says unasked, on stream 0: how fresh the mirror is, what the instance is known by, and goodbye.

use serde::Serialize;

use super::{Host, Pulls};
use crate::link::Moment;
use crate::link::body::{
    AsOf, Code, Credential, Ended, GoAway, LinkKey, MirrorDigest, Pull, Secrets, Session, SessionOver,
    Standing,
};
use crate::link::frame::{Last, MAX_BODY, StreamId};
use crate::link::kind::Kind;

/// The most bytes of text in a SESSION, `SESSION_OVER` or CREDENTIAL. What else is in their bodies is shorter than the
/// rest of a frame.
const MAX_TEXT: usize = MAX_BODY - 256;

/// What became of something that the host had to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Told {
    /// It goes out next.
    Queued,
    /// The session isn't open, or the guest's build doesn't understand it: nothing goes out.
    NotUnderstood,
    /// It doesn't fit a frame: nothing goes out.
    TooLong,
}

impl Host {
    /// Tells the guest how far its mirror can be trusted from now on. One that doesn't understand that is told nothing.
    pub fn standing(&mut self, standing: &Standing, now: Moment) {
        let _ = self.tell(Kind::Standing, standing, now);
    }

    /// Gives the guest its instance's token, in place of the one before.
    pub fn session(&mut self, session: &Session, now: Moment) -> Told {
        let texts = [&*session.session, session.token.expose(), &session.token_id];
        self.tell_texts(Kind::Session, &texts, session, now)
    }

    /// Takes the instance's token back. A guest that doesn't understand it has it until it expires.
    pub fn session_over(&mut self, over: &SessionOver, now: Moment) -> Told {
        self.tell_texts(Kind::SessionOver, &[&over.reason], over, now)
    }

    /// Gives the guest a role's credentials in place of those before, or says that there are none any more.
    pub fn credential(&mut self, credential: &Credential, now: Moment) -> Told {
        let document = credential.current.as_ref();
        let texts = [
            &*credential.role,
            document.map_or("", |document| &document.kind),
            document.map_or("", |document| document.document.expose()),
        ];
        self.tell_texts(Kind::Credential, &texts, credential, now)
    }

    /// Gives the guest the key that its proofs are to be made with. The caller sees to it that a guest gets it once.
    pub fn link_key(&mut self, key: &LinkKey, now: Moment) -> Told {
        self.tell(Kind::LinkKey, key, now)
    }

    /// Says which entries of what is sent next on the stream are secret: call it directly before [`Host::batch`],
    /// [`Host::found`] or [`Host::listing`], and not where none is. A guest that doesn't understand it is sent no secret
    /// entry at all: that is the caller's to see to.
    pub fn secrets(&mut self, stream: StreamId, secrets: &Secrets, now: Moment) -> Told {
        if !self.understands(Kind::Secrets) {
            return Told::NotUnderstood;
        }
        self.outbox.control(Kind::Secrets, stream, Last::No, secrets, now);
        Told::Queued
    }

    /// Says what the guest's mirror is if nothing went wrong: nothing may be under way to it, so call it only when
    /// [`Host::is_settled`]. A guest whose mirror is something else answers with [`HostEvent::Differs`].
    ///
    /// [`HostEvent::Differs`]: super::HostEvent::Differs
    pub fn digest(&mut self, digest: &MirrorDigest, now: Moment) -> Told {
        let told = self.tell(Kind::Digest, digest, now);
        self.compared |= told == Told::Queued;
        told
    }

    /// Has the guest ask for what changes of its mirror, in place of being told, from now on; it counts as having asked
    /// once. One that doesn't understand that is told as ever. Call it directly behind [`Host::welcome`].
    pub fn pull(&mut self, pull: &Pull, now: Moment) -> Told {
        let needed = [Kind::Poll, Kind::AsOf];
        if !needed.into_iter().all(|kind| self.understands(kind)) {
            return Told::NotUnderstood;
        }
        let told = self.tell(Kind::Pull, pull, now);
        if told == Told::Queued {
            self.pulls = Pulls::Asked;
        }
        told
    }

    /// Tells the guest of when its mirror is. That answers its question, if it has asked one.
    pub fn as_of(&mut self, as_of: &AsOf, now: Moment) -> Told {
        let told = self.tell(Kind::AsOf, as_of, now);
        if told == Told::Queued && self.is_asked() {
            self.pulls = Pulls::Answered;
        }
        told
    }

    fn tell_texts<T: Serialize>(&mut self, kind: Kind, texts: &[&str], body: &T, now: Moment) -> Told {
        if texts.iter().map(|text| text.len()).sum::<usize>() > MAX_TEXT {
            return Told::TooLong;
        }
        self.tell(kind, body, now)
    }

    fn tell<T: Serialize>(&mut self, kind: Kind, body: &T, now: Moment) -> Told {
        if !self.understands(kind) {
            return Told::NotUnderstood;
        }
        self.outbox.control(kind, StreamId::SESSION, Last::No, body, now);
        Told::Queued
    }

    /// Says that the HELLO isn't believed: its proof is missing or wrong. [`Self::go_away`] follows.
    pub fn deny(&mut self, now: Moment) {
        let code = Code::Denied as u16;
        self.outbox
            .control(Kind::Reset, StreamId::SESSION, Last::No, &Ended { code }, now);
    }

    /// Tells the guest that this connection ends; the driver writes what is left and closes.
    pub fn go_away(&mut self, reason: &str, reconnect_after_ms: u32, now: Moment) {
        let body = GoAway {
            reason: reason.to_owned(),
            reconnect_after_ms,
        };
        self.outbox
            .control(Kind::GoAway, StreamId::SESSION, Last::Yes, &body, now);
    }
}
