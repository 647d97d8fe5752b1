//! A real system as a guest: Debian with the agent's unit of `packaging/`, started by the host daemon.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{IMAGE, Plan, Programs};
use moorline_lab::guest::seats;
use moorline_lab::image::Debian;
use moorline_lab::setup::{self, tools};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::RunInstances;
use std::collections::BTreeMap;
use std::time::Duration;

const UNIT: &str = include_str!("../../../packaging/systemd/moorline-agent.service");
const WANTED: &str = "etc/systemd/system/sysinit.target.wants/moorline-agent.service";

/// Emulated, it has come so far after a quarter of a minute.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn a_system_has_its_data_before_it_starts_its_services() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Debian::new()
        .program("usr/bin/moorline-agent", agent)
        .file("etc/systemd/system/moorline-agent.service", UNIT)
        .link(WANTED, "/etc/systemd/system/moorline-agent.service")
        .build(tools)
        .await?;
    let seats = seats(1).await;
    let deployment = Plan::new(Programs::build().await?)
        .machines(tools, &image)
        .start()
        .await?;
    let ids = deployment.run(&seats, &one_with_a_greeting()?).await?;
    let guest = deployment.guest(ids[0]).await?;

    guest
        .wait_for("systemctl is-system-running --wait", PATIENCE)
        .await?;
    let told = guest.run("moorline-agent get config/greeting").await?.text()?;
    ensure!(told == "hello", "the guest was told {told:?}");
    let shown = "systemctl show --property=ActiveState,NRestarts,User moorline-agent";
    let shown = guest.run(shown).await?.text()?;
    ensure!(
        shown.contains("ActiveState=active") && shown.contains("NRestarts=0"),
        "the agent's unit: {shown}"
    );
    let ready = microseconds(&guest.run(since_boot("moorline-agent.service")).await?.text()?)?;
    let basic = microseconds(&guest.run(since_boot("basic.target")).await?.text()?)?;
    println!("the agent was ready at {ready} us, services began at {basic} us");
    ensure!(ready <= basic, "services began before the agent had the data");
    Ok(())
}

fn one_with_a_greeting() -> Result<RunInstances> {
    let greeting = ("config/greeting".parse()?, PutEntry::value("hello".into()));
    Ok(RunInstances {
        data: BTreeMap::from([greeting]),
        ..RunInstances::of(IMAGE.parse()?, "small".parse()?)
    })
}

/// When a unit became active, in microseconds since the guest's boot.
fn since_boot(unit: &str) -> String {
    format!("systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}")
}

fn microseconds(text: &str) -> Result<u64> {
    text.trim().parse().with_context(|| format!("a time: {text:?}"))
}
