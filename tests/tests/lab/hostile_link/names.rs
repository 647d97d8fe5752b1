//! Guests that pretend to be somebody, or name what has no such name.

use super::{AT_ONCE, Raw, Trial};
use crate::talker::{Talker, hello};
use anyhow::{Context, Result, bail, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{External, PATIENCE};
use moorline_lab::wait;
use moorline_lab_load::frames::frame;
use moorline_shared::Revision;
use moorline_shared::api::data::PutEntry;
use moorline_shared::host::Unregister;
use moorline_shared::link::Kind;
use moorline_shared::link::body::{Code, GoAway, Relay};
use moorline_shared::link::session::GuestEvent;
use std::collections::BTreeMap;
use std::time::Instant;

#[tokio::test]
async fn row_4_the_next_instance_on_a_socket_sees_nothing_of_the_one_before() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let first = trial
        .deployment
        .attach("evil", &[("name", "evil"), ("secret/of-the-first", "1")])
        .await?;
    let attack = async {
        let mut before = Talker::begin(&first.socket()).await?;
        ensure!(before.mirror.text("secret/of-the-first").is_some());
        let manager = trial.deployment.register_socket()?;
        let taken = trial.deployment.register(None, "evil", BTreeMap::new()).await;
        ensure!(taken.is_err(), "a channel in use was given away");
        manager.unregister(&Unregister { instance: first.id }).await?;
        let goodbye = before.next().await?;
        ensure!(
            matches!(goodbye, Some(GuestEvent::GoAway(_))),
            "{goodbye:?} came at the end"
        );
        before.hung_up().await?;

        let second = trial.deployment.attach("evil", &[("name", "evil")]).await?;
        ensure!(second.socket() == first.socket(), "this is another socket");
        // What the guest says of its past counts for nothing.
        let mut says = hello();
        (says.incarnation, says.applied) = (Some(first.incarnation), before.mirror.at);
        let (mut after, ack) = Talker::dial_as(&second.socket(), says).await?;
        ensure!(ack.instance == second.id, "it is taken for {}", ack.instance);
        after.until("a snapshot", |mirror| mirror.snapshots == 1).await?;
        ensure!(
            after.mirror.text("secret/of-the-first").is_none(),
            "it sees the past"
        );
        for other in [None, Some(first.id)] {
            let refused = after.get_of(other, "secret/of-the-first").await?;
            ensure!(refused.is_err_and(|refused| refused.code == Code::NotFound as u16));
        }
        let status = trial
            .deployment
            .guest_status(second.id)
            .await
            .context("the guest")?;
        ensure!(
            status.requests.gets == 2,
            "it is charged with {:?}",
            status.requests
        );
        trial.forgives(&second).await
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_4_a_mirror_is_taken_for_in_step_only_where_it_can_be() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        for (incarnation, applied) in [
            (u64::MAX, Revision::new(1, 1)),
            (guest.incarnation, Revision::new(1, u64::MAX)),
            (guest.incarnation, Revision::new(u64::MAX, 1)),
            (0, Revision::new(0, 0)),
        ] {
            let mut says = hello();
            (says.incarnation, says.applied) = (Some(incarnation), Some(applied));
            let (mut talker, ack) = Talker::dial_as(&guest.socket(), says).await?;
            ensure!(ack.incarnation == guest.incarnation, "a guest chose its own life");
            talker.until("a snapshot", |mirror| mirror.snapshots == 1).await?;
            ensure!(talker.mirror.text("name").as_deref() == Some("evil"));
        }
        Ok(())
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_11_paths_are_compared_byte_by_byte_and_never_mended() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        let long = "a/".repeat(8_000);
        let deep = "a/".repeat(200) + "a";
        for path in [
            "",
            "/",
            "/name",
            "name/",
            "./name",
            "a/../name",
            "..",
            "../name",
            "a//b",
            "name\0",
            "%6eame",
            "name%2f",
            "NAME",
            "Name",
            "nam\u{e9}",
            "na\u{202e}me",
            "\u{202e}name",
            "-name",
            "name ",
            " name",
            "nam\u{0435}",
            "name\n",
            "\u{feff}name",
            &long,
            &deep,
        ] {
            let refused = talker.get(path).await?;
            let Err(refused) = refused else {
                bail!("{path:?} was taken for another path")
            };
            let known = [Code::Invalid as u16, Code::NotFound as u16];
            ensure!(known.contains(&refused.code), "{path:?}: {refused:?}");
            ensure!(
                !refused.message.chars().any(char::is_control),
                "{:?}",
                refused.message
            );
        }
        ensure!(
            talker.get("name").await?.is_ok(),
            "the guest is not served any more"
        );
        Ok(())
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_14_a_relay_is_made_in_the_guests_own_name_only() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let (own, other) = (guest.id, trial.honest.id);
    let target = format!("/v1/instances/{other}/data/name");
    let name = || ("moorline-instance".to_owned(), other.to_string());
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        for (method, target, headers) in [
            ("PUT", target.clone(), vec![name()]),
            (
                "PUT",
                target.clone(),
                vec![("Moorline-Instance".to_owned(), other.to_string())],
            ),
            (
                "PUT",
                target.clone(),
                vec![("authorization".to_owned(), "Bearer x".to_owned())],
            ),
            (
                "PUT",
                target.clone(),
                vec![("accept\r\nmoorline-instance".to_owned(), other.to_string())],
            ),
            (
                "PUT",
                target.clone(),
                vec![("accept".to_owned(), format!("x\r\nmoorline-instance: {other}"))],
            ),
            (
                "PUT",
                format!("/v1/instances/{own}/data/../../{other}/data/name"),
                vec![],
            ),
            (
                "PUT",
                format!("/v1/instances/{own}/data/%2e%2e/%2e%2e/{other}/data/name"),
                vec![],
            ),
            ("PUT", format!("//v1/instances/{other}/data/name"), vec![]),
            (
                "PUT",
                format!("http://127.0.0.1:1/v1/instances/{other}/data/name"),
                vec![],
            ),
            ("POST", "/v1/hosts/host-1/feed".to_owned(), vec![]),
            ("GET", "/v1/operations".to_owned(), vec![]),
            ("POST", "/v1/instances/terminate".to_owned(), vec![]),
            ("GET\r\nx", target.clone(), vec![]),
        ] {
            let relay = Relay {
                method: method.into(),
                target: target.clone(),
                headers,
                length: 0,
                body: r#"{"value":"taken over"}"#.into(),
            };
            let stream = talker.pass_on(relay)?;
            match talker.event_of(stream).await? {
                GuestEvent::Refused(..) => {}
                other => bail!("{other:?} came for {method} {target}"),
            }
        }
        // In its own name it is asked, and what it may not know of isn't there for it.
        let stream = talker.put(other, "name", "taken over").await?;
        let relayed = talker.relayed(stream).await?;
        ensure!(relayed.status == 404 || relayed.status == 403, "{relayed:?}");
        Ok(())
    };
    trial.withstands(attack).await?;
    let entry = trial
        .deployment
        .client()
        .get_instance_data(other, &"name".parse()?)
        .await?;
    ensure!(entry.version == 1, "the other guest's entry was changed");
    Ok(())
}

#[tokio::test]
async fn row_16_control_bytes_of_a_guest_reach_no_log_and_no_answer() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut says = hello();
        says.build = "agent\x1b[2J\r\nforged line".into();
        let (mut talker, _) = Talker::dial_as(&guest.socket(), says).await?;
        talker.until("a snapshot", |mirror| mirror.snapshots == 1).await?;
        let status = trial
            .deployment
            .guest_status(guest.id)
            .await
            .context("the guest")?;
        let build = status.connection.context("its connection")?.build;
        ensure!(!build.chars().any(char::is_control), "{build:?}");
        let mut raw = Raw::of(talker)?;
        let goodbye = GoAway {
            reason: "\x1b]0;title\x07\nforged line".into(),
            reconnect_after_ms: 0,
        };
        raw.say(&frame(Kind::GoAway, 1, 0, &goodbye)).await?;
        raw.ends_at_once().await?;
        // A build that is longer than a log should hold is cut, not believed.
        let mut says = hello();
        says.build = "x".repeat(900);
        let (_talker, _) = Talker::dial_as(&guest.socket(), says).await?;
        let status = trial
            .deployment
            .guest_status(guest.id)
            .await
            .context("the guest")?;
        ensure!(status.connection.context("its connection")?.build.len() <= 128);
        Ok(())
    };
    trial.withstands(attack).await?;
    let said = trial.deployment.host_said();
    let forged = said.lines().any(|line| line.starts_with("forged line"));
    ensure!(
        !forged && !said.contains("\x1b]0"),
        "the log holds what the guest wrote:\n{said}"
    );
    Ok(())
}

/// A guest that fails again and again fills no log.
#[tokio::test]
async fn row_16_faults_are_counted_but_not_all_told() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        for _ in 0..100 {
            let mut raw = Raw::dial(&guest).await?;
            raw.say(&[0; 10]).await?;
            raw.ended().await?;
        }
        ensure!(trial.faults(&guest).await? == 100, "not every fault was counted");
        let told = trial
            .deployment
            .host_said()
            .matches("a guest's connection ends")
            .count();
        ensure!((1..=30).contains(&told), "{told} lines tell of it");
        Ok(())
    };
    trial.withstands(attack).await
}

/// While a VM that is stopped is somebody's, whoever connects in its place is nobody.
#[tokio::test]
async fn row_4_between_two_lives_nobody_is_served() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut life = Talker::begin(&guest.socket()).await?;
        let manager = trial.deployment.register_socket()?;
        manager.unregister(&Unregister { instance: guest.id }).await?;
        life.hung_up().await?;
        ensure!(
            Talker::dial(&guest.socket()).await.is_err(),
            "a guest without a life was served"
        );
        let begun = Instant::now();
        let change = PutEntry::value("changed".into());
        let client = trial.deployment.client();
        client
            .put_instance_data(guest.id, &"name".parse()?, &change, &Terms::fresh())
            .await?;
        let again = trial
            .deployment
            .register(Some(guest.id), "evil", BTreeMap::new())
            .await?;
        ensure!(again.incarnation == guest.incarnation + 1, "{again:?}");
        next_life_reads(&again, "changed").await?;
        ensure!(
            begun.elapsed() < AT_ONCE * 5,
            "the next life took {:?}",
            begun.elapsed()
        );
        Ok(())
    };
    trial.withstands(attack).await
}

async fn next_life_reads(guest: &External, value: &str) -> Result<()> {
    let reads = async || {
        let mut talker = Talker::begin(&guest.socket()).await.ok()?;
        let found = talker.get("name").await.ok()?.ok()?;
        (*found.value == *value.as_bytes()).then_some(())
    };
    wait::until("the next life to read what changed in between", PATIENCE, reads).await
}
