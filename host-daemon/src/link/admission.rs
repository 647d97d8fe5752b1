//! By what a guest's root is told from its other processes.
//!
//! Over `AF_VSOCK` that is the source port, which the guest's kernel keeps for root. Hybrid vsock hides the port, so
//! there HELLO proves that its sender has the *link key* of this life of the VM, a secret that only root can read in the
//! guest. A guest that can't be given it from outside is given it on the first HELLO. Whoever records that the key is
//! out does so before it goes: of two daemons, one after the other, only one may give it.

use moorline_shared::InstanceId;
use moorline_shared::link::Kind;
use moorline_shared::link::body::Hello;
use moorline_shared::link::session::Host;
use moorline_shared::secret::SecretKey;
use tokio::sync::mpsc;

use super::poll::Token;

/// How the root of a guest on a hybrid vsock proves itself.
#[derive(Clone, Debug)]
pub enum Admission {
    /// The guest has the key already, or has it from its VMM: every HELLO must prove that.
    Proof(SecretKey),
    /// Nobody has the key yet. The first HELLO is given it, once that it is given was recorded.
    FirstHello {
        /// What every HELLO after that must be made with.
        key: SecretKey,
        /// Whoever records it.
        handovers: mpsc::Sender<Handover>,
    },
}

/// A life of an instance's VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeId {
    /// Whose VM.
    pub instance: InstanceId,
    /// Which of its lives.
    pub incarnation: u64,
}

/// A guest's link key is about to be given to it. Record that, and then say so by
/// [`hand_over`](super::ShardsHandle::hand_over).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Whose guest, and in which life.
    pub life: LifeId,
    /// What it is given.
    pub key: SecretKey,
}

/// What every HELLO of a guest has to pass.
#[derive(Debug)]
pub(super) enum Gate {
    /// No life of the VM goes on: nobody passes.
    Closed,
    /// Whoever got here is the guest's root.
    Passed,
    /// The key is out: only who has it passes.
    Proof(SecretKey),
    /// Nobody has the key.
    Unclaimed { key: SecretKey, record: Handing },
    /// That it is out is being recorded, for the connection that waits for it.
    Claimed {
        key: SecretKey,
        by: Option<Token>,
        handovers: mpsc::Sender<Handover>,
    },
}

/// What there is to do before the key is given.
#[derive(Clone, Debug)]
pub(super) enum Handing {
    /// It has to be recorded.
    Unrecorded(mpsc::Sender<Handover>),
    /// It was recorded for a connection that ended before it got the key.
    Recorded,
}

/// What becomes of a HELLO.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The guest's root speaks.
    Welcome,
    /// The guest's root speaks, and is to be given this.
    Give(SecretKey),
    /// It waits until the key may be given to it.
    Wait,
    /// It isn't the guest's root, as far as can be seen.
    Deny(Denial),
    /// What has to be recorded can't be now.
    Busy,
}

/// Why a HELLO isn't believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error("HELLO has no proof, and the link key of this incarnation was given out")]
    Missing,
    #[error("the proof in HELLO was not made with the link key of this incarnation")]
    Wrong,
    #[error("this life of the instance has ended")]
    Over,
    #[error(
        "this agent doesn't understand LINK_KEY, without which its root can't be told from others: update it"
    )]
    Outdated,
}

impl Gate {
    pub(super) fn new(admission: Option<Admission>) -> Self {
        match admission {
            None => Self::Passed,
            Some(Admission::Proof(key)) => Self::Proof(key),
            Some(Admission::FirstHello { key, handovers }) => Self::Unclaimed {
                key,
                record: Handing::Unrecorded(handovers),
            },
        }
    }

    /// Judges the HELLO that `core` has received on the connection `token`.
    pub(super) fn judge(&mut self, core: &Host, hello: &Hello, life: LifeId, token: Token) -> Verdict {
        match self {
            Self::Closed => Verdict::Deny(Denial::Over),
            Self::Passed => Verdict::Welcome,
            Self::Proof(key) if core.proves(hello, key) => Verdict::Welcome,
            Self::Proof(_) => Verdict::Deny(Denial::of(hello)),
            // Whoever has a key of an earlier life is told to come without it: it may be a copy of another machine.
            Self::Unclaimed { .. } | Self::Claimed { .. } if hello.proof.is_some() => {
                Verdict::Deny(Denial::Wrong)
            }
            Self::Unclaimed { .. } | Self::Claimed { .. } if !hello.kinds.has(Kind::LinkKey) => {
                Verdict::Deny(Denial::Outdated)
            }
            Self::Claimed { by: Some(_), .. } => Verdict::Deny(Denial::Missing),
            Self::Unclaimed {
                key,
                record: Handing::Recorded,
            } => {
                let key = key.clone();
                *self = Self::Proof(key.clone());
                Verdict::Give(key)
            }
            Self::Unclaimed {
                key,
                record: Handing::Unrecorded(handovers),
            }
            | Self::Claimed { key, handovers, .. } => {
                let handover = Handover {
                    life,
                    key: key.clone(),
                };
                if handovers.try_send(handover).is_err() {
                    return Verdict::Busy;
                }
                let (key, handovers, by) = (key.clone(), handovers.clone(), Some(token));
                *self = Self::Claimed { key, by, handovers };
                Verdict::Wait
            }
        }
    }

    /// The connection that waits for the key.
    pub(super) fn claimant(&self) -> Option<Token> {
        match self {
            Self::Claimed { by, .. } => *by,
            _ => None,
        }
    }

    /// It is recorded that the key is out: which connection gets it now.
    pub(super) fn recorded(&mut self) -> Option<(Token, SecretKey)> {
        let Self::Claimed { key, by, .. } = self else {
            return None;
        };
        let (key, by) = (key.clone(), *by);
        *self = match by {
            Some(_) => Self::Proof(key.clone()),
            None => Self::Unclaimed {
                key: key.clone(),
                record: Handing::Recorded,
            },
        };
        by.map(|token| (token, key))
    }

    /// A connection ended.
    pub(super) fn leave(&mut self, token: Token) {
        if let Self::Claimed { by, .. } = self
            && *by == Some(token)
        {
            *by = None;
        }
    }
}

impl Denial {
    fn of(hello: &Hello) -> Self {
        match hello.proof {
            None => Self::Missing,
            Some(_) => Self::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Denial, Gate, Handover, LifeId, Verdict};
    use crate::link::tests::{hello, id};
    use moorline_shared::link::body::Hello;
    use moorline_shared::link::proof::proof;
    use moorline_shared::link::session::{DEFAULT_LIMITS, Host};
    use moorline_shared::link::{Kind, KindSet, Moment};
    use moorline_shared::secret::SecretKey;
    use tokio::sync::mpsc;

    const NONCE: [u8; 16] = [5; 16];
    const LIFE: LifeId = LifeId {
        instance: id(1),
        incarnation: 3,
    };

    fn key(n: u8) -> SecretKey {
        SecretKey::from([n; 32])
    }

    fn proving(n: u8) -> Hello {
        let proof = Some(proof(&key(n), &NONCE));
        Hello { proof, ..hello() }
    }

    fn judge(gate: &mut Gate, hello: &Hello, token: u64) -> Verdict {
        let core = Host::new(DEFAULT_LIMITS, NONCE, Moment(1));
        gate.judge(&core, hello, LIFE, token)
    }

    fn unclaimed() -> (Gate, mpsc::Receiver<Handover>) {
        let (handovers, recorder) = mpsc::channel(1);
        let key = key(1);
        (
            Gate::new(Some(Admission::FirstHello { key, handovers })),
            recorder,
        )
    }

    #[test]
    fn the_first_hello_is_given_the_key_once_that_is_recorded() {
        let (mut gate, mut recorder) = unclaimed();
        assert_eq!(judge(&mut gate, &hello(), 10), Verdict::Wait);
        let handover = Handover {
            life: LIFE,
            key: key(1),
        };
        assert_eq!(recorder.try_recv(), Ok(handover));
        assert_eq!(judge(&mut gate, &hello(), 11), Verdict::Deny(Denial::Missing));
        assert_eq!(gate.recorded(), Some((10, key(1))));
        assert_eq!(gate.recorded(), None);
        assert_eq!(judge(&mut gate, &hello(), 12), Verdict::Deny(Denial::Missing));
        assert_eq!(judge(&mut gate, &proving(2), 13), Verdict::Deny(Denial::Wrong));
        assert_eq!(judge(&mut gate, &proving(1), 14), Verdict::Welcome);
    }

    #[test]
    fn a_key_that_was_not_taken_is_the_next_ones() {
        let (mut gate, mut recorder) = unclaimed();
        assert_eq!(judge(&mut gate, &hello(), 10), Verdict::Wait);
        gate.leave(9);
        assert_eq!(gate.claimant(), Some(10));
        gate.leave(10);
        assert_eq!(judge(&mut gate, &hello(), 11), Verdict::Busy);
        recorder.try_recv().unwrap();
        assert_eq!(judge(&mut gate, &hello(), 11), Verdict::Wait);
        gate.leave(11);
        assert_eq!(gate.recorded(), None);
        assert_eq!(judge(&mut gate, &hello(), 12), Verdict::Give(key(1)));
        assert_eq!(judge(&mut gate, &hello(), 13), Verdict::Deny(Denial::Missing));
        recorder.try_recv().unwrap();
        recorder.try_recv().unwrap_err();
    }

    #[test]
    fn a_stale_key_and_an_agent_that_knows_none_are_denied_and_take_nothing() {
        let (mut gate, mut recorder) = unclaimed();
        assert_eq!(judge(&mut gate, &proving(2), 10), Verdict::Deny(Denial::Wrong));
        let kinds = KindSet::of(&[Kind::HelloAck]);
        let old = Hello { kinds, ..hello() };
        assert_eq!(judge(&mut gate, &old, 11), Verdict::Deny(Denial::Outdated));
        recorder.try_recv().unwrap_err();
        assert_eq!(judge(&mut gate, &hello(), 12), Verdict::Wait);
    }

    #[test]
    fn nothing_is_given_while_it_can_not_be_recorded() {
        let (mut gate, recorder) = unclaimed();
        drop(recorder);
        assert_eq!(judge(&mut gate, &hello(), 10), Verdict::Busy);
    }

    #[test]
    fn whose_vmm_has_the_key_must_always_prove_it_and_over_a_port_nobody_must() {
        let mut gate = Gate::new(Some(Admission::Proof(key(1))));
        assert_eq!(judge(&mut gate, &hello(), 10), Verdict::Deny(Denial::Missing));
        assert_eq!(judge(&mut gate, &proving(1), 11), Verdict::Welcome);
        assert_eq!(judge(&mut Gate::new(None), &hello(), 12), Verdict::Welcome);
    }
}
