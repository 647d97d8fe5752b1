//! Reads of the instance's own data.

use super::*;

#[test]
fn an_entry_is_its_bytes_with_what_is_known_about_them() {
    run(async {
        let rig = Rig::linked().await;
        let answer = get(&rig, "/v1/data/a").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"one"[..]));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(
            (answer.header("etag"), answer.header("moorline-freshness")),
            ("\"1.2\"", "fresh")
        );
        assert!(answer.header("moorline-age-ms").parse::<u64>().unwrap() < 30_000);
        // The same by the id that the host gives this guest, and without a body for HEAD.
        let named = get(&rig, &format!("/v1/instances/{OWN}/data/a")).await;
        assert_eq!(&named.body[..], b"one");
        let head = Client::connect(&rig)
            .await
            .ask(request("HEAD", "/v1/data/a", ""))
            .await;
        assert_eq!((head.header("content-length"), head.body.len()), ("3", 0));

        let reading: EntryReading = get(&rig, "/v1/entries/a").await.json();
        assert_eq!(
            (reading.revision, reading.length, reading.value.text()),
            (revision(2), 3, Some("one"))
        );
        assert_eq!(reading.freshness, Freshness::Fresh);
    });
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        for (known, status) in [("\"1.2\"", 304), ("W/\"1.2\"", 304), ("*", 304), ("\"1.1\"", 200)] {
            let mut request = request("GET", "/v1/data/a", "");
            request
                .headers_mut()
                .insert("if-none-match", known.parse().unwrap());
            let answer = client.ask(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("etag")),
                (status, "\"1.2\""),
                "{known}"
            );
        }
    });
}

#[test]
fn listings_show_one_state() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change(&[
            ("net/mac", Some(b"m")),
            ("net/ip", Some(b"\xff")),
            ("network", Some(b"n")),
        ]);
        rig.mirrored(3).await;
        let paths = |listing: &Listing| {
            listing
                .entries
                .iter()
                .map(|e| e.path.to_string())
                .collect::<Vec<_>>()
        };
        for target in [
            "/v1/data/net/",
            "/v1/data?prefix=net",
            "/v1/data/net?recursive=true",
        ] {
            let answer = get(&rig, target).await;
            let listing: Listing = answer.json();
            assert_eq!(
                (paths(&listing), listing.revision),
                (vec!["net/ip".into(), "net/mac".into()], revision(3))
            );
            assert_eq!(answer.header("etag"), "\"1.3\"");
            assert!(listing.entries.iter().all(|entry| entry.value.is_none()));
        }
        let all: Listing = get(&rig, "/v1/data?values=true").await.json();
        assert_eq!(paths(&all), ["a", "net/ip", "net/mac", "network"]);
        assert_eq!(all.entries[1].value.as_ref().unwrap().bytes()[..], b"\xff"[..]);
    });
}

#[test]
fn a_long_poll_answers_with_the_change() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let target = "/v1/data/a?wait_for_change=true&last_etag=%221.2%22&timeout_sec=30";
        let polling = client.ask(request("GET", target, ""));
        let changing = async {
            rig.host.change(&[("b", Some(b"another"))]);
            rig.mirrored(3).await;
            rig.host.change(&[("a", Some(b"two"))]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(
            (&answer.body[..], answer.header("etag")),
            (&b"two"[..], "\"1.4\"")
        );
        // What the client has not is answered at once.
        let at_once = client.ask(request("GET", target, "")).await;
        assert_eq!(at_once.header("etag"), "\"1.4\"");
    });
}

#[test]
fn a_long_poll_for_what_is_not_there_sees_it_come_and_go() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let absent = client.ask(request("GET", "/v1/data/new", "")).await;
        assert_eq!(
            (absent.problem(), absent.header("etag")),
            ((404, "entry-not-found".into()), "\"0.0\"")
        );
        let polling = client.ask(request(
            "GET",
            "/v1/data/new?wait_for_change=true&last_etag=0.0",
            "",
        ));
        let changing = async { rig.host.change(&[("new", Some(b"here"))]) };
        let (answer, _) = tokio::join!(polling, changing);
        assert_eq!(&answer.body[..], b"here");
        let polling = client.ask(request("GET", "/v1/data/new?wait_for_change=true", ""));
        let changing = async {
            rig.host.change(&[("new", None)]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (404, "\"1.4\""));
    });
}

#[test]
fn a_long_poll_that_runs_out_shows_the_present_state() {
    run(async {
        let rig = Rig::linked().await;
        let begun = Instant::now();
        let answer = get(&rig, "/v1/data/a?wait_for_change=true&timeout_sec=1").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"one"[..]));
        assert!(begun.elapsed() >= Duration::from_secs(1));
    });
}

#[test]
fn a_listing_waits_for_a_change_below_its_prefix() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            "/v1/data/net/?wait_for_change=true&last_etag=1.2",
            "",
        ));
        let changing = async {
            rig.host.change(&[("a", Some(b"two"))]);
            rig.mirrored(3).await;
            rig.host.change(&[("net/ip", Some(b"1"))]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(answer.json::<Listing>().revision, revision(4));
    });
}

#[test]
fn an_expired_entry_is_fetched_or_refused() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| {
            state.revision += 1;
            let short = Mirrored {
                valid_for_ms: Some(0),
                ..entry(state.revision, b"short")
            };
            state.own.insert("short".parse().unwrap(), short);
        });
        rig.mirrored(3).await;
        let fetched = get(&rig, "/v1/data/short").await;
        assert_eq!(
            (&fetched.body[..], fetched.header("moorline-freshness")),
            (&b"short"[..], "stale")
        );
        assert_eq!(fetched.header("moorline-age-ms"), "5");
        assert_eq!(rig.host.with(|state| state.asked.clone()), ["short"]);
        let all: Listing = get(&rig, "/v1/data").await.json();
        assert_eq!(all.entries.len(), 1, "what has expired is not listed");
    });
}

#[test]
fn what_is_too_old_is_asked_of_the_host() {
    run(async {
        let rig = Rig::linked().await;
        let heard = rig.mirror.read().age(crate::platform::now()).unwrap();
        // Older than nothing at all, once a millisecond has passed.
        while rig.mirror.read().age(crate::platform::now()).unwrap().ms <= heard.ms {
            tokio::task::yield_now().await;
        }
        let answer = get(&rig, "/v1/data/a?max_age_ms=0").await;
        assert_eq!(
            (&answer.body[..], answer.header("moorline-age-ms")),
            (&b"one"[..], "5")
        );
        let answer = get(&rig, "/v1/data/a?max_age_ms=30000").await;
        assert_eq!(answer.header("moorline-freshness"), "fresh");
    });
}

#[test]
fn without_data_reads_wait_and_then_say_so() {
    run(async {
        let settings = Settings {
            first_wait: Duration::from_millis(50),
            ..Settings::default()
        };
        let mut rig = Rig::without_host(settings).await;
        let answer = get(&rig, "/v1/data/a").await;
        assert_eq!(
            (answer.problem(), answer.header("retry-after")),
            ((503, "not-ready".into()), "1")
        );
        let status: Status = get(&rig, "/v1/status").await.json();
        assert_eq!((status.link.state, status.mirror), (LinkState::Connecting, None));
        let foreign = get(&rig, &format!("/v1/instances/{OTHER}/data/a")).await;
        assert_eq!(foreign.problem(), (503, "host-unavailable".into()));
        rig.start_host();
        rig.mirrored(1).await;
        let status: Status = get(&rig, "/v1/status").await.json();
        assert_eq!(status.mirror.unwrap().revision, revision(1));
        assert_eq!(status.identity.unwrap().instance, OWN);
    });
}

#[test]
fn a_long_poll_sees_an_entry_run_out() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| {
            state.revision += 1;
            let short = Mirrored {
                valid_for_ms: Some(400),
                ..entry(state.revision, b"short")
            };
            state.own.insert("short".parse().unwrap(), short);
        });
        rig.mirrored(3).await;
        let begun = Instant::now();
        let answer = get(
            &rig,
            "/v1/data/short?wait_for_change=true&last_etag=1.3&timeout_sec=30",
        )
        .await;
        // It is what the host has then, which here is the same.
        assert_eq!(
            (&answer.body[..], answer.header("moorline-age-ms")),
            (&b"short"[..], "5")
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn readers_see_one_instance_or_the_other_and_never_an_empty_one() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        rig.host.with(|state| {
            state.own = [("b".parse().unwrap(), entry(2, b"another's"))].into();
            state.instance = OTHER;
        });
        rig.host.order(Order::Cut);
        loop {
            let answer = client.ask(request("GET", "/v1/data", "")).await;
            let listing: Listing = answer.json();
            let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_str()).collect();
            assert!(paths == ["a"] || paths == ["b"], "{paths:?}");
            if paths == ["b"] {
                break;
            }
        }
    });
}

#[test]
fn a_host_that_lost_the_control_plane_makes_answers_stale_until_it_is_back() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let hour = 3_600_000;
        rig.host
            .with(|state| state.standing = (body::Freshness::Stale, hour));
        loop {
            let answer = client.ask(request("GET", "/v1/data/a", "")).await;
            if answer.header("moorline-freshness") == "stale" {
                assert!(answer.header("moorline-age-ms").parse::<u32>().unwrap() >= hour);
                break;
            }
        }
        let listing: Listing = client.ask(request("GET", "/v1/data", "")).await.json();
        let status: Status = client.ask(request("GET", "/v1/status", "")).await.json();
        let mirror = status.mirror.unwrap();
        for (age_ms, freshness) in [
            (listing.age_ms, listing.freshness),
            (mirror.age_ms, mirror.freshness),
        ] {
            assert!(age_ms >= u64::from(hour) && freshness == Freshness::Stale);
        }
        // A change that comes meanwhile makes it no younger.
        rig.host.change(&[("a", Some(b"two"))]);
        rig.mirrored(3).await;
        let answer = client.ask(request("GET", "/v1/data/a", "")).await;
        assert_eq!(
            (&answer.body[..], answer.header("moorline-freshness")),
            (&b"two"[..], "stale")
        );

        rig.host
            .with(|state| state.standing = (body::Freshness::Fresh, 0));
        loop {
            let answer = client.ask(request("GET", "/v1/data/a", "")).await;
            if answer.header("moorline-freshness") == "fresh" {
                assert!(answer.header("moorline-age-ms").parse::<u32>().unwrap() < hour);
                break;
            }
        }
    });
}
