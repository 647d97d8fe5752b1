//! How every world begins: the hosts are known, and each slot has an instance with a few entries.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use moorline_control::identity;
use moorline_control::instance_data::rules::NewValue;
use moorline_control::instances;
use moorline_control::instances::operations::{Register, With};
use moorline_control::store::memory::Memory;
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::{InstanceId, Principal};

use crate::agent::Agent;
use crate::clock::Clock;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::mutant::Mutant;
use crate::network::Network;
use crate::plane::{Plane, administrator, caller, host_id, master};
use crate::truth::Truth;
use crate::world::{Guest, World, host_of};
use crate::{HOSTS, SLOTS};

/// The group that instances come into.
pub const GROUP: &str = "crew";
/// The tag that instances carry.
pub const TAG: &str = "role=web";

/// The first instance of a slot.
pub fn first_instance(slot: usize) -> InstanceId {
    let byte = u8::try_from(slot).expect("there are few slots") + 1;
    InstanceId::from_bytes([byte; 16])
}

/// The clauses that give `whom` these rights, and the instance itself the right to read and to add.
pub fn clauses(whom: &[(Subject, &[Right])]) -> AccessList {
    let clause = |(subject, rights): &(Subject, &[Right])| Clause {
        subject: subject.clone(),
        rights: rights.iter().copied().collect::<Rights>(),
    };
    let clauses: Vec<_> = whom.iter().map(clause).collect();
    clauses.try_into().expect("these are few")
}

/// What an instance begins with: entries of its own, and a log that it and the group may add to.
pub fn beginnings(number: u64) -> With {
    let group = Subject::Group(GROUP.parse().expect("it is a name"));
    let log = clauses(&[
        (Subject::Owner, &[Right::Read, Right::Append]),
        (group, &[Right::Read, Right::Append]),
    ]);
    let text = |text: String| NewValue::from(PutEntry::value(text.as_str().into()));
    let log = NewValue {
        access: Some(log),
        ..text("-".into())
    };
    let path = |path: &str| path.parse().expect("it is a path");
    let data = BTreeMap::from([
        (path("a"), text(format!("begin {number}"))),
        (path("pair/x"), text(format!("pair {number}"))),
        (path("pair/y"), text(format!("pair {number}"))),
        (path("log"), log),
    ]);
    With {
        data,
        ..With::default()
    }
}

impl Plane {
    /// An instance is made on the host of a slot.
    pub fn register(&mut self, slot: usize, instance: InstanceId, number: u64) -> bool {
        let register = Register {
            host: host_id(host_of(slot)),
            id: Some(instance),
            with: beginnings(number),
        };
        let op = instances::Op::RegisterInstance(register);
        matches!(
            self.change(&instances::Model, op, administrator(), None),
            Some(Ok(_))
        )
    }
}

fn found() -> (Memory, u64) {
    let mut plane = Plane::on(&Memory::new(1), 0, Mutant::None, Clock::default());
    for host in 0..HOSTS {
        let offer = RegisterHost {
            zone: "z".parse().expect("it is a name"),
            vcpus: 64,
            memory_mib: 65_536,
            images: vec![],
        };
        let host = host_id(host);
        let who = caller(
            Principal::Host(host.clone()),
            moorline_control::model::Role::Provider,
        );
        let op = instances::Op::RegisterHost { host, offer };
        let done = plane.change(&instances::Model, op, who, None);
        assert!(matches!(done, Some(Ok(_))), "a host is taken in: {done:?}");
    }
    let group = GROUP.parse().expect("it is a name");
    let done = plane.change(
        &identity::Model,
        identity::Op::CreateGroup { group },
        administrator(),
        None,
    );
    assert!(matches!(done, Some(Ok(_))), "a group is made: {done:?}");
    for slot in 0..SLOTS {
        assert!(
            plane.register(slot, first_instance(slot), 0),
            "an instance is made"
        );
    }
    let head = plane.head().n;
    (plane.memory().fork(head, 1).expect("the head can be read"), head)
}

impl World {
    /// A world that has just begun.
    pub fn new(mutant: Mutant) -> Self {
        static FOUNDED: OnceLock<(Memory, u64)> = OnceLock::new();
        let (memory, head) = FOUNDED.get_or_init(found);
        let clock = Clock::default();
        let guest = |slot| Guest {
            instance: Some(first_instance(slot)),
            life: 1,
            agent: Some(Agent::default()),
            ..Guest::default()
        };
        let mut world = Self {
            clock,
            mutant,
            plane: Plane::on(memory, *head, mutant, clock),
            hosts: [const { None }; HOSTS],
            disks: Default::default(),
            guests: std::array::from_fn(guest),
            net: Network::default(),
            truth: Truth::new(master()),
            ledger: Ledger::default(),
            counts: BTreeMap::new(),
            wrong: None,
            ghost: None,
            boots: 0,
            numbers: 0,
        };
        world.truth.follow(&world.plane, clock);
        for host in 0..HOSTS {
            world.start_host(host);
        }
        world
    }

    /// A host daemon starts, unless it runs.
    pub fn start_host(&mut self, host: usize) {
        if self.hosts[host].is_none() {
            self.boots += 1;
            let lives = self.lives(host);
            let (disk, clock) = (&self.disks[host], self.clock);
            self.hosts[host] = Some(Host::start(self.boots, lives, disk, clock));
            if !self.disks[host].views.is_empty() {
                self.count("a host begins with what is on its disk");
            }
        }
    }
}
