//! The disk of an instance: a layer of its own over the image's, which lives as long as the instance does.

use anyhow::{Context, Result, bail, ensure};
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Plan, Programs, state_folder};
use moorline_lab::guest::{Control, seats};
use moorline_lab::image::Busybox;
use moorline_lab::{setup, wait};
use moorline_shared::InstanceId;
use moorline_shared::api::instances::{InstanceIds, InstanceState, RunInstances};
use std::path::Path;

/// What the image's disk begins with. The rest of it is zeroes.
const OF_THE_IMAGE: &str = "of the image";
const DISK_BYTES: usize = 1 << 20;

#[tokio::test]
async fn what_a_guest_writes_is_its_own_and_lives_as_long_as_its_instance() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().module("virtio_blk").build(tools).await?;
    let folder = state_folder()?;
    let disk = folder.path().join("image.raw");
    let before = image_disk();
    std::fs::write(&disk, &before)?;
    let seats = seats(2).await;
    let mut deployment = Plan::new(Programs::build().await?)
        .machines(tools, &image)
        .host("images.busybox", with_disk(&disk))
        .start()
        .await?;
    let ids = deployment.run(&seats, &instances(2)?).await?;
    let [a, b] = ids[..] else {
        bail!("two instances were asked for and {ids:?} made")
    };

    let (first, other) = (deployment.guest(a).await?, deployment.guest(b).await?);
    for guest in [&first, &other] {
        ensure!(read(guest).await? == OF_THE_IMAGE);
    }
    write(&first, "of A's first life").await?;
    ensure!(read(&other).await? == OF_THE_IMAGE, "B sees what A wrote");
    drop(first);

    let second = stop_and_start(&deployment, a).await?;
    ensure!(read(&second).await? == "of A's first life");
    deployment.kill_host().await?;
    write(&second, "of no daemon's time").await?;
    deployment.start_host().await?;
    ensure!(read(&second).await? == "of no daemon's time");
    drop(second);
    let third = stop_and_start(&deployment, a).await?;
    ensure!(read(&third).await? == "of no daemon's time");

    // The end of one leaves the other as it was, and a new one begins with what the image has.
    deployment.terminate(&[a]).await?;
    let gone = async || (!deployment.vm_folder(a).exists()).then_some(());
    wait::until("the terminated instance's disk to be gone", PATIENCE, gone).await?;
    ensure!(read(&other).await? == OF_THE_IMAGE);
    let made = deployment.run(&seats, &instances(1)?).await?;
    let new = made.first().context("an instance")?;
    ensure!(read(&deployment.guest(*new).await?).await? == OF_THE_IMAGE);
    ensure!(std::fs::read(&disk)? == before, "the image's disk was written to");
    Ok(())
}

fn image_disk() -> Vec<u8> {
    let mut bytes = OF_THE_IMAGE.as_bytes().to_vec();
    bytes.resize(DISK_BYTES, 0);
    bytes
}

fn with_disk(disk: &Path) -> String {
    format!("disk = {:?}\ndisk_format = \"raw\"", disk.display().to_string())
}

fn instances(count: u32) -> Result<RunInstances> {
    Ok(RunInstances {
        count,
        ..RunInstances::of(IMAGE.parse()?, "micro".parse()?)
    })
}

async fn stop_and_start(deployment: &Deployment, id: InstanceId) -> Result<Control> {
    let client = deployment.client();
    let ids = InstanceIds { instances: vec![id] };
    client.stop_instances(&ids, &fresh_key()).await?;
    deployment.reaches(id, InstanceState::Stopped).await?;
    client.start_instances(&ids, &fresh_key()).await?;
    deployment.reaches(id, InstanceState::Running).await?;
    deployment.guest(id).await
}

/// The text that the guest's disk begins with.
async fn read(guest: &Control) -> Result<String> {
    let text = guest.wait_for("test -b /dev/vda && head -c 512 /dev/vda", PATIENCE);
    Ok(text.await?.trim_end_matches('\0').to_owned())
}

/// Puts a text there. It is on the disk when this ends.
async fn write(guest: &Control, text: &str) -> Result<()> {
    let write = format!("printf %s \"{text}\" | dd of=/dev/vda bs=512 conv=sync,notrunc,fsync");
    guest.run(write).await?.text()?;
    Ok(())
}
