//! What a random run does with sessions and keys.

use moorline_shared::api::identity::{AccountRole, ModifyUser, UserState};
use moorline_shared::entry::Value;
use moorline_shared::id::GroupName;
use moorline_shared::{Digest, Principal, UserName};

use crate::identity::Op;
use crate::identity::operations::{Attempt, IfNeeded, LogIn, NewSession};
use crate::identity::records::SessionPurpose;
use crate::identity::token::SessionId;
use crate::services::AnyOp;

pub(super) fn identify(who: u8, which: u8) -> AnyOp {
    let principal: Principal = format!("user:u{who}").parse().unwrap();
    let key = u32::from(who);
    match which {
        0 => Op::CreateSession(NewSession {
            principal,
            directory: "local".parse().unwrap(),
            account: "default".parse().unwrap(),
            purpose: SessionPurpose::Login,
            client: None,
            lifetime: 3_600,
        }),
        1 => Op::EndSession {
            principal,
            session: SessionId::from_bytes([who; 16]),
        },
        2 => Op::StageTokenKey {
            key,
            sealed: Value::from("sealed"),
        },
        3 => Op::PromoteTokenKey { key },
        4 => Op::DestroyTokenKey {
            key,
            needed_until: None,
            if_needed: IfNeeded::Keep,
        },
        5 => Op::DescribeSessions { principal },
        6 => Op::CreateUser {
            user: user(who),
            role: AccountRole::Member,
            password: Some(Value::from("sealed")),
        },
        7 => Op::LogIn(LogIn {
            user: user(who),
            directory: "local".parse().unwrap(),
            client: None,
            address: None,
            attempt: Attempt::Verified {
                password: Digest::of(b"sealed"),
            },
        }),
        8 => Op::SetUserPassword {
            user: user(who),
            password: Value::from("sealed"),
            knows: None,
        },
        9 => Op::ModifyUser {
            user: user(who),
            change: ModifyUser {
                state: Some(UserState::Enabled),
                role: Some(AccountRole::Administrator),
            },
        },
        10 => Op::DeleteUser { user: user(who) },
        11 => Op::CreateGroup { group: group() },
        12 => Op::AddGroupMember {
            group: group(),
            member: principal,
        },
        13 => Op::RemoveGroupMember {
            group: group(),
            member: principal,
        },
        _ => Op::DeleteGroup { group: group() },
    }
    .into()
}

fn user(who: u8) -> UserName {
    format!("u{who}").parse().unwrap()
}

fn group() -> GroupName {
    "ops".parse().unwrap()
}
