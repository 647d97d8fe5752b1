//! The rules for the keys of tokens: staged, primary, retiring, destroyed, and never back.

use moorline_shared::Timestamp;
use moorline_shared::entry::Value;

use super::sessions::tell;
use super::{Step, by_deployment_administrator};
use crate::identity::instances::TOKEN_SECONDS;
use crate::identity::operations::{IfNeeded, Reply};
use crate::identity::records::{KeyState, Revoked, TokenKeyRecord};
use crate::identity::refusal::{Refusal, refuse};
use crate::identity::token::{KeyId, Stage};
use crate::model::{Env, Kept, Page, View};

/// Takes a new key in.
pub fn stage(v: &mut View<'_>, env: &Env, id: KeyId, sealed: &Value) -> Step<Reply> {
    by_deployment_administrator(env)?;
    if v.get::<TokenKeyRecord>(&id)?.is_some() {
        return refuse(Refusal::KeyTwice(id));
    }
    v.put(&TokenKeyRecord {
        id,
        state: KeyState::InRing {
            stage: Stage::Staged,
            sealed: sealed.clone(),
        },
        since: env.now,
        created_at: env.now,
    });
    Ok(Reply::Done)
}

/// Has a staged key seal, and the one that did so before retire.
pub fn promote(v: &mut View<'_>, env: &Env, id: KeyId) -> Step<Reply> {
    by_deployment_administrator(env)?;
    let new = at_stage(v, id, Stage::Staged, "promoted")?;
    let all = v.scan::<TokenKeyRecord>(&(), &Page::ALL)?;
    for sealing in all.iter().filter(|key| key.stage() == Some(Stage::Primary)) {
        // Read by its id, so that it is guarded by its revision as everything is that is written.
        if let Some(old) = v.get::<TokenKeyRecord>(&sealing.id)? {
            put(v, env, old, Stage::Retiring);
        }
    }
    put(v, env, new, Stage::Primary);
    Ok(Reply::Done)
}

/// Has a staged key retire without ever having sealed.
pub fn retire(v: &mut View<'_>, env: &Env, id: KeyId) -> Step<Reply> {
    by_deployment_administrator(env)?;
    let key = at_stage(
        v,
        id,
        Stage::Staged,
        "retired; promote another key, and the primary one retires",
    )?;
    put(v, env, key, Stage::Retiring);
    Ok(Reply::Done)
}

/// Forgets a retiring key.
pub fn destroy(
    v: &mut View<'_>,
    env: &Env,
    id: KeyId,
    needed_until: Option<Timestamp>,
    if_needed: IfNeeded,
) -> Step<Reply> {
    by_deployment_administrator(env)?;
    let key = at_stage(v, id, Stage::Retiring, "destroyed")?;
    if let Some(until) = needed_until.filter(|until| env.now < *until)
        && if_needed == IfNeeded::Keep
    {
        return refuse(Refusal::KeyNeeded { key: id, until });
    }
    v.put(&TokenKeyRecord {
        state: KeyState::Destroyed,
        since: env.now,
        ..key.into_inner()
    });
    // A host must give none of its tokens out, and has none that is good for longer.
    tell(v, env, Revoked::Key(id), env.now.plus_seconds(TOKEN_SECONDS));
    Ok(Reply::Done)
}

/// The keys, for administrators.
pub fn describe(v: &mut View<'_>, env: &Env) -> Step<Reply> {
    by_deployment_administrator(env)?;
    let all = v.scan::<TokenKeyRecord>(&(), &Page::ALL)?;
    Ok(Reply::Keys(all.into_iter().map(|key| unsealed(&key)).collect()))
}

/// A key without its bytes: nobody needs them even sealed.
fn unsealed(key: &TokenKeyRecord) -> TokenKeyRecord {
    let state = match &key.state {
        KeyState::InRing { stage, .. } => KeyState::InRing {
            stage: *stage,
            sealed: Value::from(""),
        },
        KeyState::Destroyed => KeyState::Destroyed,
    };
    TokenKeyRecord { state, ..key.clone() }
}

fn at_stage(v: &mut View<'_>, id: KeyId, stage: Stage, to: &'static str) -> Step<Kept<TokenKeyRecord>> {
    let key = v.get::<TokenKeyRecord>(&id)?;
    match key.as_ref().map(|key| key.stage()) {
        None | Some(None) => refuse(Refusal::UnknownKey(id)),
        Some(Some(is)) if is != stage => refuse(Refusal::KeyStage {
            key: id,
            is: word(is),
            must_be: word(stage),
            to,
        }),
        Some(Some(_)) => key.map_or_else(|| refuse(Refusal::UnknownKey(id)), Ok),
    }
}

fn put(v: &mut View<'_>, env: &Env, key: Kept<TokenKeyRecord>, to: Stage) {
    let key = key.into_inner();
    let state = match key.state {
        KeyState::InRing { sealed, .. } => KeyState::InRing { stage: to, sealed },
        KeyState::Destroyed => KeyState::Destroyed,
    };
    v.put(&TokenKeyRecord {
        state,
        since: env.now,
        ..key
    });
}

/// The stage as people read it.
pub const fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Staged => "staged",
        Stage::Primary => "primary",
        Stage::Retiring => "retiring",
    }
}
