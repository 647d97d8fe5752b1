//! One instance through the lives of its guest: reboot, stop, start, terminate.

use super::{Guest, Scene};
use anyhow::{Context, Result, ensure};
use moorline_client::fresh_key;
use moorline_lab::deployment::{PATIENCE, STOP};
use moorline_lab::wait;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::{InstanceIds, InstanceState};
use std::collections::BTreeMap;
use std::time::Instant;

#[tokio::test]
async fn data_outlive_every_life_of_a_guest_but_the_last() -> Result<()> {
    let data = BTreeMap::from([(crate::alone::path("kept"), PutEntry::value("first".into()))]);
    let mut scene = Scene::open(1, data).await?;
    let first = scene.guests.pop().context("one guest")?;
    is_life(&scene, &first, 1, "first").await?;

    let second = rebooted(&scene, first).await.context("reboot")?;
    is_life(&scene, &second, 2, "first").await?;
    // What a life writes is there in the next.
    let (status, body) = second.own().http("PUT", "data/made/here").await?;
    ensure!(status == 200, "{body}");

    let third = stopped_and_started(&scene, second)
        .await
        .context("stop and start")?;
    is_life(&scene, &third, 3, "while it was off").await?;
    third.own().reads("made/here", "+").await?;

    terminated(&scene, third).await.context("terminate")
}

/// The guest, its agent and the control plane agree on which life it is, and the data are there.
async fn is_life(scene: &Scene, guest: &Guest, incarnation: u64, kept: &str) -> Result<()> {
    guest.own().reads("kept", kept).await?;
    let identity = guest.status().await?.identity.context("the guest's identity")?;
    let instance = scene.deployment.instance(guest.id).await?;
    ensure!(
        (identity.instance, identity.incarnation) == (guest.id, incarnation)
            && (instance.state, instance.incarnation) == (InstanceState::Running, incarnation),
        "life {incarnation} is {identity:?} and {instance:?}"
    );
    Ok(())
}

fn ids(guest: &Guest) -> InstanceIds {
    InstanceIds {
        instances: vec![guest.id],
    }
}

async fn rebooted(scene: &Scene, guest: Guest) -> Result<Guest> {
    let before = guest.control.boot_id().to_owned();
    let processes = scene.deployment.vm_processes();
    let client = scene.deployment.client();
    client.reboot_instances(&ids(&guest), &fresh_key()).await?;
    let id = guest.id;
    // The old life's QEMU serves one connection, and the new one's has the same name.
    drop(guest);
    let begun = async || {
        let instance = scene.deployment.instance(id).await.ok()?;
        (instance.incarnation == 2 && instance.state == InstanceState::Running).then_some(())
    };
    wait::until("the second life", PATIENCE, begun).await?;
    let guest = Guest::up(&scene.deployment, id).await?;
    ensure!(guest.control.boot_id() != before, "the guest is in the same boot");
    let now = scene.deployment.vm_processes();
    ensure!(
        now.len() == 2 && processes.iter().all(|pid| !now.contains(pid)),
        "{processes:?} became {now:?}"
    );
    Ok(guest)
}

async fn stopped_and_started(scene: &Scene, guest: Guest) -> Result<Guest> {
    let client = scene.deployment.client();
    let begun = Instant::now();
    client.stop_instances(&ids(&guest), &fresh_key()).await?;
    let stopped = scene.deployment.reaches(guest.id, InstanceState::Stopped).await?;
    ensure!(begun.elapsed() < STOP, "the guest didn't heed its power button");
    ensure!(
        (stopped.incarnation, &stopped.reason) == (2, &None),
        "{stopped:?}"
    );
    let left = scene.deployment.vm_processes();
    ensure!(left.is_empty(), "a stopped VM has processes: {left:?}");
    scene.put(guest.id, "kept", "while it was off").await?;
    client.start_instances(&ids(&guest), &fresh_key()).await?;
    scene.deployment.reaches(guest.id, InstanceState::Running).await?;
    Guest::up(&scene.deployment, guest.id).await
}

async fn terminated(scene: &Scene, guest: Guest) -> Result<()> {
    let folder = scene.deployment.vm_folder(guest.id);
    ensure!(folder.exists(), "{} isn't the VM's folder", folder.display());
    scene.deployment.terminate(&[guest.id]).await?;
    let gone = async || {
        let status = scene.deployment.guest_status(guest.id).await;
        (scene.deployment.vm_processes().is_empty() && !folder.exists() && status.is_none()).then_some(())
    };
    wait::until("the VM to be gone", PATIENCE, gone).await?;
    let client = scene.deployment.client();
    let again = client.start_instances(&ids(&guest), &fresh_key()).await;
    ensure!(again.is_err(), "a terminated instance was started: {again:?}");
    Ok(())
}
