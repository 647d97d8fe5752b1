//! Programs in a guest that change something, and their agent's count of it: the real [`Pending`], driven as
//! `guest-agent/src/writes` does.

use std::collections::BTreeMap;

use moorline_agent::link::AskFailure;
use moorline_agent::mirror::Mirror;
use moorline_agent::proof::ProveError;
use moorline_agent::writes::end_of;
use moorline_agent::writes::pending::{Begun, End, Left, Mark, Need, Pending, Word};
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::api::data::Changed;
use moorline_shared::id::{IdempotencyKey, Principal};
use moorline_shared::link::body::{Code, Refused, Relay, Relayed};
use moorline_shared::link::session::Guest;
use moorline_shared::link::{Moment, StreamId};
use moorline_shared::{InstanceId, OperationId};

/// How long a program waits for an answer that was lost, in milliseconds.
const PATIENCE_MS: u64 = 20_000;
/// Between two sendings of a request whose answer was lost, in milliseconds.
const PAUSE_MS: u64 = 500;

/// Programs that change something.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    pending: Pending,
    /// What is on the disk.
    marks: BTreeMap<IdempotencyKey, Mark>,
    waiting: BTreeMap<IdempotencyKey, Program>,
    questions: BTreeMap<StreamId, (IdempotencyKey, Moment)>,
    /// What programs were told and the world has not looked at.
    pub told: Vec<Told>,
    /// How often a request was sent again.
    pub again: u64,
}

#[derive(Clone, Debug)]
struct Program {
    relay: Relay,
    stream: Option<StreamId>,
    /// When it is sent again.
    next: Moment,
    until: Moment,
    /// Whether an answer was lost.
    doubt: bool,
}

/// What a program was told about its change.
#[derive(Clone, Debug)]
pub enum Told {
    /// It is made.
    Made(IdempotencyKey, Changed),
    /// It is not, and never will be.
    Refused(IdempotencyKey),
    /// Nobody can say.
    Unsettled(IdempotencyKey),
}

/// A change that a program asks for.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who asks.
    pub by: InstanceId,
    /// What it is known by.
    pub key: IdempotencyKey,
    /// The request.
    pub relay: Relay,
    /// What it takes of the mirror.
    pub need: Need,
}

impl Programs {
    /// What an agent finds that starts on the disk of these.
    #[must_use]
    pub fn on_disk(&self, now: Moment) -> Self {
        let mut pending = Pending::default();
        pending.restore(self.marks.values().cloned(), now);
        Self {
            pending,
            marks: self.marks.clone(),
            ..Self::default()
        }
    }

    /// How many changes are open.
    pub fn open(&self) -> usize {
        self.pending.iter().count()
    }

    /// A program asks for a change. `false` if there is no room for it.
    pub fn begin(&mut self, change: Change, mirror: &Mirror, now: Moment) -> bool {
        let mark = Mark {
            key: change.key.clone(),
            by: change.by,
            method: change.relay.method.clone(),
            target: change.relay.target.clone(),
        };
        match self.pending.begin(mark.clone(), change.need, mirror, now) {
            Err(_) => return false,
            Ok(Begun::First) => drop(self.marks.insert(change.key.clone(), mark)),
            Ok(Begun::Again) => {}
        }
        let program = Program {
            relay: change.relay,
            stream: None,
            next: now,
            until: Moment(now.0 + PATIENCE_MS),
            doubt: false,
        };
        self.waiting.insert(change.key, program);
        true
    }

    /// Sends what is to be sent, and gives up what took too long.
    pub fn tick(&mut self, own: Option<InstanceId>, core: Option<&mut Guest>, now: Moment) {
        if let Some(own) = own {
            for mark in self.pending.keep_own(own) {
                self.marks.remove(&mark.key);
                self.waiting.remove(&mark.key);
            }
        }
        let late = self.waiting.iter().filter(|(_, program)| program.until <= now);
        for key in late.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.end(&key, End::Lost, now);
            self.told.push(Told::Unsettled(key));
        }
        if let Some(core) = core {
            self.send(core, now);
            self.ask(core, now);
        }
    }

    fn send(&mut self, core: &mut Guest, now: Moment) {
        let due = self.waiting.values_mut();
        for program in due.filter(|program| program.stream.is_none() && program.next <= now) {
            program.stream = core.relay(program.relay.clone(), now).ok();
            program.next = Moment(now.0 + PAUSE_MS);
            self.again += u64::from(program.doubt && program.stream.is_some());
        }
    }

    /// Asks the master about a change in doubt.
    fn ask(&mut self, core: &mut Guest, now: Moment) {
        let Some(mark) = self.pending.question(now) else {
            return;
        };
        let id = OperationId::derive(&Principal::Instance(mark.by), &mark.key);
        let relay = Relay {
            method: "GET".into(),
            target: format!("/v1/operations/{id}"),
            headers: Vec::new(),
            length: 0,
            body: moorline_shared::entry::Value::default(),
        };
        if let Ok(stream) = core.relay(relay, now) {
            self.questions.insert(stream, (mark.key, now));
        }
    }

    fn end(&mut self, key: &IdempotencyKey, end: End, now: Moment) {
        self.waiting.remove(key);
        if self.pending.ended(key, end, now) == Left::Closed {
            self.marks.remove(key);
        }
    }

    fn asker(&self, stream: StreamId) -> Option<IdempotencyKey> {
        let mut waiting = self.waiting.iter();
        waiting.find_map(|(key, program)| (program.stream == Some(stream)).then(|| key.clone()))
    }

    fn answered(&mut self, stream: StreamId, answer: &Result<Relayed, ProveError>, now: Moment) {
        let Some(key) = self.asker(stream) else {
            return;
        };
        let end = end_of(answer);
        let Some(program) = self.waiting.get_mut(&key) else {
            return;
        };
        program.stream = None;
        match (end, program.doubt) {
            (End::Recorded, _) => {
                self.end(&key, End::Recorded, now);
                let answer = answer.as_ref().ok().filter(|answer| answer.status == 200);
                let changed = answer.and_then(|answer| serde_json::from_slice(answer.body.bytes()).ok());
                self.told.push(match changed {
                    Some(changed) => Told::Made(key, changed),
                    None => Told::Refused(key),
                });
            }
            (End::TurnedAway, false) => self.end(&key, End::TurnedAway, now),
            // A refusal at the door says nothing about what was sent before.
            (End::TurnedAway, true) => program.next = Moment(now.0 + PAUSE_MS),
            (End::Lost, _) => {
                program.doubt = true;
                program.next = Moment(now.0 + PAUSE_MS);
                self.pending.lost(&key, now);
            }
        }
    }

    fn failed(&mut self, stream: StreamId, failure: AskFailure, now: Moment) {
        self.questions.remove(&stream);
        self.answered(stream, &Err(ProveError::Ask(failure)), now);
    }

    /// The control plane answered.
    pub fn relayed(&mut self, stream: StreamId, relayed: Relayed, now: Moment) {
        if let Some((key, asked)) = self.questions.remove(&stream) {
            let word = match relayed.status {
                200 => Word::Recorded,
                404 => Word::Nothing,
                _ => return,
            };
            if self.pending.answered(&key, word, asked) == Left::Closed {
                self.marks.remove(&key);
            }
            return;
        }
        self.answered(stream, &Ok(relayed), now);
    }

    /// The host said no.
    pub fn refused(&mut self, stream: StreamId, refused: Refused, now: Moment) {
        self.failed(stream, AskFailure::Refused(refused), now);
    }

    /// The host has too much to do.
    pub fn busy(&mut self, stream: StreamId, retry_after_ms: u32, now: Moment) {
        self.failed(stream, AskFailure::Busy { retry_after_ms }, now);
    }

    /// The host ended the stream.
    pub fn broken_off(&mut self, stream: StreamId, code: Code, now: Moment) {
        self.failed(stream, AskFailure::Ended(code), now);
    }

    /// The link broke: whatever was on its way may be done.
    pub fn link_lost(&mut self, now: Moment) {
        self.questions.clear();
        let streams: Vec<_> = self
            .waiting
            .values()
            .filter_map(|program| program.stream)
            .collect();
        for stream in streams {
            self.failed(stream, AskFailure::Lost, now);
        }
    }
}

/// A request to change an entry.
pub fn request(
    method: &str,
    of: InstanceId,
    path: &str,
    key: &IdempotencyKey,
    body: moorline_shared::entry::Value,
) -> Relay {
    Relay {
        method: method.into(),
        target: format!("/v1/instances/{of}/data/{path}"),
        headers: vec![(IDEMPOTENCY_KEY.into(), key.to_string())],
        length: 0,
        body,
    }
}
