//! The load: a user and a program in the guest write on, whatever happens.

use super::{Acknowledged, Victims};
use crate::agent::Caller;
use crate::alone::path;
use anyhow::{Context, Result, ensure};
use moorline_client::{Client, Terms};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::data::PutEntry;
use moorline_shared::{EntryPath, InstanceId};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How many entries each writer goes round.
const ENTRIES: u64 = 8;
/// Between two tries of a write, and between two writes of a guest.
const BREATH: Duration = Duration::from_millis(100);

/// All that write.
pub(super) struct Writers {
    tasks: JoinSet<Result<Acknowledged>>,
    done: CancellationToken,
}

impl Writers {
    /// Has a user and a program write to each guest's data.
    pub(super) fn start(victims: &Victims) -> Self {
        let (mut tasks, done) = (JoinSet::new(), CancellationToken::new());
        for (external, agent) in &victims.guests {
            let user = Writer::User(victims.deployment.client().clone());
            let guest = Writer::Guest(agent.caller().clone());
            for writer in [user, guest] {
                tasks.spawn(writer.write_on(external.id, done.clone()));
            }
        }
        Self { tasks, done }
    }

    /// Has each end once its last write is acknowledged, and tells what was.
    pub(super) async fn finish(mut self) -> Result<Acknowledged> {
        self.done.cancel();
        let all = async {
            let mut acknowledged = Acknowledged::new();
            while let Some(written) = self.tasks.join_next().await {
                acknowledged.extend(written??);
            }
            Ok(acknowledged)
        };
        let all = timeout(PATIENCE, all).await;
        all.context("a write is never acknowledged")?
    }
}

/// Who writes.
enum Writer {
    User(Client),
    /// The guest itself, by its agent.
    Guest(Caller),
}

impl Writer {
    /// What its entries lie below, which are its own.
    fn folder(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Guest(_) => "guest",
        }
    }

    /// Writes one entry after the other, each until it is acknowledged, until `done`.
    async fn write_on(self, instance: InstanceId, done: CancellationToken) -> Result<Acknowledged> {
        let mut acknowledged = Acknowledged::new();
        for n in 0_u64.. {
            if done.is_cancelled() {
                break;
            }
            let at = path(&format!("{}/{}", self.folder(), n % ENTRIES));
            let value = n.to_string();
            match &self {
                Self::User(client) => put(client, instance, &at, &value).await?,
                Self::Guest(agent) => set(agent, &at, &value).await,
            }
            let (last, times) = acknowledged.entry((instance, at)).or_default();
            (*last, *times) = (value, *times + 1);
        }
        Ok(acknowledged)
    }
}

async fn put(client: &Client, instance: InstanceId, at: &EntryPath, value: &str) -> Result<()> {
    let (body, terms) = (PutEntry::value(value.into()), Terms::fresh());
    while let Err(error) = client.put_instance_data(instance, at, &body, &terms).await {
        ensure!(
            error.may_have_happened() || error.is_silence(),
            "a write was refused: {error}"
        );
        sleep(BREATH).await;
    }
    Ok(())
}

async fn set(agent: &Caller, at: &EntryPath, value: &str) {
    let key = format!("guest-{value}");
    let set = ["set", at.as_str(), value, "--idempotency-key", &key];
    // Whatever went wrong, the same under the same key does it once.
    while agent.ask(&set).await.is_err() {
        sleep(BREATH).await;
    }
    sleep(BREATH).await;
}
