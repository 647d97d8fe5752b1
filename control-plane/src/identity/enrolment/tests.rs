//! Machines that become hosts, stay it, and stop being it.

use std::sync::Arc;

use moorline_shared::api::ProblemDetails;
use moorline_shared::{Digest, HostId, OperationId, Principal};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use tokio::task::JoinSet;

use super::hosts::{Hosts, NotGood};
use super::model::Model;
use super::operations::{Op, Reply};
use super::records::{Certificate, HostKey};
use super::request::{RequestError, key_of};
use crate::identity::authority::peer::HostCertificate;
use crate::identity::master::MasterKey;
use crate::model::{Attempt, Caller, ExecuteError, Executor, Role};
use crate::settings::Settings;
use crate::store::Store;

struct World {
    executor: Executor,
    hosts: Hosts,
    _folder: tempfile::TempDir,
}

fn host() -> HostId {
    "h1".parse().unwrap()
}

fn caller(role: Role) -> Caller {
    Caller {
        principal: Principal::Host(host()),
        account: "default".parse().unwrap(),
        role,
        via: None,
        session: None,
    }
}

fn key() -> HostKey {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    HostKey::new(key.subject_public_key_info())
}

fn token(n: u8) -> Digest {
    Digest::of(&[n])
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let master = MasterKey::new(&[7; 32].into());
        Self {
            executor: Executor::new(store.clone(), Settings::default(), master.into()),
            hosts: Hosts::open(store).await.unwrap(),
            _folder: folder,
        }
    }

    async fn run(&self, op: Op, role: Role) -> Result<Reply, Box<ProblemDetails>> {
        let random = uuid::Uuid::new_v4();
        let id = OperationId::from(Digest::of(random.as_bytes()));
        let done = self
            .executor
            .execute(&Model, Attempt::new(op, caller(role), id))
            .await;
        match done {
            Ok(done) => {
                self.hosts.reach(done.revision.n).await.unwrap();
                Ok(done.reply)
            }
            Err(ExecuteError::Refused { shown, .. }) => Err(shown),
            Err(other) => panic!("{other}"),
        }
    }

    async fn make_token(&self, n: u8, seconds: u32) {
        let op = Op::CreateEnrolmentToken {
            host: host(),
            digest: token(n),
            ttl: seconds.try_into().unwrap(),
        };
        self.run(op, Role::Administrator).await.unwrap();
    }

    async fn enrol(&self, n: u8, key: &HostKey) -> Result<Certificate, String> {
        let op = Op::EnrolHost {
            host: host(),
            token: token(n),
            public_key: key.clone(),
        };
        issued(self.run(op, Role::Member).await)
    }

    async fn renew(&self, shown: &Certificate, key: &HostKey) -> Result<Certificate, String> {
        let op = Op::RenewHostCertificate {
            host: host(),
            serial: shown.serial.to_string(),
            generation: shown.generation,
            public_key: key.clone(),
        };
        issued(self.run(op, Role::Member).await)
    }

    async fn enrolled(&self) -> Certificate {
        self.make_token(1, 60).await;
        self.enrol(1, &key()).await.unwrap()
    }

    fn judge(&self, certificate: &Certificate) -> Result<(), NotGood> {
        self.hosts.judge(&shown(certificate), self.executor.now())
    }
}

fn shown(certificate: &Certificate) -> HostCertificate {
    HostCertificate {
        host: host(),
        serial: certificate.serial.to_string(),
        not_after: certificate.until,
        generation: certificate.generation,
        public_key: certificate.public_key.point().to_vec(),
    }
}

fn issued(reply: Result<Reply, Box<ProblemDetails>>) -> Result<Certificate, String> {
    match reply {
        Ok(Reply::Issued(certificate)) => Ok(certificate),
        Ok(Reply::Cloned) => Err("cloned".to_owned()),
        Ok(other) => panic!("{other:?}"),
        Err(problem) => Err(problem.kind.into_owned()),
    }
}

#[tokio::test]
async fn a_token_makes_one_machine_a_host_and_its_lost_answer_is_given_again() {
    let world = World::new().await;
    world.make_token(1, 60).await;
    let (mine, thiefs) = (key(), key());
    let first = world.enrol(1, &mine).await.unwrap();
    assert_eq!((first.generation, world.judge(&first)), (1, Ok(())));
    assert_eq!(world.enrol(1, &mine).await.unwrap(), first);
    assert_eq!(world.enrol(1, &thiefs).await.unwrap_err(), "enrolment-token-used");
    assert_eq!(
        world.enrol(2, &thiefs).await.unwrap_err(),
        "enrolment-token-unknown"
    );
}

#[tokio::test]
async fn of_eight_machines_with_one_token_one_becomes_the_host() {
    let world = Arc::new(World::new().await);
    world.make_token(1, 60).await;
    let mut racing = JoinSet::new();
    for _ in 0..8 {
        let world = world.clone();
        racing.spawn(async move { world.enrol(1, &key()).await });
    }
    let ended = racing.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 7));
    assert!(
        lost.iter()
            .all(|why| why == &Err("enrolment-token-used".to_owned()))
    );
}

#[tokio::test]
async fn a_token_is_made_by_an_administrator_and_not_for_ever() {
    let world = World::new().await;
    let make = |seconds: u32| Op::CreateEnrolmentToken {
        host: host(),
        digest: token(1),
        ttl: seconds.try_into().unwrap(),
    };
    let denied = world.run(make(60), Role::Member).await.unwrap_err();
    assert_eq!(denied.kind, "access-denied");
    let long = world
        .run(make(8 * 86_400), Role::Administrator)
        .await
        .unwrap_err();
    assert_eq!(long.field.as_deref(), Some("ttl"));
    world.make_token(1, 1).await;
    let end = world.executor.now().plus_seconds(1);
    while world.executor.now() < end {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        world.enrol(1, &key()).await.unwrap_err(),
        "enrolment-token-expired"
    );
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_is_given_again_and_goes_on() {
    let world = World::new().await;
    let first = world.enrolled().await;
    let next = key();
    let second = world.renew(&first, &next).await.unwrap();
    assert_eq!(second.generation, 2);
    // Until it hears, the host goes on with what it has.
    assert_eq!((world.judge(&first), world.judge(&second)), (Ok(()), Ok(())));
    assert_eq!(world.renew(&first, &next).await.unwrap(), second);
    let third = world.renew(&second, &key()).await.unwrap();
    assert_eq!((third.generation, world.judge(&third)), (3, Ok(())));
    assert_eq!(world.judge(&first), Err(NotGood::Superseded));
}

#[tokio::test]
async fn a_certificate_that_two_machines_use_is_worth_nothing_to_either() {
    let world = World::new().await;
    let copied = world.enrolled().await;
    let over = world.hosts.over(&host());
    let mine = world.renew(&copied, &key()).await.unwrap();
    assert!(!over.is_cancelled());
    assert_eq!(world.renew(&copied, &key()).await.unwrap_err(), "cloned");
    assert!(over.is_cancelled(), "connections go on");
    for certificate in [&copied, &mine] {
        assert_eq!(world.judge(certificate), Err(NotGood::Cloned));
        assert_eq!(world.renew(certificate, &key()).await.unwrap_err(), "host-cloned");
    }
    let serial = mine.serial.to_string();
    assert_eq!(
        world.hosts.public_key(&host(), &serial, world.executor.now()),
        None
    );
    // The operator has seen which one is the host. The other one can't take that from it.
    world.make_token(2, 60).await;
    let again = world.enrol(2, &key()).await.unwrap();
    assert_eq!((again.generation, world.judge(&again)), (3, Ok(())));
    assert_eq!(
        world.renew(&copied, &key()).await.unwrap_err(),
        "host-not-enrolled"
    );
    assert_eq!(world.judge(&again), Ok(()));
}

#[tokio::test]
async fn a_host_that_is_revoked_is_refused_at_once_and_its_connections_end() {
    let world = World::new().await;
    let certificate = world.enrolled().await;
    let over = world.hosts.over(&host());
    let revoke = Op::RevokeHost { host: host() };
    let denied = world.run(revoke.clone(), Role::Member).await.unwrap_err();
    assert_eq!(denied.kind, "access-denied");
    world.run(revoke, Role::Administrator).await.unwrap();
    assert!(over.is_cancelled());
    assert_eq!(world.judge(&certificate), Err(NotGood::Revoked));
    assert_eq!(
        world.renew(&certificate, &key()).await.unwrap_err(),
        "host-revoked"
    );
    // The token that it was enrolled with does not bring it back.
    let again = world.enrol(1, &certificate.public_key).await;
    assert_eq!(again.unwrap_err(), "enrolment-token-used");
}

#[tokio::test]
async fn an_expired_certificate_is_good_for_its_renewal_only() {
    let world = World::new().await;
    let certificate = world.enrolled().await;
    let late = certificate.until;
    let expired = world.hosts.judge(&shown(&certificate), late);
    assert_eq!(expired, Err(NotGood::Expired(late)));
    let serial = certificate.serial.to_string();
    assert!(
        world
            .hosts
            .public_key(&host(), &serial, world.executor.now())
            .is_some()
    );
    assert_eq!(world.hosts.public_key(&host(), &serial, late), None);
    world.renew(&certificate, &key()).await.unwrap();
}

#[test]
fn of_a_request_only_its_key_is_taken_and_only_of_the_right_kind() {
    use base64::Engine as _;
    let encoded = |key: &KeyPair| {
        let request = CertificateParams::default().serialize_request(key).unwrap();
        base64::engine::general_purpose::STANDARD.encode(request.der())
    };
    let good = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = encoded(&good);
    assert_eq!(key_of(&request).unwrap().der(), good.subject_public_key_info());
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert_eq!(key_of(&encoded(&other)), Err(RequestError::Kind));
    for bad in ["", "AAAA", &request[..request.len() - 8], &"A".repeat(10_000)] {
        assert_eq!(key_of(bad), Err(RequestError::Form));
    }
}
