//! Very many feeds in one process, with nothing around them: what each takes in memory, and how long it takes to find out
//! whom a change concerns.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use moorline_control::http::feed::feeds::Feeds;
use moorline_control::http::feed::queue::Queue;
use moorline_control::identity::master::MasterKey;
use moorline_control::instances::records::InstanceRecord;
use moorline_control::model::Record as _;
use moorline_control::settings::AccessControl;
use moorline_control::store::{Store, Transaction, Watch, Write};
use moorline_shared::api::feed::OpenFeed;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::{HostId, InstanceId, Timestamp};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{open, resident_mib};

/// How many instances a transaction has that changes very many.
const GROUP: u32 = 2_000;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// What the index and the queues take for each feed, in KiB: a host with one instance, of which one change waits.
    kib_per_feed: f64,
    /// How long it took to tell whom one change concerned, each, in microseconds.
    dispatch_us: Vec<f64>,
}

/// Makes so many hosts with an instance each, opens their feeds, and has so many changes told.
pub(crate) async fn measure(path: &Path, hosts: u32, changes: u32) -> Result<Measured> {
    ensure!(!path.exists(), "{} is there already", path.display());
    let store = open(path)?;
    change_all(&store, hosts, 0).await?;
    let at = store.head().await?;
    let mut committed = store.watch(at).await?;
    let master = Arc::new(MasterKey::new(&Zeroizing::new([7; 32])));
    let before = resident_mib()?;
    let mut feeds = Feeds::read(&store, at, AccessControl::default(), master).await?;
    let queues = open_all(&mut feeds, hosts)?;
    change_all(&store, hosts, 1).await?;
    let head = store.head().await?;
    while feeds.position() < head {
        feeds.dispatch(&committed.next().await?);
    }
    ensure!(
        queues.iter().all(|queue| !queue.is_empty()),
        "a host was not told of its instance"
    );
    let kib_per_feed = (resident_mib()? - before) * 1_024.0 / f64::from(hosts);
    let dispatch_us = changes_one_by_one(&store, &mut feeds, &mut committed, hosts, changes).await?;
    store.close().await;
    Ok(Measured {
        kib_per_feed,
        dispatch_us,
    })
}

/// The queues of all hosts' feeds; what a feed begins with is let go, as it is once it was sent.
fn open_all(feeds: &mut Feeds, hosts: u32) -> Result<Vec<Arc<Queue>>> {
    let nobody = OpenFeed {
        cursor: None,
        interests: Vec::new(),
        poll: None,
    };
    (0..hosts)
        .map(|nth| Ok(feeds.open(host(nth)?, nobody.clone()).queue))
        .collect()
}

/// Commits one change after the other, and has each told: how long that took, in microseconds.
async fn changes_one_by_one(
    store: &Store,
    feeds: &mut Feeds,
    committed: &mut Watch,
    hosts: u32,
    changes: u32,
) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for nth in 0..changes {
        let mut transaction = Transaction::default();
        transaction.writes.push(put(nth % hosts, 2)?);
        store.commit(transaction).await.context("commit a change")?;
        let batch = committed.next().await?;
        let begun = Instant::now();
        feeds.dispatch(&batch);
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

/// Makes all instances, or changes each.
async fn change_all(store: &Store, hosts: u32, reboots: u64) -> Result<()> {
    let mut transaction = Transaction::default();
    for nth in 0..hosts {
        transaction.writes.push(put(nth, reboots)?);
        if (nth + 1) % GROUP == 0 || nth + 1 == hosts {
            let full = std::mem::take(&mut transaction);
            store.commit(full).await.context("commit instances")?;
        }
    }
    Ok(())
}

fn host(nth: u32) -> Result<HostId> {
    format!("host-{nth}").parse().context("the name of a host")
}

/// The instance of the `nth` host.
fn put(nth: u32, reboots: u64) -> Result<Write> {
    let mut id = [0x11; 16];
    id[..4].copy_from_slice(&nth.to_be_bytes());
    let record = InstanceRecord {
        id: InstanceId::from_bytes(id),
        account: "default".parse()?,
        name: Some(format!("instance-{nth}")),
        host: host(nth)?,
        zone: "zone-1".parse()?,
        driver: Driver::External,
        image: None,
        instance_type: None,
        vcpus: 0,
        memory_mib: 0,
        tags: Vec::new(),
        roles: Default::default(),
        desired: Desired::Running,
        state: InstanceState::Running,
        reason: None,
        incarnation: 1,
        session_ended_in: None,
        reboots,
        reboots_done: 0,
        created_at: Timestamp::from_millis(0).context("the beginning of time")?,
    };
    let value = serde_json::to_vec(&record).context("write an instance")?;
    Ok(Write::Put(record.own_key(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::measure;

    #[tokio::test]
    async fn every_feed_is_told_of_its_change() {
        let folder = tempfile::tempdir().unwrap();
        let measured = measure(&folder.path().join("store.db"), 50, 10).await.unwrap();
        assert_eq!(measured.dispatch_us.len(), 10);
    }
}
