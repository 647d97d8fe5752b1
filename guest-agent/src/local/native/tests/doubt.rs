//! Changes whose answers are lost: what programs are told, and that each is made once.

use super::*;
use crate::test_host::until;
use moorline_shared::agent::{OpenWrites, WriteState, WriteStatus};
use moorline_shared::entry::MAX_ENTRIES;

fn put(key: &str, value: &str) -> Request<Full<Bytes>> {
    let mut put = request("PUT", "/v1/data/a", value.to_owned());
    put.headers_mut().insert("idempotency-key", key.parse().unwrap());
    put
}

/// How many marks are on the disk.
fn marks(rig: &Rig) -> usize {
    std::fs::read_dir(rig.folder().join("writes")).unwrap().count()
}

/// How often something was changed since the rig began.
fn changes(rig: &Rig) -> u64 {
    rig.host.with(|state| state.revision) - 2
}

async fn state(client: &mut Client, key: &str) -> WriteState {
    let answer = client.ask(request("GET", &format!("/v1/writes/{key}"), "")).await;
    answer.json::<WriteStatus>().state
}

/// Makes the host lose something.
type Lose = fn(&mut crate::test_host::HostState);

#[test]
fn an_answer_that_is_lost_on_any_part_of_its_way_is_had_again() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let losses: [(&str, Lose); 5] = [
            ("before", |state| state.lose_requests = 1),
            ("after", |state| state.lose_answers = 1),
            ("twice", |state| state.lose_answers = 2),
            ("behind-the-host", |state| state.unsettle = 1),
            ("by-a-proxy", |state| state.fail = 1),
        ];
        for (n, (key, lose)) in (1..).zip(losses) {
            rig.host.with(lose);
            let answer = client.ask(put(key, key)).await;
            assert_eq!(answer.status, 200, "{key}: {answer:?}");
            assert_eq!(answer.header("idempotency-key"), key);
            assert_eq!(answer.header("moorline-mirrored"), "true");
            assert_eq!((changes(&rig), marks(&rig)), (n, 0), "{key}");
            assert_eq!(client.ask(request("GET", "/v1/data/a", "")).await.body, key);
        }
    });
}

#[test]
fn a_change_that_is_asked_for_again_is_made_once() {
    run(async {
        let rig = Rig::linked().await;
        let (mut one, mut two) = (Client::connect(&rig).await, Client::connect(&rig).await);
        let (first, second) = tokio::join!(one.ask(put("k", "v")), two.ask(put("k", "v")));
        assert_eq!((first.status, &first.body), (second.status, &second.body));
        assert_eq!(one.ask(put("k", "v")).await.body, first.body);
        assert_eq!((changes(&rig), marks(&rig)), (1, 0));
        assert_eq!(state(&mut one, "k").await, WriteState::Made);
    });
}

#[test]
fn who_waited_long_enough_is_told_how_to_find_out() {
    run(async {
        let rig = Rig::linked_with(Settings {
            settling: Duration::from_millis(50),
            ..settings()
        })
        .await;
        let mut client = Client::connect(&rig).await;
        rig.host.with(|state| state.lose_answers = usize::MAX);
        let answer = client.ask(put("k", "v")).await;
        assert_eq!(answer.problem(), (503, "outcome-unknown".into()));
        assert_eq!(answer.header("idempotency-key"), "k");
        let detail = answer.json::<ProblemDetails>().detail;
        assert!(detail.contains("moorline-agent write-status k"), "{detail}");
        let open: OpenWrites = get(&rig, "/v1/writes").await.json();
        assert_eq!((open.writes.len(), marks(&rig)), (1, 1));
        assert_eq!(open.writes[0].state, WriteState::InDoubt);

        rig.host.with(|state| state.lose_answers = 0);
        rig.backing.line.opened().await;
        let again = client.ask(put("k", "v")).await;
        assert_eq!((again.status.as_u16(), changes(&rig), marks(&rig)), (200, 1, 0));
        let open: OpenWrites = get(&rig, "/v1/writes").await.json();
        assert_eq!(open.writes, []);
    });
}

#[test]
fn a_program_that_goes_leaves_a_change_whose_fate_is_found_out() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.unsettle = usize::MAX);
        {
            let mut gone = Client::connect(&rig).await;
            gone.sender.ready().await.unwrap();
            let asking = gone.sender.send_request(put("k", "v"));
            let seen = rig.host.until(|state| (state.recorded.len() == 1).then_some(()));
            tokio::select! {
                answer = asking => panic!("{answer:?}"),
                () = seen => {}
            }
        }
        rig.host.with(|state| state.unsettle = 0);
        until(|| marks(&rig) == 0).await;
        assert_eq!(changes(&rig), 1);
    });
}

#[test]
fn a_refusal_at_the_door_says_nothing_of_what_was_sent_before() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        rig.host.with(|state| state.turn_away = 1);
        assert_eq!(client.ask(put("first", "v")).await.status, 429);
        assert_eq!(
            (changes(&rig), marks(&rig)),
            (0, 0),
            "it was sent once, and not taken"
        );
        rig.host
            .with(|state| (state.lose_answers, state.turn_away) = (1, 0));
        let doubtful = client.ask(put("second", "v"));
        let turning_away = async {
            rig.host
                .until(|state| (state.recorded.len() == 1).then_some(()))
                .await;
            rig.host.with(|state| state.turn_away = 1);
        };
        let (answer, ()) = tokio::join!(doubtful, turning_away);
        assert_eq!((answer.status.as_u16(), changes(&rig), marks(&rig)), (200, 1, 0));
    });
}

#[test]
fn what_the_mirror_has_no_room_for_is_not_sent() {
    run(async {
        let rig = Rig::linked().await;
        let names: Vec<_> = (1..MAX_ENTRIES).map(|n| format!("crowd/{n}")).collect();
        let crowd: Vec<(&str, Option<&[u8]>)> =
            names.iter().map(|name| (name.as_str(), Some(&b""[..]))).collect();
        rig.host.change(&crowd);
        rig.mirrored(3).await;
        let mut client = Client::connect(&rig).await;
        let refused = client.ask(request("PUT", "/v1/data/new", "v")).await;
        assert_eq!(refused.problem(), (409, "no-room".into()));
        let detail = refused.json::<ProblemDetails>().detail;
        assert!(detail.contains("the most is 1024"), "{detail}");
        assert_eq!((rig.host.with(|state| state.relays.len()), marks(&rig)), (0, 0));
        assert_eq!(client.ask(request("PUT", "/v1/data/a", "v")).await.status, 200);
        // Another instance's data are not this mirror's, whatever room that has.
        let target = format!("/v1/instances/{OTHER}/data/open/new");
        let theirs = client.ask(request("PUT", &target, "v")).await;
        assert_eq!(
            (theirs.status.as_u16(), theirs.header("moorline-mirrored")),
            (403, "")
        );
        assert_eq!(rig.mirror.read().len(), MAX_ENTRIES);
    });
}

#[test]
fn what_became_of_a_change_is_for_those_who_may_make_any() {
    run(async {
        let own = settings();
        let writer = own.writer + 1;
        let rig = Rig::linked_with(Settings { writer, ..own }).await;
        for target in ["/v1/writes", "/v1/writes/k"] {
            assert_eq!(get(&rig, target).await.problem(), (403, "writer-only".into()));
        }
        let rig = Rig::linked().await;
        assert_eq!(
            get(&rig, "/v1/writes/k").await.problem(),
            (404, "change-not-found".into())
        );
        assert_eq!(
            get(&rig, "/v1/writes/a%20b").await.problem(),
            (400, "invalid-request".into())
        );
    });
}
