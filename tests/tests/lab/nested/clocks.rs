//! Clocks that somebody sets, of the host and of a guest, while the guest is connected.

use super::host::Host;
use anyhow::{Context, Result, ensure};
use moorline_shared::agent::{EntryReading, Freshness};
use std::time::{Duration, Instant};

/// By how many seconds the clocks are set, one after the other: back by a day, and an hour forward.
const STEPS: [i64; 2] = [-86_400, 3_600];
/// How long an entry is valid, in seconds.
const VALID: u64 = 15;
/// By when at most it is gone, and how old at most is what a guest reads that is in step: emulated, a command takes seconds.
const SLACK: Duration = Duration::from_secs(30);

/// Sets the host's clock and the guest's, and makes sure that nothing depends on what they say.
pub(super) async fn are_set(host: &Host, id: &str) -> Result<()> {
    let session = host.session(id).await?;
    let watch = "setsid moorline-agent watch --json clock >/tmp/clock.watch 2>&1 &";
    host.in_guest(id, watch).await?;
    for seconds in STEPS {
        host.sh(&set_by(seconds)).await?;
        goes_on(host, id, &format!("host{seconds}")).await?;
        host.in_guest(id, &set_by(seconds)).await?;
        goes_on(host, id, &format!("guest{seconds}")).await?;
        host.has_come_to(&format!("clocks set by {seconds} s"));
    }
    let now = host.session(id).await?;
    ensure!(now == session, "session {session} became {now}");
    // A daemon that begins in what its certificates take for the past gets by all the same.
    host.sh("systemctl restart moorline-host").await?;
    goes_on(host, id, "restarted").await
}

fn set_by(seconds: i64) -> String {
    format!("date -s @$(( $(date +%s) + {seconds} ))")
}

/// A user's change reaches the guest and those who watch there, the guest's own is made, and what is valid for a while
/// ends.
async fn goes_on(host: &Host, id: &str, value: &str) -> Result<()> {
    let all = async {
        host.wait_for(&format!("moorline data set {id} clock/user {value}"))
            .await?;
        host.wait_in_guest(id, &format!("moorline-agent get clock/user | grep -x -e {value}"))
            .await?;
        host.wait_in_guest(id, &format!("grep -e {value} /tmp/clock.watch"))
            .await?;
        is_fresh(host, id).await?;
        host.wait_in_guest(id, &format!("moorline-agent set clock/guest {value}"))
            .await?;
        ends_in_time(host, id).await
    };
    all.await.with_context(|| format!("after {value}"))
}

async fn is_fresh(host: &Host, id: &str) -> Result<()> {
    let read = host.in_guest(id, "moorline-agent get --json clock/user").await?;
    let read: EntryReading = serde_json::from_str(&read)?;
    ensure!(
        read.freshness == Freshness::Fresh && u128::from(read.age_ms) < SLACK.as_millis(),
        "{read:?}"
    );
    Ok(())
}

/// An entry that is valid for a while is there, and is gone after it, by a clock that nobody sets.
async fn ends_in_time(host: &Host, id: &str) -> Result<()> {
    host.in_guest(
        id,
        &format!("moorline-agent set clock/short {VALID} --ttl {VALID}"),
    )
    .await?;
    let made = Instant::now();
    host.in_guest(id, "moorline-agent get clock/short").await?;
    host.wait_in_guest(id, "! moorline-agent get clock/short").await?;
    let gone = made.elapsed();
    let most = Duration::from_secs(VALID) + SLACK;
    ensure!(gone < most, "what was valid for {VALID} s was there for {gone:?}");
    Ok(())
}
