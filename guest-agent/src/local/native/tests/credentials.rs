//! Credentials over the socket.

use std::rc::Rc;

use moorline_shared::agent::{CredentialFields, CredentialsHeld, RoleCredentials};
use moorline_shared::credential::Credential;
use moorline_shared::link::body;
use moorline_shared::secret::{Secret, SecretKey};

use super::*;
use crate::access::{Names, Peer, Rules};
use crate::credentials::{Held, RoleCredential};
use crate::local::native::Native;
use crate::local::posing::door_for;
use crate::platform::now;
use crate::test_host::{Give, LASTING, announced, making};

fn give(credential: body::Credential) -> Order {
    Order::Give(Box::new(Give::Credential(credential)))
}

async fn given(credentials: Vec<body::Credential>) -> Rig {
    let rig = Rig::without_host(settings()).await;
    let gives = credentials.into_iter().map(Give::Credential).collect();
    rig.host.with(|state| state.gives = gives);
    rig
}

/// Which making an answer is of, if all of it is of one.
fn number(answer: &Answer) -> Option<u32> {
    let credentials: RoleCredentials = answer.json();
    let CredentialFields::Aws(aws) = credentials.credentials else {
        return None;
    };
    let n: u32 = aws.access_key_id.strip_prefix("AKIA")?.parse().ok()?;
    let whole = aws.secret_access_key.expose() == format!("sesame{n}")
        && aws.session_token?.expose() == format!("token{n}");
    whole.then_some(n)
}

/// Waits until the agent holds what the test looks for.
async fn held<T>(rig: &Rig, look: impl FnMut(&Held) -> Option<T>) -> T {
    rig.credentials.until(look).await
}

/// Waits until the agent holds the `n`-th making.
async fn holds(rig: &Rig, n: u32) {
    let expected = format!("AKIA{n}");
    let is_it = |given: &Rc<RoleCredential>| match &given.credential {
        Credential::Aws(aws) => aws.access_key_id == expected,
        Credential::Bearer(_) => false,
    };
    let name = "backup".parse().unwrap();
    held(rig, |held| {
        held.role(&name, now()).is_some_and(is_it).then_some(())
    })
    .await;
}

#[test]
fn a_cold_agent_has_them_for_the_first_who_asks() {
    run(async {
        let mut rig = given(vec![making(1, LASTING)]).await;
        let mut client = Client::connect(&rig).await;
        let asked = client.ask(request("GET", "/v1/credentials/backup", ""));
        let (answer, ()) = tokio::join!(asked, async { rig.start_host() });
        assert_eq!((answer.status, number(&answer)), (StatusCode::OK, Some(1)));
        assert_eq!(answer.header("cache-control"), "no-store");
    });
}

#[test]
fn what_the_host_announces_is_waited_for() {
    run(async {
        let mut rig = given(vec![announced()]).await;
        rig.start_host();
        rig.mirrored(1).await;
        let asked = get(&rig, "/v1/credentials/backup");
        let (answer, ()) = tokio::join!(asked, async { rig.host.order(give(making(3, LASTING))) });
        assert_eq!((answer.status, number(&answer)), (StatusCode::OK, Some(3)));
    });
}

#[test]
fn rotation_under_fifty_readers_is_never_empty_and_never_mixed() {
    const MAKINGS: u32 = 40;
    run(async {
        let mut rig = given(vec![making(0, LASTING)]).await;
        rig.start_host();
        rig.mirrored(1).await;
        let mut readers = JoinSet::new();
        for _ in 0..50 {
            let mut client = Client::connect(&rig).await;
            readers.spawn_local(async move {
                let (mut last, mut reads) = (0, 0);
                while last < MAKINGS {
                    let answer = client.ask(request("GET", "/v1/credentials/backup", "")).await;
                    assert_eq!(answer.status, StatusCode::OK);
                    let n = number(&answer).expect("credentials of one making");
                    assert!(n >= last, "{n} after {last}");
                    (last, reads) = (n, reads + 1);
                }
                reads
            });
        }
        for n in 1..=MAKINGS {
            rig.host.order(give(making(n, LASTING)));
            holds(&rig, n).await;
        }
        let reads: u32 = readers.join_all().await.into_iter().sum();
        assert!(reads >= 50 * 2, "{reads} reads see nothing of a rotation");
    });
}

#[test]
fn a_lost_link_leaves_them_until_they_run_out() {
    run(async {
        let mut rig = given(vec![making(1, LASTING)]).await;
        rig.start_host();
        rig.mirrored(1).await;
        // The next session brings none that last.
        rig.host
            .with(|state| state.gives = vec![Give::Credential(making(2, 0))]);
        rig.host.order(Order::Cut);
        while !rig.line.is_away() {
            tokio::task::yield_now().await;
        }
        assert_eq!(number(&get(&rig, "/v1/credentials/backup").await), Some(1));
        rig.host
            .until(|state| (state.hellos.len() == 2).then_some(()))
            .await;
        let name = "backup".parse().unwrap();
        held(&rig, |held| held.role(&name, now()).is_none().then_some(())).await;
        let listed: CredentialsHeld = get(&rig, "/v1/credentials").await.json();
        assert_eq!(listed.roles, []);
    });
}

#[test]
fn another_life_of_the_machine_has_none_of_them() {
    run(async {
        let mut rig = given(vec![making(1, LASTING)]).await;
        rig.start_host();
        holds(&rig, 1).await;
        rig.host.with(|state| {
            state.incarnation += 1;
            state.gives.clear();
        });
        rig.host.order(Order::Cut);
        held(&rig, |held| (held.roles(now()).count() == 0).then_some(())).await;
        let answer = get(&rig, "/v1/credentials/backup").await;
        assert_eq!(answer.problem(), (404, "credentials-not-found".to_owned()));
    });
}

#[test]
fn names_and_times_are_shown_and_no_secret() {
    run(async {
        let mut rig = given(vec![making(1, LASTING)]).await;
        let session = body::Session {
            session: "s-1".to_owned(),
            token: Secret::from("mli_sesame".to_owned()),
            token_id: "t-1".to_owned(),
            key: SecretKey::from([7; 32]),
            expires_in_ms: LASTING,
        };
        rig.host.with(|state| state.gives.push(Give::Session(session)));
        rig.start_host();
        let answer = get(&rig, "/v1/credentials").await;
        let held: CredentialsHeld = answer.json();
        assert_eq!(held.session.unwrap().token_id, "t-1");
        assert_eq!(held.roles[0].role.as_str(), "backup");
        assert!((1..=LASTING).contains(&held.roles[0].expires_in_ms));
        assert!(!answer.body.windows(6).any(|bytes| bytes == b"sesame"));
    });
}

#[test]
fn what_cant_be_used_costs_only_itself() {
    run(async {
        let mut rig = given(vec![making(1, LASTING)]).await;
        rig.start_host();
        holds(&rig, 1).await;
        let mut odd = making(2, LASTING);
        odd.current.as_mut().unwrap().kind = "x509".to_owned();
        rig.host.order(give(odd));
        let mut other = making(3, LASTING);
        other.role = "other".to_owned();
        rig.host.order(give(other));
        assert_eq!(number(&get(&rig, "/v1/credentials/other").await), Some(3));
        assert_eq!(number(&get(&rig, "/v1/credentials/backup").await), Some(1));
    });
}

#[test]
fn a_role_is_for_whom_the_rules_say() {
    run(async {
        let rules = Rules::parse("credentials/backup 1000", &Names::default()).unwrap();
        let mut rig = Rig::ruled_without_host(settings(), rules).await;
        rig.host
            .with(|state| state.gives = vec![Give::Credential(making(1, LASTING))]);
        rig.start_host();
        let surface = Rc::new(Native::new(&rig.backing));
        for (user, status, listed) in [(1000, 200, 1), (1001, 404, 0)] {
            let peer = Peer::process(user, vec![user]);
            let socket = door_for(&mut rig, &surface, &user.to_string(), peer);
            let mut client = Client::connect_to(&socket).await;
            let answer = client.ask(request("GET", "/v1/credentials/backup", "")).await;
            assert_eq!(answer.status.as_u16(), status, "{user}");
            let held: CredentialsHeld = client.ask(request("GET", "/v1/credentials", "")).await.json();
            assert_eq!(
                (held.roles.len(), held.session.is_some()),
                (listed, false),
                "{user}"
            );
        }
    });
}
