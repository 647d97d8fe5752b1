//! Only the root of a guest may speak for it: what other processes try in a real guest, over hybrid vsock, with a key
//! from the VMM and with one that the host gave over the link. (`nested` has the same over `AF_VSOCK`.)

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, External, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::{Control, Guest, GuestOptions, Seats, Shell, seats};
use moorline_lab::image::{Busybox, Image};
use moorline_lab::setup::{self, Tools, tools};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::api::instances::RunInstances;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Duration;

const FROM_THE_VMM: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.moorline.link-key/raw";
const FROM_THE_HOST: &str = "/var/lib/moorline/agent/link-key";
/// For an agent to come back after its backoff.
const COMES_BACK: Duration = Duration::from_mins(1);

/// A guest with an agent.
async fn image(tools: &Tools) -> Result<Image> {
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    Busybox::new().agent(agent).build(tools).await
}

async fn session(deployment: &Deployment, id: InstanceId) -> Option<u64> {
    let status = deployment.guest_status(id).await?;
    Some(status.connection?.session)
}

/// Waits until the guest's agent has its data, and answers with the number of its session.
async fn connected(deployment: &Deployment, id: InstanceId) -> Result<u64> {
    let there = async || {
        let status = deployment.guest_status(id).await?;
        let connection = status.connection?;
        connection.applied.map(|_| connection.session)
    };
    wait::until("the guest's agent to have its data", COMES_BACK, there)
        .await
        .with_context(|| deployment.last_words())
}

/// What uid 1000 tries against the agent of the guest, whose link key lies in this file.
async fn tries_everything(
    deployment: &Deployment,
    id: InstanceId,
    control: &Control,
    key: &str,
) -> Result<()> {
    let before = connected(deployment, id).await?;
    let stranger = control.run(Shell::ordinary(format!("cat {key}"))).await?;
    ensure!(!stranger.succeeded(), "uid 1000 can read {key}");
    let size = control.run(format!("cat {key} | wc -c")).await?.text()?;
    ensure!(size == "32", "the key has {size} bytes");
    let overheard = control.run(format!("lab-guest show-proof {key}")).await?.text()?;
    let tricks = format!("lab-guest intrude {overheard}");
    println!("{}", control.run(Shell::ordinary(tricks)).await?.text()?);
    ensure!(
        session(deployment, id).await == Some(before),
        "the agent has lost its session"
    );
    control
        .run("moorline-agent get meta/instance-id")
        .await?
        .text()
        .map(drop)
}

#[tokio::test]
async fn a_user_in_a_guest_whose_vmm_passes_the_key_gets_nothing() -> Result<()> {
    let tools = setup::ready().await?;
    let image = image(tools).await?;
    let seats = seats(1).await;
    let mut deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let request = RunInstances::of(IMAGE.parse()?, "micro".parse()?);
    let ids = deployment.run(&seats, &request).await?;
    let id = *ids.first().context("an instance")?;
    let control = deployment.guest(id).await?;
    tries_everything(&deployment, id, &control, FROM_THE_VMM).await?;
    let nothing = control.run(format!("test -e {FROM_THE_HOST}")).await?;
    ensure!(!nothing.succeeded(), "the host gave a key that the guest had");
    let left = deployment.vm_folder(id).join("run/link-key").exists();
    ensure!(!left, "the key lies where QEMU has read it");

    // The next daemon knows the same key, and whoever has none is nobody to it as well.
    deployment.kill_host().await?;
    deployment.start_host().await?;
    tries_everything(&deployment, id, &control, FROM_THE_VMM).await
}

/// Boots a guest in a VM that the host daemon knows by this name, with an entry that tells it, too.
async fn boot(
    deployment: &Deployment,
    seats: &Seats,
    image: &Image,
    name: &str,
) -> Result<(External, Guest)> {
    let tools = setup::ready().await?;
    let external = deployment.attach(name, &[("name", name)]).await?;
    let options = GuestOptions::new(image).vsock_at(external.device());
    let guest = Guest::boot(seats, tools, options).await?;
    Ok((external, guest))
}

/// Has the agent's program begin anew, as a reboot does, and waits until the host speaks with the new one.
async fn restart_agent(deployment: &Deployment, id: InstanceId, guest: &Guest) -> Result<()> {
    let before = connected(deployment, id).await?;
    guest.run("killall moorline-agent").await?.text()?;
    let anew = async || session(deployment, id).await.filter(|session| *session != before);
    wait::until("another session", COMES_BACK, anew).await.map(drop)
}

#[tokio::test]
async fn a_user_in_a_guest_that_was_given_its_key_gets_nothing() -> Result<()> {
    let tools = setup::ready().await?;
    let image = image(tools).await?;
    let seats = seats(1).await;
    let mut deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let (external, guest) = boot(&deployment, &seats, &image, "given").await?;
    let id = external.id;
    tries_everything(&deployment, id, guest.control(), FROM_THE_HOST).await?;
    let modes = format!("stat -c %a {FROM_THE_HOST} /var/lib/moorline/agent");
    ensure!(guest.run(modes).await?.text()? == "600\n700");

    deployment.kill_host().await?;
    deployment.start_host().await?;
    restart_agent(&deployment, id, &guest).await?;
    tries_everything(&deployment, id, guest.control(), FROM_THE_HOST).await?;

    // A key that is none of the next life's: it is refused, and the guest is given its own. Until it has the other one
    // the agent is held, because it would be given the key that is then overwritten.
    guest.run("killall -STOP moorline-agent").await?.text()?;
    let again = begin_another_life(&deployment, &external).await?;
    let other = format!("head -c 32 /dev/urandom > {FROM_THE_HOST} && killall -KILL moorline-agent");
    guest.run(other).await?.text()?;
    tries_everything(&deployment, id, guest.control(), FROM_THE_HOST).await?;

    // Without a disk a reboot loses the key: the guest is nobody until another life begins.
    let lost = format!("rm -r {FROM_THE_HOST} && killall moorline-agent");
    guest.run(lost).await?.text()?;
    let denied = "moorline-agent status | grep 'no proof'";
    guest.wait_for(denied, PATIENCE).await?;
    ensure!(session(&deployment, id).await.is_none(), "somebody speaks for it");
    let third = begin_another_life(&deployment, &again).await?;
    tries_everything(&deployment, id, guest.control(), FROM_THE_HOST).await?;
    ensure!(third.incarnation > again.incarnation && again.incarnation > external.incarnation);
    Ok(())
}

/// A copied disk brings the key that the first machine proves itself by. At the second it opens nothing: neither in a life
/// whose key is given out, nor in the next one, in which the second machine is given a key of its own.
#[tokio::test]
async fn a_copied_disk_makes_no_machine_another() -> Result<()> {
    let tools = setup::ready().await?;
    let image = image(tools).await?;
    let seats = seats(2).await;
    let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let (first, original) = boot(&deployment, &seats, &image, "first").await?;
    let (second, copy) = boot(&deployment, &seats, &image, "second").await?;
    let before = connected(&deployment, first.id).await?;
    connected(&deployment, second.id).await?;

    let read_key = || format!("base64 {FROM_THE_HOST}");
    let key = original.run(read_key()).await?.text()?;
    let copied = format!("echo {key} | base64 -d > {FROM_THE_HOST} && killall moorline-agent");
    copy.run(copied).await?.text()?;
    let refused = "moorline-agent status | grep 'not made with the link key'";
    copy.wait_for(refused, PATIENCE).await?;
    let shown = copy.run("moorline-agent get name").await?;
    ensure!(!shown.succeeded(), "the copy is shown {:?}", shown.text());
    ensure!(session(&deployment, second.id).await.is_none());

    begin_another_life(&deployment, &second).await?;
    connected(&deployment, second.id).await?;
    let own = copy.run(read_key()).await?.text()?;
    ensure!(own != key, "the key of the first machine is good at the second");
    for (guest, name) in [(&copy, "second"), (&original, "first")] {
        let told = guest.run("moorline-agent get name").await?.text()?;
        ensure!(told == name, "the guest of {name} is told {told}");
    }
    ensure!(session(&deployment, first.id).await == Some(before));
    Ok(())
}

/// Registers the VM anew, as its manager does when it restored it.
async fn begin_another_life(deployment: &Deployment, of: &External) -> Result<External> {
    let name = of.device().file_name().and_then(OsStr::to_str);
    let name = name.context("the VM has a name")?;
    deployment.register(Some(of.id), name, BTreeMap::new()).await
}
