//! A host that has everything to catch up on: more than any line or any memory is to hold at once.

use crate::alone::path;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use moorline_client::{Client, EventStream, fresh_key};
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs, host_name};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};
use moorline_shared::api::feed::{FeedItem, FeedMessage, MAX_LINE_BYTES, OpenFeed};
use moorline_shared::api::instances::RegisterInstance;
use moorline_shared::entry::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::timeout;

const INSTANCES: usize = 40;
/// Of each instance: four values of 250 KiB that aren't text.
const VALUES: usize = 4;
/// What is kept takes 39 MiB; the rest is the daemon itself, and what is on its way.
const HOST_MIB: u64 = 80;
static VALUE: [u8; 250 * 1_024] = [0xff; 250 * 1_024];

#[tokio::test]
async fn a_fresh_host_catches_up_on_forty_full_instances_line_by_line() -> Result<()> {
    let mut deployment = Plan::new(Programs::build().await?).start().await?;
    deployment.kill_host().await?;
    let mut ids = Vec::new();
    for n in 0..INSTANCES {
        ids.push(full_instance(deployment.client(), n).await?);
    }
    bounded_snapshot(&deployment).await?;

    deployment.start_host().await?;
    for id in &ids {
        wait::until("the host to have an instance's data", PATIENCE, async || {
            has_all(&deployment, *id).await
        })
        .await?;
    }
    let peak = peak_mib(deployment.host_pid().context("the host is gone")?)?;
    ensure!(peak < HOST_MIB, "the host daemon took {peak} MiB");
    Ok(())
}

async fn full_instance(client: &Client, n: usize) -> Result<InstanceId> {
    let body = RegisterInstance {
        host: host_name(),
        id: None,
        name: Some(format!("full-{n}")),
        tags: Vec::new(),
        roles: BTreeSet::new(),
        data: BTreeMap::new(),
    };
    let made = client.register_instance(&body, &fresh_key()).await?;
    let id = made.instances.first().context("an instance was made")?.id;
    let change = |nth: usize| Change {
        path: path(&format!("full/{nth}")),
        guard: None,
        action: Action::Put(PutEntry::value(Value::from(Bytes::from_static(&VALUE)))),
    };
    let changes = (0..VALUES).map(change).collect();
    client
        .batch_instance_data(id, &Batch { changes }, &fresh_key())
        .await?;
    Ok(id)
}

async fn has_all(deployment: &Deployment, id: InstanceId) -> Option<()> {
    let status = deployment.guest_status(id).await?;
    (status.bytes >= (VALUES * VALUE.len()) as u64).then_some(())
}

/// Reads a snapshot of everything as the host, and says if a line of it is too long or a view isn't whole.
async fn bounded_snapshot(deployment: &Deployment) -> Result<()> {
    let client = deployment.client_of_host()?;
    let mut feed = client.open_feed(&host_name(), &OpenFeed::default()).await?;
    let mut values = 0;
    loop {
        let message = next(&mut feed).await?;
        let length = serde_json::to_vec(&message)?.len();
        ensure!(length <= MAX_LINE_BYTES / 2, "a line of {length} bytes");
        let full = |path: &str| usize::from(path.starts_with("full/"));
        match message {
            FeedMessage::Part { items } => {
                for item in items {
                    if let FeedItem::View(view) = item {
                        values += view.entries.iter().map(|entry| full(&entry.path)).sum::<usize>();
                    }
                }
            }
            FeedMessage::More { entries, .. } => {
                values += entries.iter().map(|entry| full(&entry.path)).sum::<usize>();
            }
            FeedMessage::SnapshotEnd { .. } => break,
            FeedMessage::Hello { .. } | FeedMessage::Snapshot { .. } => {}
            other => bail!("{other:?} came in a snapshot"),
        }
    }
    ensure!(values == INSTANCES * VALUES, "{values} values came");
    Ok(())
}

async fn next(feed: &mut EventStream<FeedMessage>) -> Result<FeedMessage> {
    let message = timeout(PATIENCE, feed.next()).await.context("nothing came")?;
    Ok(message.context("the feed ended")??)
}

/// The most that a process ever had in memory, in MiB.
fn peak_mib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim_end_matches("kB").trim().parse::<u64>().ok());
    Ok(kib.context("the peak of a process")? / 1_024)
}
