//! What an agent takes while nobody asks it anything, in a real guest.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::seats;
use moorline_lab::image::Busybox;
use moorline_lab::setup::{self, tools};
use moorline_shared::api::instances::RunInstances;

/// The most that may be in memory, in KiB.
const RESIDENT_KIB: u64 = 4 * 1024;
/// The most that may happen in a minute: the agent's threads go to sleep so often, and run for so long.
const SWITCHES: u64 = 30;
const PROCESSOR_MS: u64 = 5;
/// For how long the agent is watched, in seconds. Three heartbeats are sent meanwhile.
const WATCHED_SECONDS: u64 = 30;
/// How many times slower than a real one the processor of an emulated guest is at least.
const EMULATION: u64 = 10;

/// Prints the processor time of all threads in nanoseconds, how often they went to sleep, and the resident memory in
/// KiB; then the same again.
const WATCH: &str = r"p=$(pidof moorline-agent)
look() {
    cpu=0; for t in /proc/$p/task/*; do read -r ns _ < $t/schedstat; cpu=$((cpu + ns)); done
    switches=$(cat /proc/$p/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }')
    echo $cpu $switches $(awk '/^Rss/ { print $2 }' /proc/$p/smaps_rollup)
}
";

/// What the agent had taken at one moment.
#[derive(Clone, Copy, Debug)]
struct Taken {
    processor_ns: u64,
    switches: u64,
    resident_kib: u64,
}

impl Taken {
    fn parse(line: &str) -> Result<Self> {
        let numbers: Vec<u64> = line
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [processor_ns, switches, resident_kib] = numbers[..] else {
            anyhow::bail!("the guest says {line:?}");
        };
        Ok(Self {
            processor_ns,
            switches,
            resident_kib,
        })
    }
}

#[tokio::test]
async fn an_agent_that_nobody_asks_sleeps() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let seats = seats(1).await;
    let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let request = RunInstances::of(IMAGE.parse()?, "micro".parse()?);
    let ids = deployment.run(&seats, &request).await?;
    let guest = deployment.guest(*ids.first().context("an instance")?).await?;
    guest
        .wait_for("moorline-agent get meta/instance-id", PATIENCE)
        .await?;

    // Nothing is waited for: that nothing happens for so long is what is looked at.
    let script = format!("{WATCH}sleep 5; look; sleep {WATCHED_SECONDS}; look");
    let said = guest.run(script).await?.text()?;
    let looks: Vec<Taken> = said.lines().map(Taken::parse).collect::<Result<_>>()?;
    let [before, after] = looks[..] else {
        anyhow::bail!("the guest says {said:?}");
    };
    let per_minute = |before: u64, after: u64| (after - before) * 60 / WATCHED_SECONDS;
    let switches = per_minute(before.switches, after.switches);
    let processor_us = per_minute(before.processor_ns, after.processor_ns) / 1_000;
    let resident = after.resident_kib;
    println!("a minute: {switches} switches, {processor_us} us of an emulated processor; {resident} KiB");
    ensure!(resident <= RESIDENT_KIB, "{resident} KiB are in memory");
    ensure!(switches <= SWITCHES, "{switches} switches in a minute");
    ensure!(
        processor_us <= PROCESSOR_MS * 1_000 * EMULATION,
        "{processor_us} us of the processor in a minute"
    );
    Ok(())
}
