//! What was revoked counts at once, as a host hears it over real HTTP/2 and as users see it.

use crate::alone::Alone;
use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use moorline_client::{Client, ClientError, EventStream, fresh_key};
use moorline_lab::deployment::PATIENCE;
use moorline_shared::api::feed::{FeedMessage, MAX_SILENCE_MS, OpenFeed, Revocation, Revoked};
use moorline_shared::api::identity::{CreateUser, LogIn, RefreshTokens};
use moorline_shared::api::session::{CreateInstanceSession, InstanceSession, SESSION_ENDED};
use moorline_shared::{HostId, InstanceId, Revision};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// What is revoked counts everywhere before this is over.
const GOAL: Duration = Duration::from_secs(1);

/// A host that listens to nothing but what was revoked.
struct Host {
    name: HostId,
    client: Client,
    feed: EventStream<FeedMessage>,
    cursor: Option<Revision>,
}

impl Host {
    async fn open(alone: &Alone, name: &str) -> Result<Self> {
        let mut host = Self {
            name: name.parse()?,
            client: alone.host(name).await?,
            feed: futures_util::stream::empty().boxed(),
            cursor: None,
        };
        host.reopen().await?;
        Ok(host)
    }

    async fn reopen(&mut self) -> Result<()> {
        let open = OpenFeed {
            cursor: self.cursor,
            interests: Vec::new(),
        };
        self.feed = self.client.open_feed(&self.name, &open).await?;
        Ok(())
    }

    async fn message(&mut self) -> Result<FeedMessage> {
        let message = timeout(PATIENCE, self.feed.next())
            .await
            .context("nothing came")?;
        Ok(message.context("the feed ended")??)
    }

    /// Listens until it stands where the control plane does.
    async fn bookmark(&mut self) -> Result<()> {
        loop {
            if let FeedMessage::Bookmark { revision } = self.message().await? {
                self.cursor = Some(revision);
                return Ok(());
            }
        }
    }

    async fn told(&mut self) -> Result<Revocation> {
        loop {
            if let FeedMessage::Revoked(revocation) = self.message().await? {
                return Ok(revocation);
            }
        }
    }

    async fn session(&self, instance: InstanceId, incarnation: u64) -> Result<InstanceSession, ClientError> {
        let body = CreateInstanceSession {
            incarnation,
            instead_of: None,
        };
        self.client
            .create_instance_session(&self.name, instance, &body)
            .await
    }
}

#[tokio::test]
async fn a_host_hears_within_a_second_that_a_guests_session_ended_and_gets_no_other_for_that_life()
-> Result<()> {
    let alone = Alone::start().await?;
    let (mut host, mut other) = (Host::open(&alone, "h").await?, Host::open(&alone, "other").await?);
    let instance = alone.instance("h", "web").await?;
    let session = host.session(instance, 1).await?.session;
    host.bookmark().await?;
    let began = Instant::now();
    alone.client().end_session(&session, &fresh_key()).await?;
    let told = host.told().await?;
    let took = began.elapsed();
    ensure!(took < GOAL, "it took {took:?}");
    let expected = Revoked::Session { id: session.clone() };
    ensure!(
        told.revoked == expected && Some(told.sequence) > host.cursor,
        "{told:?}"
    );

    let refused = host.session(instance, 1).await;
    let kind = refused
        .as_ref()
        .err()
        .and_then(ClientError::problem)
        .map(|problem| &*problem.kind);
    ensure!(kind == Some(SESSION_ENDED), "{kind:?}");
    let next = host.session(instance, 2).await?.session;
    ensure!(next != session, "the dead session came back");

    // It was away meanwhile, and hears it again; whoever has no guest that it is about never hears it.
    host.reopen().await?;
    ensure!(host.told().await?.revoked == expected);
    other.reopen().await?;
    loop {
        match other.message().await? {
            FeedMessage::Revoked(revocation) => anyhow::bail!("another host was told of {revocation:?}"),
            FeedMessage::Bookmark { .. } => return Ok(()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn bookmarks_come_often_enough_for_a_host_to_know_what_was_revoked() -> Result<()> {
    let alone = Alone::start().await?;
    let mut host = Host::open(&alone, "h").await?;
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
