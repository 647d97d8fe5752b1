//! A real system as a guest: Debian with the agent's package, started by the host daemon.

use crate::packages;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, IMAGE, Plan, Programs};
use moorline_lab::guest::{Control, Seats, seats};
use moorline_lab::image::Debian;
use moorline_lab::setup;
use moorline_shared::InstanceId;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::RunInstances;
use std::collections::BTreeMap;
use std::time::Duration;

/// Where an image says that the agent serves EC2's metadata, too.
pub(crate) const IMDS: &str = "etc/systemd/system/moorline-agent.service.d/imds.conf";
/// What the image of a cloud says: where cloud-init's data are, whatever the machine's DMI says that it is. Of its modules
/// only that runs which the test is about: others set up what this image has not, as an SSH server, and take minutes.
const EC2: &str = "\
datasource_list: [Ec2]
datasource: {Ec2: {strict_id: false}}
cloud_init_modules: []
cloud_config_modules: []
cloud_final_modules: [scripts-user]
";

/// Emulated, a system has come so far after a quarter of a minute, and each of cloud-init's Python programs takes seconds.
const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until all units have started, and names those that failed.
const UP: &str = "systemctl is-system-running --wait || { systemctl --failed --plain --no-legend; false; }";

/// What says so, of this version of the service.
pub(crate) fn imds(version: &str) -> String {
    format!("[Service]\nExecStart=\nExecStart=/usr/bin/moorline-agent run --imds {version}\n")
}

/// An image with the agent's package, whose unit is enabled.
pub(crate) async fn with_agent(image: Debian) -> Result<Debian> {
    let agent = packages::agent(1).await?;
    Ok(image.installed(agent).enabled("moorline-agent", "sysinit.target"))
}

/// A system that is up, with the agent.
struct Scene {
    guest: Control,
    id: InstanceId,
    _deployment: Deployment,
    _seats: Seats,
}

impl Scene {
    /// Boots an image, with the agent in it and an instance of these entries, and waits until all of it has started.
    async fn open(image: Debian, data: &[(&str, &str)]) -> Result<Self> {
        let tools = setup::ready().await?;
        let image = with_agent(image).await?.build(tools).await?;
        let seats = seats(1).await;
        let plan = Plan::new(Programs::build().await?).machines(tools, &image);
        let deployment = plan.start().await?;
        let ids = deployment.run(&seats, &one(data)?).await?;
        let socket = deployment.vm_folder(ids[0]).join("run/control.sock");
        let guest = Control::connect(&socket, PATIENCE).await?;
        guest.wait_for(UP, PATIENCE).await?;
        Ok(Self {
            guest,
            id: ids[0],
            _deployment: deployment,
            _seats: seats,
        })
    }

    async fn text(&self, command: impl Into<String>) -> Result<String> {
        self.guest.run(command.into()).await?.text()
    }

    /// When something became of a unit, in microseconds since the guest's boot.
    async fn when(&self, unit: &str, what: &str) -> Result<u64> {
        let show = format!("systemctl show --property={what}TimestampMonotonic --value {unit}");
        let text = self.text(show).await?;
        text.trim().parse().with_context(|| format!("a time: {text:?}"))
    }

    /// Fails unless the agent had the guest's data when that became of a unit.
    async fn agent_was_ready_before(&self, unit: &str, what: &str) -> Result<()> {
        let ready = self.when("moorline-agent", "ActiveEnter").await?;
        let then = self.when(unit, what).await?;
        println!("the agent was ready at {ready} us, {what} of {unit} was at {then} us");
        ensure!(
            ready <= then,
            "{what} of {unit} was before the agent had the data"
        );
        Ok(())
    }

    /// Fails unless the agent is up since it was started first, and was in order with everything else.
    async fn agent_is_well(&self) -> Result<()> {
        let shown = "systemctl show --property=ActiveState,NRestarts,User moorline-agent";
        let shown = self.text(shown).await?;
        ensure!(
            shown.contains("ActiveState=active") && shown.contains("NRestarts=0"),
            "the agent's unit: {shown}"
        );
        // What systemd leaves out to break a cycle depends on the machine.
        let cycles = self
            .text("journalctl --boot --quiet | grep 'ordering cycle' || true")
            .await?;
        ensure!(cycles.is_empty(), "{cycles}");
        Ok(())
    }
}

fn one(data: &[(&str, &str)]) -> Result<RunInstances> {
    let entry = |(path, value): &(&str, &str)| Ok((path.parse()?, PutEntry::value((*value).into())));
    Ok(RunInstances {
        data: data.iter().map(entry).collect::<Result<BTreeMap<_, _>>>()?,
        ..RunInstances::of(IMAGE.parse()?, "small".parse()?)
    })
}

#[tokio::test]
async fn a_system_has_its_data_before_it_starts_its_services() -> Result<()> {
    let image = packages::beside(Debian::new(), 2, &[packages::agent(2).await?])?;
    let scene = Scene::open(image, &[("config/greeting", "hello")]).await?;
    let told = scene.text("moorline-agent get config/greeting").await?;
    ensure!(told == "hello", "the guest was told {told:?}");
    scene.agent_is_well().await?;
    scene
        .agent_was_ready_before("sysinit.target", "ActiveEnter")
        .await?;
    packages::agent_comes_and_goes(&scene.guest).await
}

#[tokio::test]
async fn cloud_init_finds_the_guests_data_without_a_network() -> Result<()> {
    let image = Debian::new()
        .package("cloud-init")
        .file("etc/cloud/cloud.cfg.d/90-source.cfg", EC2)
        .file(IMDS, imds("v1"));
    let user_data = "#!/bin/sh\nmoorline-agent get config/greeting >/run/greeted\n";
    let data = [("config/greeting", "hello"), ("user-data", user_data)];
    let scene = Scene::open(image, &data).await?;
    let said = scene.text("cloud-init status --wait --long || true").await?;
    let found = scene.text("cat /var/lib/cloud/data/instance-id").await?;
    ensure!(
        found.trim() == scene.id.to_string(),
        "cloud-init found {found}: {said}"
    );
    let greeted = scene.text("cat /run/greeted").await?;
    ensure!(greeted == "hello", "the user data did {greeted:?}: {said}");
    scene.agent_is_well().await?;
    scene
        .agent_was_ready_before("cloud-init-local", "InactiveExit")
        .await
}
