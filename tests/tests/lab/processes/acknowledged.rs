//! What was acknowledged, and its records, after the control plane was killed.

use crate::alone::{Alone, path};
use anyhow::{Context, Result, ensure};
use moorline_client::{Client, ClientError, Terms};
use moorline_lab::deployment::PATIENCE;
use moorline_lab::wait;
use moorline_shared::api::data::{Changed, Entry, ListQuery, PutEntry};
use moorline_shared::api::operations::{Operation, OperationQuery, Outcome};
use moorline_shared::{EntryPath, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinSet;

/// How many writes are acknowledged before each kill.
const WRITES: u64 = 200;

/// A control plane with a host that is only a name, and instances on it.
async fn with_instances(count: usize) -> Result<(Alone, Vec<InstanceId>)> {
    let alone = Alone::start().await?;
    alone.host("h").await?;
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(alone.instance("h", &format!("web-{n}")).await?);
    }
    Ok((alone, ids))
}

/// A change that was sent, and what came back.
struct Write {
    instance: InstanceId,
    path: EntryPath,
    terms: Terms,
    changed: Option<Changed>,
}

impl Write {
    fn body(&self) -> PutEntry {
        PutEntry::value((&*format!("value of {}", self.path)).into())
    }

    async fn send(&mut self, client: &Client) -> Result<(), ClientError> {
        let body = self.body();
        let sent = client
            .put_instance_data(self.instance, &self.path, &body, &self.terms)
            .await;
        self.changed = Some(sent?);
        Ok(())
    }
}

/// Writes one entry after the other until the control plane is gone.
async fn write_on(
    client: Client,
    instance: InstanceId,
    name: String,
    done: Arc<AtomicU64>,
) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for n in 0.. {
        let mut write = Write {
            instance,
            path: path(&format!("{name}/{n}")),
            terms: Terms::fresh(),
            changed: None,
        };
        let sent = write.send(&client).await;
        let lost = match &sent {
            Ok(()) => false,
            Err(error) if error.is_silence() => true,
            Err(_) => return sent.map(|()| writes).context("a write was refused"),
        };
        writes.push(write);
        if lost {
            break;
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(writes)
}

/// Every entry of the instances, by instance and path.
async fn entries(client: &Client, ids: &[InstanceId]) -> Result<BTreeMap<(InstanceId, EntryPath), Entry>> {
    let mut all = BTreeMap::new();
    for id in ids {
        let mut query = ListQuery {
            values: true,
            limit: Some(1_000),
            ..ListQuery::default()
        };
        loop {
            let page = client.list_instance_data(*id, &query).await?;
            all.extend(
                page.entries
                    .into_iter()
                    .map(|entry| ((*id, entry.path.clone()), entry)),
            );
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
    }
    Ok(all)
}

/// Every record of a put.
async fn records_of_puts(client: &Client) -> Result<Vec<Operation>> {
    let mut all = Vec::new();
    let mut query = OperationQuery {
        limit: Some(1_000),
        ..OperationQuery::default()
    };
    loop {
        let page = client.list_operations(&query).await?;
        all.extend(page.operations);
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }
    all.retain(|operation| operation.api == "PutInstanceData");
    Ok(all)
}

/// Invariants 2 and 4.
#[tokio::test]
async fn what_was_acknowledged_survives_kills_of_the_control_plane_with_one_record_each() -> Result<()> {
    let (mut alone, ids) = with_instances(4).await?;
    let mut writes = Vec::new();
    for round in 0..3 {
        let mut tasks = JoinSet::new();
        let done = Arc::new(AtomicU64::new(0));
        for (n, id) in ids.iter().cycle().take(8).enumerate() {
            let name = format!("round-{round}/writer-{n}");
            tasks.spawn(write_on(alone.client().clone(), *id, name, done.clone()));
        }
        let enough = async || (done.load(Ordering::SeqCst) >= WRITES).then_some(());
        wait::until("writes to be under way", PATIENCE, enough).await?;
        alone.control.kill().await?;
        for written in tasks.join_all().await {
            writes.extend(written?);
        }
        alone.control.restart().await?;
        let here = entries(alone.client(), &ids).await?;
        for write in &writes {
            if let Some(changed) = &write.changed {
                let entry = here.get(&(write.instance, write.path.clone()));
                let entry = entry.with_context(|| format!("{} was acknowledged and is lost", write.path))?;
                ensure!(
                    entry.revision == changed.revision,
                    "{} is another one",
                    write.path
                );
                ensure!(
                    entry.value == Some(write.body().value),
                    "{} has another value",
                    write.path
                );
            }
        }
        ask_again(alone.client(), &mut writes, &here).await?;
    }
    let here = entries(alone.client(), &ids).await?;
    let written = here
        .values()
        .filter(|entry| entry.path.starts_with("round-"))
        .count();
    ensure!(
        written == writes.len(),
        "{written} entries came of {} writes",
        writes.len()
    );
    let records = records_of_puts(alone.client()).await?;
    ensure!(records.iter().all(|record| record.outcome == Outcome::Done));
    let recorded: BTreeSet<_> = records.iter().map(|record| record.id).collect();
    let answered: BTreeSet<_> = writes
        .iter()
        .filter_map(|write| Some(write.changed.as_ref()?.operation))
        .collect();
    ensure!(recorded.len() == records.len(), "an operation has two records");
    ensure!(
        recorded == answered,
        "{} records stand for {} operations",
        recorded.len(),
        answered.len()
    );
    Ok(())
}

/// Sends the changes whose answers were lost once more. What was done already is not done again.
async fn ask_again(
    client: &Client,
    writes: &mut [Write],
    here: &BTreeMap<(InstanceId, EntryPath), Entry>,
) -> Result<()> {
    for write in writes.iter_mut().filter(|write| write.changed.is_none()) {
        write.send(client).await?;
        let changed = write.changed.as_ref().context("it was answered")?;
        let before = here.get(&(write.instance, write.path.clone()));
        ensure!(
            before.is_none_or(|before| before.revision == changed.revision),
            "{} was done again",
            write.path
        );
        let entry = client.get_instance_data(write.instance, &write.path).await?;
        ensure!(
            (entry.revision, entry.version) == (changed.revision, 1),
            "{} was done twice",
            write.path
        );
    }
    Ok(())
}
