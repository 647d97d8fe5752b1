//! A guest's signed requests in other hands: sent again, moved, and passed on by a host that doesn't have the instance.
//!
//! Two host daemons pass on what their guests give them, and both hosts are also played by the test, which then has the
//! daemon's own key: a host that was taken over.

use crate::talker::Talker;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use moorline_client::{Client, GuestRequest, fresh_key};
use moorline_host::identity::files::Files;
use moorline_lab::deployment::{Deployment, External, Further, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_lab_load::signer;
use moorline_shared::InstanceId;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::operations::OperationQuery;
use moorline_shared::link::body::{Code, Refused, Relay, Relayed, Session};
use moorline_shared::link::session::GuestEvent;
use moorline_shared::signature::Seconds;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// The answer to whoever proves nothing.
const UNPROVEN: u16 = 401;
/// The answer to a host that speaks for whom nothing is read any more.
const FORBIDDEN: u16 = 403;
/// By when everything of a session is refused once that was ended.
const GOAL: Duration = Duration::from_secs(1);

/// Two hosts with a guest each.
struct Scene {
    second: Further,
    deployment: Deployment,
    own: External,
    other: External,
}

impl Scene {
    async fn set() -> Result<Self> {
        let deployment = Plan::new(Programs::build().await?).start().await?;
        let host = "host-2".parse()?;
        let mut second = deployment.further_host(&host, "second")?;
        deployment.control().enrol_daemon(&host, &second.state()).await?;
        second.launch()?;
        let in_step = async || second.status().await?.feed.in_step.then_some(());
        wait::until("the second host", PATIENCE, in_step)
            .await
            .with_context(|| second.said())?;
        let own = deployment.attach("own", &[("name", "own")]).await?;
        let data = BTreeMap::from([("name".parse()?, PutEntry::value("other".into()))]);
        let other = second.register(None, "other", data).await?;
        Ok(Self {
            second,
            deployment,
            own,
            other,
        })
    }

    /// A change that the guest signed and that nobody has sent yet.
    fn change(&self, guest: &Talker, session: &Session, value: &str) -> Result<Relay> {
        let body = serde_json::to_vec(&PutEntry::value(value.into()))?;
        self.signed(guest, session, ("PUT", "data/changed"), body)
    }

    /// The same for any request about the guest itself.
    fn signed(
        &self,
        guest: &Talker,
        session: &Session,
        (method, of): (&str, &str),
        body: Vec<u8>,
    ) -> Result<Relay> {
        let target = format!("/v1/instances/{}/{of}", self.own.id);
        let mut headers = signer::signed(session, &guest.authority, method, &target, &body)?;
        headers.push(("content-type".into(), "application/json".into()));
        Ok(Relay {
            method: method.into(),
            target,
            headers,
            length: 0,
            body: Bytes::from(body).into(),
        })
    }

    /// What the guest asks for in its session, each with a name, made now: three that it signs, and one that it doesn't.
    fn of_session(&self, guest: &Talker, session: &Session) -> Result<[(&'static str, Relay); 4]> {
        let read = self.signed(guest, session, ("GET", "data/name"), Vec::new())?;
        let bare = Relay {
            headers: Vec::new(),
            ..read.clone()
        };
        let audience = serde_json::json!({ "audience": "sts.example" }).to_string();
        let token = self.signed(guest, session, ("POST", "identity-token"), audience.into())?;
        Ok([
            ("a change", self.change(guest, session, "of the session")?),
            ("an identity token", token),
            ("a read", read),
            ("a read without a signature", bare),
        ])
    }

    /// What the master copy has of it.
    async fn changed(&self) -> Result<Option<String>> {
        let client = self.deployment.client();
        let at = "changed".parse()?;
        match client.get_instance_data(self.own.id, &at).await {
            Ok(entry) => Ok(entry.value.and_then(|value| value.text().map(str::to_owned))),
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Why requests were refused as nobody's, as the records have it.
    async fn reasons(&self) -> Result<String> {
        let query = OperationQuery {
            limit: Some(200),
            ..OperationQuery::default()
        };
        let page = self.deployment.client().list_operations(&query).await?;
        Ok(serde_json::to_string(&page.operations)?)
    }

    fn first_state(&self) -> PathBuf {
        self.deployment.folder().join("host")
    }
}

/// The guest has its host pass a change on.
async fn pass_on(guest: &mut Talker, relay: &Relay) -> Result<Relayed> {
    let stream = guest.pass_on(relay.clone())?;
    guest.relayed(stream).await
}

/// The same where the host may refuse: the control plane's status, or what the host says.
async fn answer(guest: &mut Talker, relay: &Relay) -> Result<Result<u16, Refused>> {
    let stream = guest.pass_on(relay.clone())?;
    match guest.event_of(stream).await? {
        GuestEvent::Relayed(_, relayed) => Ok(Ok(relayed.status)),
        GuestEvent::Refused(_, refused) => Ok(Err(refused)),
        other => bail!("{other:?} came instead of an answer"),
    }
}

/// A host that was taken over: the API as that host, and the key that it signs with.
struct TakenOver {
    client: Client,
    state: PathBuf,
}

impl TakenOver {
    fn of(scene: &Scene, state: PathBuf) -> Result<Self> {
        let client = scene.deployment.control().client_of_daemon(&state)?;
        Ok(Self { client, state })
    }

    /// Passes a request on in the name of an instance, with its own signature over the guest's.
    async fn passes_on(&self, instance: InstanceId, relay: &Relay) -> Result<u16> {
        let present = Files::of(&self.state).present()?;
        let request = GuestRequest::new(&relay.method, &relay.target, &relay.headers)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let created = Seconds(now.cast_signed());
        let request = request.countersigned(created, present.key_id(), |base| present.sign(base));
        let body = relay.body.bytes().to_vec();
        let reply = self.client.relay(instance, &request, body.into()).await?;
        Ok(reply.status)
    }
}

fn unproven(what: &str, status: u16) -> Result<()> {
    ensure!(status == UNPROVEN, "{what} is answered by {status}");
    Ok(())
}

#[tokio::test]
async fn a_signed_request_is_worth_nothing_but_once_by_its_host_and_as_it_was_signed() -> Result<()> {
    let scene = Scene::set().await?;
    let mut own = Talker::begin(&scene.own.socket()).await?;
    let mut other = Talker::begin(&scene.other.socket()).await?;
    let session = own.session().await?;

    // The daemon of the other host, asked by its own guest, which has got hold of the request.
    let captured = scene.change(&own, &session, "captured")?;
    unproven(
        "one of another host's guests",
        pass_on(&mut other, &captured).await?.status,
    )?;
    let foreign = other.session().await?;
    let theirs = scene.change(&other, &foreign, "foreign")?;
    unproven("another guest's token", pass_on(&mut own, &theirs).await?.status)?;
    // The other host itself, which names the guest that it doesn't have.
    let second = TakenOver::of(&scene, scene.second.state())?;
    for named in [scene.own.id, scene.other.id] {
        unproven("the other host", second.passes_on(named, &captured).await?)?;
    }
    ensure!(scene.changed().await?.is_none(), "one of them was done");
    let reasons = scene.reasons().await?;
    ensure!(
        reasons.contains("is on host host-1, and host host-2"),
        "{reasons}"
    );

    what_is_moved_on_the_way(&scene, &mut own, &session).await?;

    // As it was signed, and once.
    let good = scene.change(&own, &session, "good")?;
    let done = pass_on(&mut own, &good).await?;
    ensure!(done.status == 200, "{done:?}");
    unproven("the same again", pass_on(&mut own, &good).await?.status)?;
    let first = TakenOver::of(&scene, scene.first_state())?;
    unproven(
        "the same again, signed by the host once more",
        first.passes_on(scene.own.id, &good).await?,
    )?;
    ensure!(scene.changed().await?.as_deref() == Some("good"));
    Ok(())
}

async fn what_is_moved_on_the_way(scene: &Scene, own: &mut Talker, session: &Session) -> Result<()> {
    type Move = fn(&mut Relay);
    let moves: [(&str, Move); 5] = [
        ("another path", |relay| {
            relay.target = relay.target.replace("/changed", "/name");
        }),
        ("another method", |relay| relay.method = "POST".into()),
        ("another body", |relay| {
            relay.body = Bytes::from_static(br#"{"value":"evil"}"#).into();
        }),
        ("a condition more", |relay| {
            relay.headers.push(("if-match".into(), "\"1.1\"".into()));
        }),
        ("another key of idempotency", |relay| {
            let key = fresh_key().to_string();
            let field = relay.headers.iter_mut();
            field
                .filter(|(name, _)| name == moorline_shared::api::IDEMPOTENCY_KEY)
                .for_each(|(_, value)| value.clone_from(&key));
        }),
    ];
    let first = TakenOver::of(scene, scene.first_state())?;
    for (what, change) in moves {
        let mut relay = scene.change(own, session, "moved")?;
        change(&mut relay);
        unproven(what, pass_on(own, &relay).await?.status)?;
        unproven(what, first.passes_on(scene.own.id, &relay).await?)?;
    }
    ensure!(scene.changed().await?.is_none(), "what was moved was done");
    Ok(())
}

#[tokio::test]
async fn what_an_earlier_life_signed_is_refused_in_the_next() -> Result<()> {
    let scene = Scene::set().await?;
    let mut own = Talker::begin(&scene.own.socket()).await?;
    let session = own.session().await?;
    let before = scene.change(&own, &session, "of before")?;
    let late = scene.change(&own, &session, "signed late")?;
    let again = scene
        .deployment
        .register(Some(scene.own.id), "own", BTreeMap::new())
        .await?;
    ensure!(again.incarnation > scene.own.incarnation);
    // The next life's guest takes over its first one's place, and what it said before is worth nothing.
    let mut next = Talker::begin(&again.socket()).await?;
    let fresh = next.session().await?;
    ensure!(fresh.session != session.session, "it has the session of before");
    unproven(
        "what was signed before",
        pass_on(&mut next, &before).await?.status,
    )?;
    let first = TakenOver::of(&scene, scene.first_state())?;
    unproven(
        "what was signed before, by a host that was taken over",
        first.passes_on(scene.own.id, &late).await?,
    )?;
    ensure!(
        scene.changed().await?.is_none(),
        "an earlier life changed something"
    );
    let good = scene.change(&next, &fresh, "good")?;
    ensure!(pass_on(&mut next, &good).await?.status == 200);
    ensure!(scene.changed().await?.as_deref() == Some("good"));
    Ok(())
}

#[tokio::test]
async fn what_is_asked_in_a_session_that_was_ended_is_refused_by_its_host_and_by_the_control_plane()
-> Result<()> {
    let scene = Scene::set().await?;
    let mut own = Talker::begin(&scene.own.socket()).await?;
    let session = own.session().await?;
    let first = TakenOver::of(&scene, scene.first_state())?;
    for (what, good) in scene.of_session(&own, &session)? {
        let status = answer(&mut own, &good).await?;
        ensure!(status == Ok(200), "{what} is answered by {status:?}");
    }
    let before = scene.changed().await?;

    let client = scene.deployment.client();
    let began = Instant::now();
    client.end_session(&session.session, &fresh_key()).await?;
    for (what, late) in scene.of_session(&own, &session)? {
        let status = first.passes_on(scene.own.id, &late).await?;
        let expected = if late.headers.is_empty() {
            FORBIDDEN
        } else {
            UNPROVEN
        };
        ensure!(status == expected, "{what} is answered by {status}");
    }
    for at in 0..4 {
        let refused = the_host_refuses(&scene, &mut own, &session, at);
        timeout(PATIENCE, refused)
            .await
            .context("the host goes on passing on what the control plane refuses")??;
    }
    let took = began.elapsed();
    ensure!(took < GOAL, "everything is refused only after {took:?}");
    ensure!(
        scene.changed().await? == before,
        "a dead session changed something"
    );
    Ok(())
}

/// Sends one of what is asked in a session that was ended until the host has heard of that: before, the control plane
/// refuses it.
async fn the_host_refuses(scene: &Scene, own: &mut Talker, session: &Session, at: usize) -> Result<()> {
    loop {
        let (what, late) = &scene.of_session(own, session)?[at];
        match answer(own, late).await? {
            Err(refused) => {
                let denied = refused.code == Code::Denied as u16;
                ensure!(
                    denied && refused.message.contains("was ended"),
                    "{what}: {refused:?}"
                );
                return Ok(());
            }
            Ok(UNPROVEN | FORBIDDEN) => {}
            Ok(status) => bail!("{what} is answered by {status}"),
        }
    }
}
