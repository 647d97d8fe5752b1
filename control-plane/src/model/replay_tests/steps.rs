//! What a random run does, and the operations that this comes to.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::InstanceState;
use moorline_shared::entry::Value;
use moorline_shared::{EntryPath, InstanceId, PathPrefix};
use proptest::prelude::*;

use super::world::{HOSTS, LARGE_IMAGE, MOST};
use crate::instance_data::operations::{BatchAction, BatchChange, Values};
use crate::instance_data::rules::NewValue;
use crate::instances::operations::{Describe, Run, With};
use crate::model::content::Secrecy;
use crate::services::AnyOp;
use crate::{accounts, instance_data, instances};

/// A step of the run: who does what to which of the instances there are.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) caller: u8,
    pub(super) target: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Run(u32),
    /// As many as there is room for, and more than a transaction has room for.
    TooMany,
    Register,
    Ask(u8),
    Tag(u8),
    Resize,
    Report(u8),
    Put {
        path: u8,
        size: usize,
        ttl: bool,
        guard: u8,
        access: bool,
        secret: u8,
    },
    Append {
        path: u8,
        size: usize,
    },
    Delete {
        path: u8,
        guard: u8,
    },
    Batch(Vec<(u8, u8)>),
    SetAccess {
        path: u8,
        subject: u8,
    },
    Read {
        path: u8,
        which: u8,
    },
    /// Somebody logs in, logs out, or a key comes and goes.
    Identify {
        who: u8,
        which: u8,
    },
    /// The control plane does the first so many things that it is to do later, whenever they are due.
    Due(usize),
}

pub(super) fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => (0u32..4).prop_map(Kind::Run),
        1 => Just(Kind::Register),
        3 => prop_oneof![5 => 0u8..3, 1 => Just(3)].prop_map(Kind::Ask),
        1 => (0u8..4).prop_map(Kind::Tag),
        1 => Just(Kind::Resize),
        4 => (0u8..7).prop_map(Kind::Report),
        12 => (0u8..6, prop_oneof![0usize..40, 1_000usize..5_000], prop::bool::weighted(0.1), 0u8..6, prop::bool::weighted(0.1), 0u8..8)
            .prop_map(|(path, size, ttl, guard, access, secret)| Kind::Put { path, size, ttl, guard, access, secret }),
        3 => (0u8..6, 0usize..2_000).prop_map(|(path, size)| Kind::Append { path, size }),
        3 => (0u8..6, 0u8..6).prop_map(|(path, guard)| Kind::Delete { path, guard }),
        3 => prop::collection::vec((0u8..6, 0u8..5), 0..5).prop_map(Kind::Batch),
        3 => (0u8..6, 0u8..5).prop_map(|(path, subject)| Kind::SetAccess { path, subject }),
        4 => (0u8..6, 0u8..6).prop_map(|(path, which)| Kind::Read { path, which }),
        2 => (1usize..8).prop_map(Kind::Due),
        1 => Just(Kind::TooMany),
        2 => (0u8..4, 0u8..15).prop_map(|(who, which)| Kind::Identify { who, which }),
    ]
}

pub(super) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..6, 0usize..6, kinds()).prop_map(|(caller, target, kind)| Step { caller, target, kind });
    prop::collection::vec(step, count..=count)
}

pub(super) fn path_of(n: u8) -> EntryPath {
    ["a", "a/b", "config/x", "config/y", "meta/vcpus", "z"][usize::from(n % 6)]
        .parse()
        .unwrap()
}

pub(super) fn run(count: u32) -> Run {
    let secret = PutEntry::secret(SEED_SECRET.into());
    let data = BTreeMap::from([
        (
            "config/x".parse().unwrap(),
            PutEntry::value("seed".repeat(300).as_str().into()),
        ),
        ("config/secret".parse().unwrap(), secret),
    ]);
    Run {
        image: "busybox".parse().unwrap(),
        instance_type: "micro".parse().unwrap(),
        count,
        host: None,
        zone: None,
        with: With {
            name: Some("n".into()),
            roles: BTreeSet::from(["backup".parse().unwrap()]),
            ..With::of_each(count, data)
        },
    }
}

/// What every instance's first secret is.
pub(super) const SEED_SECRET: &str = "the seed of all secrets";

/// There is room for as many on a host of their own, and none in a transaction.
pub(super) fn too_many() -> Run {
    let mut run = run(MOST);
    let entry = |n: u32| (format!("config/{n}").parse().unwrap(), NewValue::text("x"));
    run.with.data.extend((0..5).map(entry));
    Run {
        image: LARGE_IMAGE.parse().unwrap(),
        ..run
    }
}

pub(super) fn report(instance: InstanceId, state: u8) -> instances::Op {
    use InstanceState::{Failed, Pending, Running, Stopped, Terminated};
    let state = [Pending, Running, Running, Stopped, Failed, Terminated, Running][usize::from(state)];
    let report = ReportState {
        instance,
        state,
        incarnation: 1,
        reboots: 1,
        reason: None,
    };
    instances::Op::ReportInstanceState {
        host: HOSTS[0].parse().unwrap(),
        report,
    }
}

pub(super) fn list(subject: u8) -> AccessList {
    let subjects = ["owner", "account", "tag:role=1", "user:stranger"];
    let Some(subject) = subjects.get(usize::from(subject)) else {
        return AccessList::default();
    };
    let subject: Subject = subject.parse().unwrap();
    let rights: Rights = [Right::Read, Right::Update].into_iter().collect();
    vec![Clause { subject, rights }].try_into().unwrap()
}

/// What is said of an entry's secrecy: mostly nothing.
pub(super) fn secrecy(which: u8) -> Option<Secrecy> {
    match which {
        0 | 1 => Some(Secrecy::Secret),
        2 => Some(Secrecy::Open),
        _ => None,
    }
}

/// A change of a batch; a value that is put begins with `mark`.
pub(super) fn change(path: u8, action: u8, mark: &str) -> BatchChange {
    let mark = format!("{mark}{path}.{action}:");
    let long = format!("{mark}{}", "b".repeat(2_000));
    let action = match action {
        0 => BatchAction::Delete,
        1 => BatchAction::Append(Value::from(mark.as_str()).into()),
        2 => BatchAction::SetAccess(list(0)),
        3 => BatchAction::Put(PutEntry::secret(long.as_str().into()).into()),
        _ => BatchAction::Put(NewValue::text(&long)),
    };
    BatchChange {
        path: path_of(path),
        guard: None,
        action,
    }
}

pub(super) fn read(instance: InstanceId, path: u8, which: u8) -> AnyOp {
    use instance_data::Op as Data;
    match which {
        0 => Data::ListInstanceData {
            instance,
            prefix: PathPrefix::ALL,
            after: None,
            limit: 3,
            values: Values::Shown,
        }
        .into(),
        1 => Data::DescribeInstanceData { instance }.into(),
        2 => Data::GetInstanceDataHistory {
            instance,
            path: path_of(path),
            before: None,
            limit: 3,
        }
        .into(),
        3 => accounts::Op::ListOperations {
            instance: Some(instance),
            before: None,
            limit: 3,
        }
        .into(),
        4 => instances::Op::DescribeInstances(Describe {
            instance: None,
            name: None,
            host: None,
            state: None,
            after: None,
            limit: 3,
        })
        .into(),
        _ => Data::GetInstanceData {
            instance,
            path: path_of(path),
        }
        .into(),
    }
}
