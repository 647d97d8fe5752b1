//! What users and programs do.

use moorline_agent::writes::pending::Need;
use moorline_control::instance_data::operations::{BatchAction, BatchChange, Op as Data};
use moorline_control::instance_data::rules::NewValue;
use moorline_control::instance_data::{self};
use moorline_control::model::Caller;
use moorline_control::{identity, instances};
use moorline_shared::access::{Right, Subject};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::ModifyInstance;
use moorline_shared::{EntryPath, InstanceId, Principal};

use crate::SLOTS;
use crate::agent::Agent;
use crate::answers::value;
use crate::event::{Event, Size, Whom};
use crate::found::{GROUP, TAG, clauses};
use crate::ledger::Asked;
use crate::plane::administrator;
use crate::programs::{Change, request};
use crate::world::World;

/// Which entries users change.
pub const PATHS: [&str; 5] = ["a", "a/b", "c", "pair/x", "pair/y"];

fn path(n: usize) -> EntryPath {
    PATHS[n % PATHS.len()].parse().expect("these are paths")
}

impl World {
    fn text(&mut self) -> String {
        self.numbers += 1;
        format!("v{}", self.numbers)
    }

    pub(crate) fn user(&mut self, event: &Event) {
        let slot = match event {
            Event::Put { slot, .. }
            | Event::Share { slot, .. }
            | Event::Pair(slot)
            | Event::Delete(slot, _)
            | Event::Tag(slot, _)
            | Event::Group(slot, _)
            | Event::Terminate(slot) => *slot,
            _ => return,
        };
        let Some(instance) = self.guests[slot].instance else {
            return;
        };
        let admin = administrator();
        let done = match event {
            Event::Tag(_, on) => self.plane.tag(instance, *on, admin),
            Event::Group(_, on) => self.plane.group(instance, *on, admin),
            Event::Terminate(_) => self.plane.terminate(instance, admin),
            other => {
                let op = self.data(other, instance);
                self.plane
                    .change(&instance_data::Model, op, admin, None)
                    .is_some_and(|done| done.is_ok())
            }
        };
        self.count(if done {
            "a user's change is made"
        } else {
            "a user's change is refused"
        });
        self.truth.follow(&self.plane, self.clock);
    }

    fn data(&mut self, event: &Event, instance: InstanceId) -> Data {
        let text = self.text();
        let new = |size: usize| NewValue::from(PutEntry::value(value(&text, size)));
        match event {
            Event::Put { path: at, size, .. } => Data::PutInstanceData {
                instance,
                path: path(*at),
                guard: None,
                new: new(match size {
                    Size::Small => 0,
                    Size::Long => 1_500,
                    Size::Frames => 20_000,
                }),
            },
            Event::Delete(_, at) => Data::DeleteInstanceData {
                instance,
                path: path(*at),
                guard: None,
            },
            Event::Share { path: at, whom, .. } => Data::SetEntryAccess {
                instance,
                path: path(*at),
                guard: None,
                access: self.access(*whom),
            },
            _ => Data::BatchInstanceData {
                instance,
                changes: ["pair/x", "pair/y"]
                    .map(|path| BatchChange {
                        path: path.parse().expect("it is a path"),
                        guard: None,
                        action: BatchAction::Put(new(0)),
                    })
                    .into(),
            },
        }
    }

    /// Whoever else may do something with an entry, the user who shares it may do so again.
    fn access(&self, whom: Whom) -> moorline_shared::access::AccessList {
        const ALL: &[Right] = &[Right::Read, Right::Update, Right::Append, Right::Delete];
        let admin = "user:admin".parse().expect("it is a subject");
        let other = match whom {
            Whom::Owner | Whom::Nobody => None,
            Whom::Tagged => Some(Subject::Tag(TAG.parse().expect("it is a tag"))),
            Whom::Group => Some(Subject::Group(GROUP.parse().expect("it is a name"))),
            Whom::Instance(slot) => self.guests[slot % SLOTS].instance.map(Subject::Instance),
        };
        let owner = (whom != Whom::Nobody).then_some(Subject::Owner);
        let subjects = [Some(admin), owner, other].into_iter().flatten();
        clauses(&subjects.map(|subject| (subject, ALL)).collect::<Vec<_>>())
    }

    pub(crate) fn program(&mut self, event: &Event) {
        match *event {
            Event::Write { slot, of, append } => self.write(slot, of, append),
            Event::Get(slot, of, at) => {
                self.asks(slot, of, "a read of another's entry is sent", |agent, of, now| {
                    agent.get(of, path(at), now)
                });
            }
            Event::List(slot, of) => self.asks(slot, of, "a list of another's is sent", Agent::list),
            Event::Watch(slot, of) => self.asks(slot, of, "a watch begins", Agent::watch),
            Event::Unwatch(slot, of) => self.asks(slot, of, "a watch is cancelled", Agent::unwatch),
            _ => {}
        }
    }

    fn asks(
        &mut self,
        slot: usize,
        of: usize,
        what: &'static str,
        ask: impl FnOnce(&mut Agent, InstanceId, moorline_shared::link::Moment) -> bool,
    ) {
        let now = self.guest_now(slot);
        let other = self.guests[of].instance.filter(|_| of != slot);
        let guest = &mut self.guests[slot];
        let agent = guest.agent.as_mut().filter(|_| !guest.paused);
        if let (Some(agent), Some(other)) = (agent, other)
            && agent.instance() != Some(other)
            && ask(agent, other, now)
        {
            self.count(what);
        }
    }

    fn write(&mut self, slot: usize, of: usize, appends: bool) {
        let now = self.guest_now(slot);
        let (Some(by), Some(of)) = (self.guests[slot].instance, self.guests[of].instance) else {
            return;
        };
        self.numbers += 1;
        let (key, mark) = (format!("w{}", self.numbers), format!("<w{}>", self.numbers));
        let key: moorline_shared::id::IdempotencyKey = key.parse().expect("it is a key");
        let (method, path) = if appends {
            ("POST", "log")
        } else {
            ("PUT", if by == of { "own/x" } else { "a" })
        };
        let entry: EntryPath = path.parse().expect("it is a path");
        let need = match (by == of, appends) {
            (false, _) => Need::Nothing,
            (true, true) => Need::More(entry.clone(), mark.len()),
            (true, false) => Need::Whole(entry.clone(), mark.len()),
        };
        let relay = request(method, of, path, &key, value(&mark, 0));
        let guest = &mut self.guests[slot];
        let Some(agent) = guest.agent.as_mut().filter(|_| !guest.paused) else {
            return;
        };
        let change = Change {
            by,
            key: key.clone(),
            relay,
            need,
        };
        if agent.instance() == Some(by) && agent.programs.begin(change, &agent.mirror, now) {
            let asked = Asked {
                by,
                of,
                path: entry,
                mark,
                appends,
            };
            self.ledger.asked.insert(key, asked);
            self.count("a program's write begins");
        }
    }
}

impl crate::plane::Plane {
    fn tag(&mut self, instance: InstanceId, on: bool, admin: Caller) -> bool {
        let tags = on
            .then(|| TAG.parse().expect("it is a tag"))
            .into_iter()
            .collect();
        let change = ModifyInstance {
            tags: Some(tags),
            ..ModifyInstance::default()
        };
        let op = instances::Op::ModifyInstanceAttribute { instance, change };
        self.change(&instances::Model, op, admin, None)
            .is_some_and(|done| done.is_ok())
    }

    fn group(&mut self, instance: InstanceId, on: bool, admin: Caller) -> bool {
        let group = GROUP.parse().expect("it is a name");
        let member = Principal::Instance(instance);
        let op = if on {
            identity::Op::AddGroupMember { group, member }
        } else {
            identity::Op::RemoveGroupMember { group, member }
        };
        self.change(&identity::Model, op, admin, None)
            .is_some_and(|done| done.is_ok())
    }

    fn terminate(&mut self, instance: InstanceId, admin: Caller) -> bool {
        let instances = vec![instance];
        let op = instances::Op::TerminateInstances { instances };
        self.change(&instances::Model, op, admin, None)
            .is_some_and(|done| done.is_ok())
    }
}
