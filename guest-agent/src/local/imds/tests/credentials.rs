//! Credentials of roles, as EC2 shows them.

use futures_util::future::join_all;

use super::*;
use crate::credentials::Lookup;
use crate::test_host::announced;

#[test]
fn a_role_whose_credentials_are_late_is_not_taken_for_none() {
    run(async {
        let service = Service::start(Version::V1).await;
        let expired = Give::Credential(making(1, 0));
        service.rig.host.order(Order::Give(Box::new(expired)));
        let credentials = &service.rig.backing.given.credentials;
        let late = |held: &Held| matches!(held.look(&"backup".parse().unwrap(), now()), Lookup::Awaited);
        credentials.until(|held| late(held).then_some(())).await;
        let path = "/latest/meta-data/iam/security-credentials/backup";
        assert_eq!(service.get(path).await, Err(503));
    });
}

#[test]
fn a_cold_agent_makes_its_first_caller_wait_for_credentials() {
    run(async {
        let mut service = Service::unlinked(Version::V2, "").await;
        service.rig.host.change(DATA);
        service
            .rig
            .host
            .with(|state| state.gives = vec![Give::Credential(announced())]);
        service.rig.start_host();
        service.rig.mirrored(2).await;
        let asked = service.get("/latest/meta-data/iam/security-credentials/");
        let (answer, ()) = tokio::join!(asked, async { service.give(1) });
        assert_eq!(answer.as_deref(), Ok("backup"));
        let document = service
            .get("/latest/meta-data/iam/security-credentials/backup")
            .await
            .unwrap();
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["Code"], "Success");
        assert_eq!(document["Type"], "AWS-HMAC");
        assert_eq!(document["AccessKeyId"], "AKIA1");
        assert_eq!(document["SecretAccessKey"], "sesame1");
        assert_eq!(document["Token"], "token1");
        assert_eq!(document["Expiration"], "2027-01-15T08:00:00Z");
        assert_eq!(document["LastUpdated"].as_str().map(str::len), Some(20));
        let info = service.get("/latest/meta-data/iam/info").await.unwrap();
        assert!(
            info.contains("arn:aws:iam::acme:instance-profile/backup"),
            "{info}"
        );
    });
}

#[test]
fn readers_find_credentials_of_one_making_while_they_change() {
    run(async {
        let mut service = Service::start(Version::V1).await;
        let socket = service.door_for("any", Peer::of(User::Known(1000)));
        service.give(0);
        let credentials = Rc::clone(&service.rig.backing.given.credentials);
        credentials.until(made).await;
        let rotation = async {
            for n in 1..=30 {
                service.give(n);
                let arrived = |held: &Held| (made(held)? == format!("AKIA{n}")).then_some(());
                credentials.until(arrived).await;
            }
        };
        let readers = (0..50).map(|_| until_the_last(&socket, 30));
        tokio::join!(join_all(readers), rotation);
    });
}

/// Reads until the last making is there: each time one making, never an older one than before.
async fn until_the_last(socket: &Path, last: u32) {
    let mut seen = 0;
    while seen < last {
        let path = "/latest/meta-data/iam/security-credentials/backup";
        let document = get_at(socket, path).await.expect("there are always some");
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        let key = document["AccessKeyId"].as_str().unwrap();
        let number: u32 = key.strip_prefix("AKIA").unwrap().parse().unwrap();
        assert_eq!(document["SecretAccessKey"], format!("sesame{number}"));
        assert_eq!(document["Token"], format!("token{number}"));
        assert!(number >= seen);
        seen = number;
    }
}
