//! What a random run does with sessions and keys.

use moorline_shared::Principal;
use moorline_shared::entry::Value;

use crate::identity::Op;
use crate::identity::operations::{IfNeeded, NewSession};
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
        _ => Op::DescribeSessions { principal },
    }
    .into()
}
