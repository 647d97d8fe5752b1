//! A guest's own data: what is withheld from it, withdrawn, or runs out.

use super::values::Way;
use super::{Guest, Scene};
use crate::alone::{path, readers};
use anyhow::{Context, Result, ensure};
use moorline_lab::guest::Shell;
use moorline_shared::api::data::PutEntry;
use std::collections::BTreeMap;

#[tokio::test]
async fn row_12_what_a_guest_may_not_have_of_its_own_is_not_in_its_mirror() -> Result<()> {
    let secret = PutEntry {
        access: Some(readers(&[])?),
        ..PutEntry::value("not for the guest".into())
    };
    let data = BTreeMap::from([
        (path("withheld/secret"), secret),
        (path("withheld/not"), PutEntry::value("for the guest".into())),
    ]);
    let mut scene = Scene::open(1, data).await?;
    let guest = &scene.guests.pop().context("one guest")?;
    what_was_withheld_from_the_start(&scene, guest)
        .await
        .context("withheld")?;
    what_is_withdrawn_later(&scene, guest)
        .await
        .context("withdrawn")?;
    what_is_withdrawn_while_the_host_is_away(&mut scene, guest)
        .await
        .context("withdrawn while the host daemon was away")?;
    what_an_ordinary_user_may_do(&scene, guest)
        .await
        .context("an ordinary user")?;
    let way = Way {
        scene: &scene,
        owner: guest.id,
        access: readers(&["owner"])?,
        view: guest.own(),
    };
    way.is_good().await?;
    the_mirror_holds_what_is_listed(guest).await
}

async fn what_was_withheld_from_the_start(scene: &Scene, guest: &Guest) -> Result<()> {
    guest.own().reads("withheld/not", "for the guest").await?;
    guest.own().hides("withheld/secret").await?;
    ensure!(guest.own().names("withheld").await? == ["withheld/not"]);
    // Another value doesn't show it either.
    let mut watch = guest.own().watch("withheld").await?;
    scene.put(guest.id, "withheld/secret", "another").await?;
    scene.put(guest.id, "withheld/not", "another").await?;
    let seen = watch.to("withheld/not").await?;
    ensure!(seen.len() == 1, "{seen:?}");
    guest.own().hides("withheld/secret").await?;
    the_mirror_holds_what_is_listed(guest).await
}

/// Every program reads; what changes in the instance's name, root's programs change.
async fn what_an_ordinary_user_may_do(scene: &Scene, guest: &Guest) -> Result<()> {
    let before = scene.master(guest.id, "withheld/not").await?;
    let socket = moorline_shared::agent::DEFAULT_SOCKET;
    let status = async |options: &str| {
        let curl = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}' {options} --unix-socket {socket} http://agent/v1/data/withheld/not"
        );
        guest.control.run(Shell::ordinary(curl)).await?.text()
    };
    for change in ["-X PUT --data-binary +", "-X POST --data-binary +", "-X DELETE"] {
        let answer = status(change).await?;
        ensure!(answer == "403", "{change} was answered by {answer}");
    }
    let answer = status("").await?;
    ensure!(answer == "200", "reading was answered by {answer}");
    ensure!(scene.master(guest.id, "withheld/not").await? == before);
    Ok(())
}

/// By the agent's own count, the mirror holds nothing besides what it shows.
async fn the_mirror_holds_what_is_listed(guest: &Guest) -> Result<()> {
    let listed = guest.own().names("").await?;
    let mirror = guest.status().await?.mirror.context("the mirror's status")?;
    ensure!(
        mirror.entries == listed.len() as u64,
        "{mirror:?} besides what is listed: {listed:?}"
    );
    Ok(())
}

async fn what_is_withdrawn_later(scene: &Scene, guest: &Guest) -> Result<()> {
    let at = "lent/entry";
    let before = session(guest).await?;
    let mut watch = guest.own().watch("lent").await?;
    scene.put(guest.id, at, "lent").await?;
    watch.shows(at).await?;
    guest.own().reads(at, "lent").await?;
    for _ in 0..2 {
        scene.set_access(guest.id, at, readers(&[])?).await?;
        watch.loses(at).await?;
        guest.own().hides(at).await?;
        the_mirror_holds_what_is_listed(guest).await?;
        scene.set_access(guest.id, at, readers(&["owner"])?).await?;
        watch.shows(at).await?;
        guest.own().reads(at, "lent").await?;
    }
    // Neither the agent nor its session with the host had to begin anew for it.
    let after = session(guest).await?;
    ensure!(after == before, "session {before} became {after}");
    Ok(())
}

async fn what_is_withdrawn_while_the_host_is_away(scene: &mut Scene, guest: &Guest) -> Result<()> {
    let at = "lent/entry";
    let mut watch = guest.own().watch("lent").await?;
    scene.deployment.kill_host().await?;
    scene.set_access(guest.id, at, readers(&[])?).await?;
    // Nobody can tell the guest yet.
    guest.own().reads(at, "lent").await?;
    scene.deployment.start_host().await?;
    watch.loses(at).await?;
    guest.own().hides(at).await?;
    the_mirror_holds_what_is_listed(guest).await
}

async fn session(guest: &Guest) -> Result<u64> {
    let identity = guest.status().await?.identity;
    Ok(identity.context("the guest's identity")?.session)
}
