//! What was revoked counts at once, as a host hears it over real HTTP/2 and as users see it.

use super::feed::host::Host;
use crate::alone::Alone;
use anyhow::{Context, Result, ensure};
use moorline_client::{ClientError, fresh_key};
use moorline_shared::InstanceId;
use moorline_shared::api::feed::{MAX_SILENCE_MS, Revoked};
use moorline_shared::api::identity::{CreateUser, LogIn, RefreshTokens};
use moorline_shared::api::session::{CreateInstanceSession, InstanceSession, SESSION_ENDED};
use std::time::{Duration, Instant};

/// What is revoked counts everywhere before this is over.
const GOAL: Duration = Duration::from_secs(1);

/// A life of an instance begins its session, as the host that has it asks for it.
async fn begin_session(
    host: &Host,
    instance: InstanceId,
    incarnation: u64,
) -> Result<InstanceSession, ClientError> {
    let body = CreateInstanceSession {
        incarnation,
        instead_of: None,
    };
    host.client
        .create_instance_session(&host.name, instance, &body)
        .await
}

#[tokio::test]
async fn a_host_hears_within_a_second_that_a_guests_session_ended_and_gets_no_other_for_that_life()
-> Result<()> {
    let alone = Alone::start().await?;
    let mut host = Host::open("h", alone.host("h").await?).await?;
    let mut other = Host::open("other", alone.host("other").await?).await?;
    let instance = alone.instance("h", "web").await?;
    let session = begin_session(&host, instance, 1).await?.session;
    host.bookmark().await?;
    let began = Instant::now();
    alone.client().end_session(&session, &fresh_key()).await?;
    let told = host.told().await?;
    let took = began.elapsed();
    ensure!(took < GOAL, "it took {took:?}");
    let expected = Revoked::Session {
        instance,
        id: session.clone(),
    };
    ensure!(
        told.revoked == expected && Some(told.sequence) > host.cursor,
        "{told:?}"
    );

    let refused = begin_session(&host, instance, 1).await;
    let kind = refused
        .as_ref()
        .err()
        .and_then(ClientError::problem)
        .map(|problem| &*problem.kind);
    ensure!(kind == Some(SESSION_ENDED), "{kind:?}");
    let next = begin_session(&host, instance, 2).await?.session;
    ensure!(next != session, "the dead session came back");

    // It was away meanwhile, and hears it again; whoever has no guest that it is about never hears it.
    host.reopen(Vec::new()).await?;
    ensure!(host.told().await?.revoked == expected);
    other.reopen(Vec::new()).await?;
    other.bookmark().await?;
    ensure!(
        other.revoked.is_empty(),
        "another host was told of {:?}",
        other.revoked
    );
    Ok(())
}

#[tokio::test]
async fn bookmarks_come_often_enough_for_a_host_to_know_what_was_revoked() -> Result<()> {
    let alone = Alone::start().await?;
    let mut host = Host::open("h", alone.host("h").await?).await?;
    host.bookmark().await?;
    let began = Instant::now();
    host.bookmark().await?;
    let took = began.elapsed();
    ensure!(
        took < Duration::from_millis(MAX_SILENCE_MS),
        "the next bookmark took {took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn nothing_of_a_users_session_is_taken_once_it_was_ended() -> Result<()> {
    let alone = Alone::start().await?;
    let password = "correct horse battery";
    let user = CreateUser {
        user: "ann".parse()?,
        role: Default::default(),
        password: Some(password.to_owned().into()),
    };
    alone.client().create_user(&user, &fresh_key()).await?;
    let login = LogIn {
        user: "ann".parse()?,
        password: password.to_owned().into(),
        directory: None,
        client: None,
        form: Default::default(),
    };
    let (ended, other) = (
        alone.client().log_in(&login).await?,
        alone.client().log_in(&login).await?,
    );
    let ann = alone.control.client_by(ended.access_token.expose())?;
    ann.who_am_i().await?;
    let began = Instant::now();
    alone.client().end_session(&ended.session, &fresh_key()).await?;
    let status = |error: &ClientError| error.problem().map(|problem| problem.status);
    let access = ann.who_am_i().await.as_ref().err().and_then(status);
    let refresh = RefreshTokens {
        refresh_token: ended.refresh_token.context("a refresh token")?,
        client: None,
    };
    let refresh = ann.refresh_tokens(&refresh).await.as_ref().err().and_then(status);
    let took = began.elapsed();
    ensure!(
        (access, refresh) == (Some(401), Some(401)),
        "{access:?} {refresh:?}"
    );
    ensure!(took < GOAL, "it took {took:?}");
    // Her other session goes on.
    alone
        .control
        .client_by(other.access_token.expose())?
        .who_am_i()
        .await?;
    Ok(())
}
