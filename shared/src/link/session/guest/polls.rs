//! How a guest asks for what changes of its mirror, where its host doesn't push.

use super::{Guest, GuestEvent};
use crate::link::Moment;
use crate::link::body::Poll;
use crate::link::frame::{Last, StreamId};
use crate::link::kind::Kind;

/// How the host wants to be asked, and when that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    every_ms: u32,
    asked: u64,
    /// `None` while an answer is waited for.
    due: Option<Moment>,
}

impl Guest {
    /// The host says how it wants to be asked, which counts as asked once, or answers.
    pub(super) fn asked(&mut self, event: &GuestEvent, now: Moment) {
        match event {
            GuestEvent::Pull(pull) => {
                self.asking = Some(Asking {
                    every_ms: pull.every_ms,
                    asked: 0,
                    due: None,
                });
            }
            GuestEvent::AsOf(_) => {
                if let Some(asking) = &mut self.asking {
                    asking.due = Some(Moment(now.0 + u64::from(asking.every_ms)));
                }
                self.poll_if_due(now);
            }
            _ => {}
        }
    }

    pub(super) fn poll_if_due(&mut self, now: Moment) {
        if self.next_poll() > now.0 {
            return;
        }
        let Some(asking) = &mut self.asking else {
            return;
        };
        asking.due = None;
        asking.asked += 1;
        let poll = Poll { number: asking.asked };
        self.outbox
            .control(Kind::Poll, StreamId::SESSION, Last::No, &poll, now);
    }

    /// When the next question is due.
    pub(super) fn next_poll(&self) -> u64 {
        let due = self.asking.and_then(|asking| asking.due);
        due.map_or(u64::MAX, |due| due.0)
    }
}
