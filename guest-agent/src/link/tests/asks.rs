//! What programs ask of the host over the link, and what a user may take up of it.

use moorline_shared::PathPrefix;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::link::body::{Code, List, Relay, Watch};

use super::foreign;
use crate::access::User;
use crate::link::{AskFailure, Asking, Watching};
use crate::test_host::{Answers, OTHER, OWN, Order, Rig, run};

#[test]
fn foreign_reads_are_answered_or_refused_by_the_host() {
    run(async {
        let rig = Rig::linked().await;
        let large = vec![b'x'; 200_000];
        rig.host.change_other("open/large", Some(&large));
        rig.host.change_other("shut/x", Some(b"secret"));
        let (found, _) = rig.line.get(Asking::Agent, &foreign("open/large")).await.unwrap();
        assert_eq!((found.value.len(), found.age_ms), (200_000, 5));
        for (path, code) in [("open/none", Code::NotFound), ("shut/x", Code::Denied)] {
            let Err(AskFailure::Refused(refused)) = rig.line.get(Asking::Agent, &foreign(path)).await else {
                panic!("{path}")
            };
            assert_eq!(refused.code, code as u16);
        }
        let list = List {
            instance: Some(OTHER),
            prefix: PathPrefix::ALL,
            after: None,
        };
        assert_eq!(
            rig.line.list(Asking::Agent, &list).await.unwrap().0.entries.len(),
            2
        );
    });
}

#[test]
fn more_questions_than_the_bound_wait_their_turn() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"x"));
        let asked = (0..200).map(|_| async { rig.line.get(Asking::Agent, &foreign("open/x")).await.is_ok() });
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.into_iter().all(|answered| answered));
    });
}

#[test]
fn a_question_nobody_waits_for_is_taken_back() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.answers = Answers::Never);
        let question = foreign("open/x");
        tokio::select! {
            biased;
            answer = rig.line.get(Asking::Agent, &question) => panic!("{answer:?}"),
            () = rig.host.until(|state| (!state.asked.is_empty()).then_some(())) => {}
        }
        rig.host.until(|state| (state.cancelled == 1).then_some(())).await;
    });
}

#[test]
fn questions_under_way_end_with_the_session() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.answers = Answers::Never);
        let cut = async {
            rig.host
                .until(|state| (!state.asked.is_empty()).then_some(()))
                .await;
            rig.host.order(Order::Cut);
        };
        let question = foreign("open/x");
        let (answer, ()) = tokio::join!(rig.line.get(Asking::Agent, &question), cut);
        assert_eq!(answer, Err(AskFailure::Lost));
    });
}

#[test]
fn watches_bring_a_snapshot_then_changes_one_at_a_time() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"1"));
        let watch = Watch {
            instance: Some(OTHER),
            prefix: "open".parse().unwrap(),
        };
        let mut watching = rig.line.watch(Asking::Agent, &watch).await.unwrap();
        let first = watching.next().await.unwrap();
        assert_eq!((first.from, first.items.len()), (None, 1));
        // The host merges what happens while a batch is not dealt with.
        rig.host.change_other("open/x", Some(b"2"));
        rig.host.change_other("open/y", Some(b"3"));
        watching.applied(first.to);
        let second = watching.next().await.unwrap();
        assert_eq!((second.from, second.items.len()), (Some(first.to), 2));
        drop(watching);
        rig.host.until(|state| (state.cancelled == 1).then_some(())).await;

        let shut = Watch {
            instance: Some(OTHER),
            prefix: "shut".parse().unwrap(),
        };
        let refused = rig.line.watch(Asking::Agent, &shut).await;
        assert!(matches!(refused, Err(AskFailure::Refused(_))));
    });
}

#[test]
fn relays_pass_whole() {
    run(async {
        let rig = Rig::linked().await;
        let value = "v".repeat(200_000);
        let body = serde_json::json!({ "value": value }).to_string();
        let relay = Relay {
            method: "PUT".into(),
            target: format!("/v1/instances/{OWN}/data/big"),
            headers: vec![
                ("if-none-match".into(), "*".into()),
                ("idempotency-key".into(), "k".into()),
            ],
            length: 0,
            body: body.as_str().into(),
        };
        assert_eq!(rig.line.relay(&relay).await.unwrap().status, 200);
        let seen = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(
            (seen.body.text(), seen.headers),
            (Some(body.as_str()), relay.headers)
        );
    });
}

/// A watch of everything that the other instance opens, for user 1000.
async fn users_watch(rig: &Rig) -> Result<Watching, AskFailure> {
    let watch = Watch {
        instance: Some(OTHER),
        prefix: "open".parse().unwrap(),
    };
    rig.line.watch(Asking::User(User::Known(1000)), &watch).await
}

#[test]
fn a_user_with_all_the_watches_it_gets_keeps_no_change_out() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"1"));
        let mut watches = Vec::new();
        for _ in 0..8 {
            watches.push(users_watch(&rig).await.unwrap());
        }
        let relay = Relay {
            method: "PUT".into(),
            target: format!("/v1/instances/{OWN}/data/a"),
            headers: vec![(IDEMPOTENCY_KEY.to_owned(), "once".to_owned())],
            length: 0,
            body: r#"{"value":"x"}"#.into(),
        };
        tokio::select! {
            biased;
            watch = users_watch(&rig) => panic!("a ninth watch: {watch:?}"),
            answer = rig.line.relay(&relay) => assert_eq!(answer.unwrap().status, 200),
        }
        // The host has ended a watch once its number is given anew.
        watches.pop();
        users_watch(&rig).await.unwrap();
    });
}

#[test]
fn a_user_whose_questions_are_not_answered_keeps_no_others_out() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.answers = Answers::Never);
        let user = Asking::User(User::Known(1000));
        let asked = (0..100).map(|_| async { rig.line.get(user, &foreign("open/x")).await });
        let asking = futures_util::future::join_all(asked);
        let list = List {
            instance: Some(OTHER),
            prefix: PathPrefix::ALL,
            after: None,
        };
        let root = async {
            rig.host
                .until(|state| (state.asked.len() == 16).then_some(()))
                .await;
            rig.line.list(Asking::Agent, &list).await
        };
        tokio::select! {
            _ = asking => panic!("nobody answers"),
            answer = root => assert!(answer.is_ok()),
        }
        assert_eq!(rig.host.with(|state| state.asked.len()), 16);
    });
}

#[test]
fn while_the_host_is_busy_only_the_agent_asks_on() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"1"));
        let user = Asking::User(User::Known(1000));
        rig.host.with(|state| state.answers = Answers::Busy);
        let busy = rig.line.get(user, &foreign("open/x")).await;
        assert_eq!(
            busy,
            Err(AskFailure::Busy {
                retry_after_ms: 2_500
            })
        );
        rig.host.with(|state| state.answers = Answers::Given);
        let resting = rig.line.get(user, &foreign("open/x")).await;
        assert!(matches!(
            resting,
            Err(AskFailure::Busy {
                retry_after_ms: 1..=2_500
            })
        ));
        assert!(rig.line.get(Asking::Agent, &foreign("open/x")).await.is_ok());
        assert_eq!(rig.host.with(|state| state.asked.len()), 2);
    });
}

#[test]
fn a_watch_whose_first_batch_never_comes_is_given_up() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.answers = Answers::Never);
        tokio::time::pause();
        assert!(matches!(users_watch(&rig).await, Err(AskFailure::NoAnswer)));
        rig.host.until(|state| (state.cancelled == 1).then_some(())).await;
    });
}
