//! The load of `fanout`: very many hosts in one process, each with a feed over a connection of its own.
//!
//! It is a task of the `lab` program, built as what is measured is built, which the bench starts on the load's core.

use super::servers;
use crate::deployment::enrolment;
use crate::process::memory;
use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use moorline_client::{Client, Endpoint, EventStream, Identity, Terms, fresh_key};
use moorline_lab_load::memory::{forget_peak, peak_bytes};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::feed::{FeedMessage, OpenFeed};
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::api::instances::RegisterInstance;
use moorline_shared::{HostId, InstanceId, Revision};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How many hosts are enrolled, and how many connect at first, at once.
const AT_ONCE: usize = 16;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Every so manieth host's instance changes while all are cut off.
const CHANGED_MEANWHILE: usize = 10;

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where the control plane listens.
    pub address: SocketAddr,
    /// The folder of its state, with its certificate and the administrator's token.
    pub state: PathBuf,
    /// Its process.
    pub server: u32,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many changes are followed, one after the other.
    pub changes: usize,
    /// How often all hosts are cut off at once.
    pub storms: usize,
}

/// What it measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What each connected feed takes of the control plane's memory, in KiB.
    pub kib_per_feed: f64,
    /// From a change's request until its host's feed had told of it, in milliseconds.
    pub change_ms: Vec<f64>,
    /// From when all were cut off until the last had everything again, in seconds, each time.
    pub storm_s: Vec<f64>,
    /// How much memory the control plane took at most meanwhile, against what it took before.
    pub peak_vs_steady: Vec<f64>,
}

/// Enrols the hosts, connects them, and measures.
pub async fn run(plan: Plan) -> Result<Measured> {
    let endpoint = servers::endpoint(plan.address, &plan.state)?;
    let administrator = Client::new(endpoint.clone())?;
    let nobody = Endpoint {
        token: None,
        ..endpoint
    };
    let fleet = enrol_all(&administrator, &nobody, plan.hosts).await?;
    let mut measured = Measured::default();
    let alone = memory(plan.server, "Rss:")?;
    let mut feeds = connect_all(&nobody, &fleet, &[], AT_ONCE).await?;
    let steady = memory(plan.server, "Rss:")?;
    measured.kib_per_feed = ratio(steady.saturating_sub(alone), 1_024) / ratio(fleet.len() as u64, 1);
    for nth in 0..plan.changes {
        // A step that shares no factor with their number: each has its turn.
        let of = nth * 7 % fleet.len();
        let took = follow(&administrator, fleet[of].instance, &mut feeds[of], nth).await?;
        measured.change_ms.push(took);
    }
    for nth in 0..plan.storms {
        let steady = memory(plan.server, "Rss:")?;
        let cursors: Vec<_> = feeds.iter().map(|feed| feed.at).collect();
        drop(feeds);
        let begun = Instant::now();
        forget_peak(plan.server)?;
        let news = change_some(&administrator, &fleet, nth).await?;
        feeds = connect_all(&nobody, &fleet, &cursors, fleet.len()).await?;
        for (nth, revision) in news {
            feeds[nth].until(revision).await?;
        }
        measured.storm_s.push(begun.elapsed().as_secs_f64());
        measured
            .peak_vs_steady
            .push(ratio(peak_bytes(plan.server)?, steady));
    }
    Ok(measured)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no 53 bits")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

/// A host that the control plane knows, and its only instance.
#[derive(Clone, Debug)]
struct Host {
    name: HostId,
    identity: Identity,
    instance: InstanceId,
}

async fn enrol_all(administrator: &Client, nobody: &Endpoint, count: usize) -> Result<Vec<Host>> {
    let mut fleet = Vec::with_capacity(count);
    let mut tasks = JoinSet::new();
    for nth in 0..count {
        if tasks.len() >= AT_ONCE {
            fleet.extend(joined(&mut tasks).await?);
        }
        tasks.spawn(enrol(administrator.clone(), nobody.clone(), nth));
    }
    while let Some(host) = joined(&mut tasks).await? {
        fleet.push(host);
    }
    Ok(fleet)
}

async fn joined<T: 'static>(tasks: &mut JoinSet<Result<T>>) -> Result<Option<T>> {
    match tasks.join_next().await {
        Some(done) => done.context("join a host's task")?.map(Some),
        None => Ok(None),
    }
}

async fn enrol(administrator: Client, nobody: Endpoint, nth: usize) -> Result<Host> {
    let name: HostId = format!("host-{nth}").parse()?;
    let identity = enrolment::identity(&administrator, nobody.clone(), &name).await?;
    let offer = RegisterHost {
        zone: "zone-1".parse()?,
        vcpus: 1,
        memory_mib: 128,
        images: Vec::new(),
    };
    let client = Client::new(nobody.identified(identity.clone()))?;
    client.register_host(&name, &offer, &fresh_key()).await?;
    let request = RegisterInstance {
        host: name.clone(),
        id: None,
        name: None,
        tags: Vec::new(),
        roles: BTreeSet::new(),
        data: BTreeMap::from([(servers::entry(), servers::value())]),
    };
    let made = administrator.register_instance(&request, &fresh_key()).await?;
    let instance = made.instances.first().context("no instance was made")?.id;
    Ok(Host {
        name,
        identity,
        instance,
    })
}

/// A host's feed, and how far it has told.
struct Feed {
    lines: EventStream<FeedMessage>,
    at: Option<Revision>,
}

impl Feed {
    /// Connects anew, and takes all that the feed begins with.
    async fn open(nobody: Endpoint, host: Host, cursor: Option<Revision>) -> Result<Self> {
        let client = Client::new(nobody.identified(host.identity))?;
        let open = OpenFeed {
            cursor,
            interests: Vec::new(),
            poll: None,
        };
        let lines = client.open_feed(&host.name, &open).await?;
        let mut feed = Self { lines, at: None };
        while feed.at.is_none() {
            feed.next().await?;
        }
        Ok(feed)
    }

    async fn next(&mut self) -> Result<()> {
        let line = timeout(PATIENCE, self.lines.next()).await;
        let line = line
            .context("a feed says nothing")?
            .context("a feed has ended")??;
        match line {
            FeedMessage::SnapshotEnd { to }
            | FeedMessage::Batch { to, .. }
            | FeedMessage::Bookmark { revision: to } => self.at = Some(to),
            _ => {}
        }
        Ok(())
    }

    /// Reads until the feed has told of all up to this revision.
    async fn until(&mut self, revision: Revision) -> Result<()> {
        while self.at < Some(revision) {
            self.next().await?;
        }
        Ok(())
    }
}

/// Connects all hosts, so many at once; those that were there before go on at their cursors.
async fn connect_all(
    nobody: &Endpoint,
    fleet: &[Host],
    cursors: &[Option<Revision>],
    at_once: usize,
) -> Result<Vec<Feed>> {
    let mut feeds: BTreeMap<usize, Feed> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    for (nth, host) in fleet.iter().enumerate() {
        if tasks.len() >= at_once {
            feeds.extend(joined(&mut tasks).await?);
        }
        let cursor = cursors.get(nth).copied().flatten();
        let open = Feed::open(nobody.clone(), host.clone(), cursor);
        tasks.spawn(async move { Ok((nth, open.await?)) });
    }
    while let Some(feed) = joined(&mut tasks).await? {
        feeds.extend([feed]);
    }
    ensure!(feeds.len() == fleet.len(), "a host has no feed");
    Ok(feeds.into_values().collect())
}

/// Changes an instance's entry, and waits until its host's feed tells of it: how long both took, in milliseconds.
async fn follow(administrator: &Client, instance: InstanceId, feed: &mut Feed, nth: usize) -> Result<f64> {
    let begun = Instant::now();
    let revision = change(administrator, instance, nth).await?;
    feed.until(revision).await?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

async fn change(administrator: &Client, instance: InstanceId, nth: usize) -> Result<Revision> {
    let put = PutEntry::value(format!("{nth:064}").as_str().into());
    let made = administrator
        .put_instance_data(instance, &servers::entry(), &put, &Terms::fresh())
        .await?;
    Ok(made.revision)
}

/// Changes the instances of some hosts: which, and when it was.
async fn change_some(administrator: &Client, fleet: &[Host], nth: usize) -> Result<Vec<(usize, Revision)>> {
    let mut changed = Vec::new();
    for (place, host) in fleet.iter().enumerate().step_by(CHANGED_MEANWHILE) {
        changed.push((place, change(administrator, host.instance, nth).await?));
    }
    Ok(changed)
}
