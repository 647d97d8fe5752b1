//! Sessions, tokens and keys on a real store.

mod groups;
mod keys;
mod sessions;

use std::sync::Arc;

use moorline_shared::id::DirectoryName;
use moorline_shared::{AccountId, OperationId, Principal};

use super::master::MasterKey;
use super::operations::{NewSession, Op, Reply};
use super::records::{SessionPurpose, SessionRecord};
use super::token::{Grant, Kind};
use super::tokens::{Minted, TokenRefusal, Tokens};
use super::{Model, open};
use crate::model::operation::{Effect, Operation as _};
use crate::model::replay::replay;
use crate::model::{Attempt, Caller, ExecuteError, Executor, Role};
use crate::services::{Services, provider};
use crate::settings::Settings;
use crate::store::{Store, sqlite};

/// A control plane's identities without a server.
pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) tokens: Tokens,
    pub(super) master: Arc<MasterKey>,
    folder: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (executor, master) = (executor_of(&folder), Arc::new(MasterKey::new(&[7; 32].into())));
        let tokens = open(&executor, &master).await.unwrap();
        Self {
            executor,
            tokens,
            master,
            folder,
        }
    }

    /// The same after a restart.
    pub(super) async fn restarted(self) -> Self {
        self.executor.store().close().await;
        let Self {
            executor,
            tokens,
            folder,
            ..
        } = self;
        drop((executor, tokens));
        let (executor, master) = (executor_of(&folder), Arc::new(MasterKey::new(&[7; 32].into())));
        let tokens = open(&executor, &master).await.unwrap();
        Self {
            executor,
            tokens,
            master,
            folder,
        }
    }

    pub(super) async fn run(&self, op: Op, caller: Caller) -> Result<Reply, ExecuteError> {
        let key = uuid::Uuid::new_v4().to_string().parse().unwrap();
        let id = OperationId::derive(&caller.principal, &key);
        let (effect, attempt) = (op.effect(), Attempt::new(op, caller, id));
        let done = match effect {
            Effect::Change => self.executor.execute(&Model, attempt).await?,
            Effect::Read => self.executor.read(&Model, attempt, None).await?,
        };
        self.tokens.reach(done.revision.n).await.unwrap();
        Ok(done.reply)
    }

    pub(super) async fn session(&self, name: &str) -> (SessionRecord, Grant) {
        let op = Op::CreateSession(new_session(name));
        match self.run(op, provider("identity")).await.unwrap() {
            Reply::Session {
                session,
                grant: Some(grant),
            } => (*session, grant),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn access(&self, (session, grant): &(SessionRecord, Grant)) -> Minted {
        let now = self.executor.now();
        self.tokens
            .mint(Kind::Access, session, *grant, None, 900, now)
            .unwrap()
    }

    pub(super) fn check(&self, minted: &Minted) -> Result<Principal, TokenRefusal> {
        let now = self.executor.now();
        let known = self
            .tokens
            .validate(minted.token.expose(), &[Kind::Access], now)?;
        Ok(known.bundle.subject)
    }

    /// What is in the store is what its records lead to.
    pub(super) async fn replay(&self) {
        let store = self.executor.store();
        let fork = replay(store, &Services::default()).await.unwrap();
        let live = store.dump(store.head().await.unwrap()).await.unwrap();
        assert_eq!(live.len(), fork.dump().count());
        for (live, replayed) in live.iter().zip(fork.dump()) {
            assert_eq!((&live.0, &live.1), (replayed.0, replayed.1));
        }
    }
}

fn executor_of(folder: &tempfile::TempDir) -> Executor {
    let options = sqlite::Options {
        retention: sqlite::Retention::All,
        ..Default::default()
    };
    let store = Store::open_sqlite(folder.path().join("store.db"), &options).unwrap();
    Executor::new(store, Settings::default(), MasterKey::for_tests())
}

pub(super) fn new_session(name: &str) -> NewSession {
    NewSession {
        principal: Principal::User(name.parse().unwrap()),
        directory: local(),
        account: account(),
        purpose: SessionPurpose::Login,
        client: None,
        lifetime: 3_600,
    }
}

pub(super) fn local() -> DirectoryName {
    "local".parse().unwrap()
}

pub(super) fn account() -> AccountId {
    "default".parse().unwrap()
}

pub(super) fn caller(name: &str, role: Role) -> Caller {
    Caller {
        principal: Principal::User(name.parse().unwrap()),
        account: account(),
        role,
        via: None,
        session: None,
    }
}

/// Why an operation was refused.
pub(super) fn kind_of(result: Result<Reply, ExecuteError>) -> String {
    match result {
        Err(ExecuteError::Refused { shown, .. }) => shown.kind.into_owned(),
        other => panic!("{other:?}"),
    }
}
