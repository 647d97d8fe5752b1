//! Connections that break in the middle of what they carry.

use crate::agent::Agent;
use crate::alone::path;
use crate::cutter::Cutter;
use anyhow::{Context, Result, ensure};
use moorline_client::{Client, fresh_key};
use moorline_lab::deployment::{Plan, Programs, free_port};
use moorline_shared::InstanceId;
use moorline_shared::api::data::{Action, Batch, Change, PutEntry};
use tokio_util::sync::CancellationToken;

/// Where answers are cut: within the first frame, between frames, within and behind a snapshot.
const CUTS: [u64; 10] = [1, 25, 26, 200, 1_000, 9_999, 40_000, 70_001, 90_000, 150_000];

/// Entries that always change together; the large one makes a batch of several frames.
const TOGETHER: [&str; 2] = ["pair/one", "pair/two"];

async fn change_both(client: &Client, instance: InstanceId, value: &str) -> Result<()> {
    let put = |at: &str, value: String| Change {
        path: path(at),
        guard: None,
        action: Action::Put(PutEntry::value((&*value).into())),
    };
    let mut changes: Vec<_> = TOGETHER.iter().map(|at| put(at, value.to_owned())).collect();
    changes.push(put("pair/large", format!("{value} {}", "x".repeat(60_000))));
    client
        .batch_instance_data(instance, &Batch { changes }, &fresh_key())
        .await?;
    Ok(())
}

/// What the agent reads is never half of a change, and never older than before.
async fn check_pairs(agent: &Agent, until: &CancellationToken) -> Result<u32> {
    let (mut reads, mut before) = (0, None);
    while !until.is_cancelled() {
        let listing = agent.list("pair").await?;
        let texts: Vec<_> = listing
            .entries
            .iter()
            .filter_map(|entry| entry.value.as_ref()?.text()?.split(' ').next())
            .collect();
        ensure!(
            texts.windows(2).all(|two| two[0] == two[1]),
            "half of a change is seen: {texts:?}"
        );
        ensure!(
            Some(listing.revision) >= before,
            "the mirror went back to {}",
            listing.revision
        );
        before = Some(listing.revision);
        reads += 1;
    }
    Ok(reads)
}

/// Invariant 3, where the agent's connection to its host breaks.
#[tokio::test]
async fn a_mirror_is_whole_however_its_connection_is_cut() -> Result<()> {
    let plan = Plan::new(Programs::build().await?);
    let deployment = plan.host("link", "connect_burst = 1000").start().await?;
    let guest = deployment.attach("a", &[]).await?;
    let client = deployment.client();
    change_both(client, guest.id, "0").await?;
    let place = deployment.folder().join("cut.sock");
    let cutter = Cutter::unix(&place, guest.socket())?;
    let agent = Agent::start(&deployment, "a", place).await?;
    let done = CancellationToken::new();
    let cutting = async {
        let _done = done.clone().drop_guard();
        for (n, bytes) in CUTS.into_iter().enumerate() {
            cutter.cut_after(bytes);
            cutter.more_connections().await?;
            change_both(client, guest.id, &format!("cut-{n}")).await?;
            cutter.mend();
            agent.reads(TOGETHER[0], &format!("cut-{n}")).await?;
        }
        Ok(())
    };
    let (reads, ()) = tokio::try_join!(check_pairs(&agent, &done), cutting)?;
    ensure!(reads > 0, "nothing was read meanwhile");
    Ok(())
}

/// The same where the host's connection to the control plane breaks.
#[tokio::test]
async fn a_feed_that_is_cut_anywhere_loses_nothing() -> Result<()> {
    let port = free_port()?;
    let (cutter, at) = Cutter::tcp(port)?;
    let plan = Plan::new(Programs::build().await?).control_port(port);
    let plan = plan.control_by_way_of(format!("https://127.0.0.1:{at}"));
    let deployment = plan.start().await?;
    let guest = deployment.attach("a", &[]).await?;
    let client = deployment.client();
    change_both(client, guest.id, "0").await?;
    let agent = Agent::start(&deployment, "a", guest.socket()).await?;
    agent.reads(TOGETHER[0], "0").await?;
    let host = deployment.host_pid().context("the host daemon runs")?;
    let done = CancellationToken::new();
    let cutting = async {
        let _done = done.clone().drop_guard();
        for (n, bytes) in CUTS.into_iter().enumerate() {
            cutter.cut_after(bytes);
            cutter.more_connections().await?;
            change_both(client, guest.id, &format!("cut-{n}")).await?;
            cutter.mend();
            cutter.cut();
            agent.reads(TOGETHER[0], &format!("cut-{n}")).await?;
        }
        Ok(())
    };
    let (reads, ()) =
        tokio::try_join!(check_pairs(&agent, &done), cutting).with_context(|| deployment.last_words())?;
    ensure!(reads > 0, "nothing was read meanwhile");
    ensure!(
        deployment.host_pid() == Some(host),
        "the host daemon was restarted"
    );
    Ok(())
}
