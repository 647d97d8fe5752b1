//! Calls on their way between hosts and the control plane, and feeds that are opened and lost.

use moorline_host::link::Answer;

use crate::host::{Call, Outcome};
use crate::network::{Errand, Feed, Leg};
use crate::plane::Lines;
use crate::world::World;

impl World {
    pub(crate) fn errand(&mut self, place: usize) {
        let Errand { host, boot, stage } = self.net.errands.remove(place);
        if self.net.cut_off[host] {
            return self.come_back(host, boot, stage);
        }
        match stage {
            Leg::Asking(call) => {
                let outcome = self.carry_out(host, &call);
                let stage = Leg::Answering(call, outcome);
                self.net.errands.push(Errand { host, boot, stage });
            }
            Leg::Echo(call) => {
                self.count("a call is made twice");
                self.carry_out(host, &call);
            }
            Leg::Answering(_, outcome) => self.answered(host, boot, outcome),
        }
    }

    /// A call gets lost on its way: its asker takes that from the silence.
    pub(crate) fn come_back(&mut self, host: usize, boot: u64, stage: Leg) {
        match stage {
            Leg::Asking(call) | Leg::Answering(call, _) => self.answered(host, boot, call.lost()),
            Leg::Echo(_) => {}
        }
    }

    fn answered(&mut self, host: usize, boot: u64, outcome: Outcome) {
        let (clock, mutant) = (self.clock, self.mutant);
        let Some(daemon) = self.hosts[host].as_mut().filter(|daemon| daemon.boot == boot) else {
            return;
        };
        if daemon.answered(outcome, clock, mutant).is_err() {
            self.lose_feed(host);
        }
    }

    fn carry_out(&mut self, host: usize, call: &Call) -> Outcome {
        let plane = &mut self.plane;
        let outcome = match call {
            Call::Entry(key) => {
                let entry = plane.entry(host, key);
                Outcome::Guest(key.reader, Answer::Entry(key.clone(), entry))
            }
            Call::Page(reader, instance, prefix, asker) => {
                let page = plane.page(host, *reader, *instance, prefix.clone());
                Outcome::Guest(*reader, Answer::Page(*asker, page))
            }
            Call::Relay(reader, relay, asker) => {
                let reply = plane.relayed(host, *reader, relay);
                Outcome::Guest(*reader, Answer::Relayed(*asker, Ok(reply)))
            }
            Call::View(view) => Outcome::View(*view, plane.view(host, *view)),
            Call::Interests(set) => {
                let answer = plane.set_interests(host, set.clone());
                Outcome::Interests(set.clone(), answer)
            }
            Call::Ended(instance, life) => {
                plane.ended(host, *instance, *life);
                Outcome::Heard
            }
        };
        self.truth.follow(&self.plane, self.clock);
        outcome
    }

    /// The feed of a host breaks, as the host sees it.
    pub(crate) fn lose_feed(&mut self, host: usize) {
        let (clock, mutant) = (self.clock, self.mutant);
        self.net.feeds[host] = None;
        self.plane.feed_lost(host);
        if let Some(daemon) = &mut self.hosts[host] {
            daemon.feed_lost(clock, mutant);
        }
    }

    /// A host opens its feed, if it has none.
    pub(crate) fn open_feed(&mut self, host: usize) {
        let (clock, mutant) = (self.clock, self.mutant);
        let Some(daemon) = &mut self.hosts[host] else {
            return;
        };
        let may = !daemon.course.is_open() && daemon.course.open_at <= clock.ms();
        if !may || self.net.cut_off[host] || !self.plane.runs() {
            return;
        }
        let open = daemon.course.open(Vec::new(), clock);
        let mut feed = Feed::default();
        let lines = &mut feed.lines;
        let opened = self
            .plane
            .open_feed(host, open, &mut Lines { lines, mutant }, clock);
        self.net.feeds[host] = Some(feed);
        if opened.is_err() {
            self.lose_feed(host);
        }
    }
}
