//! A host that has its guests ask.

use moorline_shared::agent::Freshness;
use moorline_shared::link::body::Pull;

use super::*;
use crate::test_host::settings;

async fn asking(every_ms: u32) -> Rig {
    let mut rig = Rig::without_host(settings()).await;
    rig.host.with(|state| {
        state.pull = Some(Pull { every_ms });
        state.standing.1 = 4_000;
    });
    rig.host.change(&[("a", Some(b"one"))]);
    rig.start_host();
    rig.mirrored(2).await;
    rig
}

#[test]
fn changes_come_with_answers_and_the_agent_goes_on_asking() {
    run(async {
        let rig = asking(5).await;
        for (n, changed) in [(3, b"two"), (4, b"six")] {
            rig.host.change(&[("a", Some(changed))]);
            rig.mirrored(n).await;
            assert_eq!(value(&rig, "a").as_deref(), Some(&changed[..]));
        }
        rig.host.change(&[("a", None)]);
        rig.mirrored(5).await;
        assert_eq!(value(&rig, "a"), None);
        let asked = rig.host.with(|state| state.polls);
        rig.host
            .until(|state| (state.polls > asked + 5).then_some(()))
            .await;
        let age = rig.mirror.read().age(now()).unwrap();
        assert_eq!(age.freshness, Freshness::Fresh);
        assert!((4_000..14_000).contains(&age.ms), "{age:?}");
    });
}

#[test]
fn what_is_not_asked_for_does_not_come() {
    run(async {
        let rig = asking(3_600_000).await;
        rig.host.change(&[("a", Some(b"two"))]);
        // What is answered behind the change shows that it was not told.
        rig.host
            .with(|state| state.other.insert("open/b".parse().unwrap(), entry(1, b"x")));
        rig.line.get(Asking::Agent, &foreign("open/b")).await.unwrap();
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"one"[..]));
        assert_eq!(rig.host.with(|state| state.polls), 0);
    });
}
