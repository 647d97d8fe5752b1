//! A host is told what was revoked: at once, in order, before whatever else waits, and again what it missed.

use moorline_shared::api::feed::{FeedMessage, Revocation, Revoked, ViewId};
use moorline_shared::{OperationId, Principal};

use super::Event::{Access, Begin, Put, Revoke, Want};
use super::{World, path_of};
use crate::http::feed::revocations::Revocations;
use crate::identity;
use crate::identity::instances::TOKEN_SECONDS;
use crate::identity::operations::{NewSession, Op, Reply};
use crate::identity::records::{InstancePart, SessionPurpose, SessionRecord};
use crate::model::{Attempt, Executor};
use crate::services::provider;
use crate::store::{Event, Range};

async fn run(executor: &Executor, op: Op) -> Reply {
    let caller = provider("test");
    let key = uuid::Uuid::new_v4().to_string().parse().unwrap();
    let attempt = Attempt::new(op, caller.clone(), OperationId::derive(&caller.principal, &key));
    executor.execute(&identity::Model, attempt).await.unwrap().reply
}

impl World {
    async fn session(&self, principal: &Principal) -> SessionRecord {
        let part = |incarnation| InstancePart {
            incarnation,
            identify_by: None,
            identified: None,
            public_key: None,
        };
        let purpose = match principal {
            Principal::Instance(id) => SessionPurpose::Instance(part(self.life(id))),
            _ => SessionPurpose::Login,
        };
        let new = NewSession {
            principal: principal.clone(),
            directory: "local".parse().unwrap(),
            account: "default".parse().unwrap(),
            purpose,
            client: None,
            lifetime: 7 * 86_400,
        };
        match run(&self.executor, Op::CreateSession(new)).await {
            Reply::Session { session, .. } => *session,
            other => panic!("{other:?}"),
        }
    }

    /// Somebody has a session, which ends. Returns its id.
    pub(super) async fn end_session(&mut self, principal: Principal) -> String {
        self.ids += 1;
        let session = self.session(&principal).await.id;
        run(&self.executor, Op::EndSession { principal, session }).await;
        session.to_string()
    }

    /// The next line that says that something was revoked.
    async fn told(&mut self) -> Revocation {
        loop {
            let message = self.messages.as_mut().unwrap().recv().await.unwrap();
            self.host.apply(message.clone());
            if let FeedMessage::Revoked(revocation) = message {
                return revocation;
            }
        }
    }
}

#[tokio::test]
async fn a_host_is_told_of_its_guests_sessions_until_no_token_of_them_is_left() {
    let mut world = World::new().await;
    let instance = world.instance(0);
    world.settle().await;
    world.end_session("user:ann".parse().unwrap()).await;
    let id = world.end_session(Principal::Instance(instance)).await;
    let told = world.told().await;
    assert_eq!(told.revoked, Revoked::Session { instance, id });
    let lasts = told.not_before.millis_until(told.until);
    assert_eq!(
        lasts,
        u64::from(TOKEN_SECONDS) * 1_000,
        "no token of it is good for longer"
    );
}

#[tokio::test]
async fn a_host_that_was_away_is_told_what_it_missed_first_of_all() {
    let mut world = World::new().await;
    let instance = world.instance(0);
    let guest = Principal::Instance(instance);
    let before = world.end_session(guest.clone()).await;
    world.settle().await;
    world.lose().await;
    let missed = [
        world.end_session(guest.clone()).await,
        world.end_session(guest).await,
    ];
    let head = world.executor.store().head().await.unwrap();
    world.handle.reached(head).await;
    world.connect().await;
    let mut told = Vec::new();
    loop {
        match world.messages.as_mut().unwrap().recv().await.unwrap() {
            FeedMessage::Hello { .. } => {}
            FeedMessage::Revoked(revocation) => told.push(revocation.revoked),
            FeedMessage::Snapshot { .. } => break,
            other => panic!("{other:?} comes before what was revoked"),
        }
    }
    assert!(world.host.revoked.contains(&before));
    assert_eq!(told, missed.map(|id| Revoked::Session { instance, id }));
}

#[tokio::test]
async fn what_was_revoked_is_forgotten_with_its_row() {
    let mut world = World::new().await;
    let guest = Principal::Instance(world.instance(0));
    for _ in 0..2 {
        world.end_session(guest.clone()).await;
    }
    let store = world.executor.store();
    let mut revocations = Revocations::read(store, store.head().await.unwrap())
        .await
        .unwrap();
    let all: Vec<_> = revocations
        .after(0)
        .map(|notice| notice.revocation.sequence.n)
        .collect();
    assert_eq!(all.len(), 2);
    assert_eq!(revocations.after(all[0]).count(), 1);
    let rows = store.range(all[1], &Range::prefix("revocation/")).await.unwrap();
    for (key, _) in rows.entries {
        let gone = Event { key, value: None };
        assert_eq!(revocations.note(store.epoch(), &gone), None);
    }
    assert_eq!(revocations.after(0).count(), 0);
}

#[tokio::test]
async fn a_guest_whose_session_was_ended_sees_its_own_entries_and_nobody_elses_until_its_next_life() {
    let mut world = World::new().await;
    let reader = world.instance(0);
    for instance in 0..2 {
        world
            .happen(Put {
                instance,
                path: 0,
                long: false,
            })
            .await;
    }
    world
        .happen(Access {
            instance: 1,
            path: 0,
            subject: 4,
        })
        .await;
    world
        .happen(Want {
            reader: 0,
            instance: 1,
        })
        .await;
    let (own, other) = (
        ViewId::own(reader),
        ViewId {
            reader,
            instance: world.instance(1),
        },
    );
    let entries = async |world: &mut World| {
        world.check().await;
        let sees = |view| {
            world
                .host
                .views
                .get(&view)
                .is_some_and(|view| view.contains_key(&path_of(0)))
        };
        [own, other].map(sees)
    };
    assert_eq!(entries(&mut world).await, [true, true]);
    world.happen(Revoke { instance: 0 }).await;
    assert_eq!(entries(&mut world).await, [true, false]);
    // Nor does a host hear of it that was away meanwhile, and what changes meanwhile is for others.
    world.lose().await;
    world
        .happen(Put {
            instance: 1,
            path: 0,
            long: false,
        })
        .await;
    assert_eq!(entries(&mut world).await, [true, false]);
    world
        .happen(Put {
            instance: 1,
            path: 0,
            long: true,
        })
        .await;
    assert_eq!(entries(&mut world).await, [true, false]);
    world.happen(Begin { instance: 0 }).await;
    assert_eq!(entries(&mut world).await, [true, true]);
}
