//! Requests that are wrong, and clients that misbehave.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, listen, socket};

use super::*;
use crate::local::surface::Door as _;

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        for (method, target, status, says) in [
            ("GET", "/", 404, "/v1/status"),
            ("GET", "/v2/data/a", 404, "/v1/status"),
            ("GET", "/v1/data/..", 400, "'..' is not allowed"),
            ("GET", "/v1/data/a%2fb", 400, "0x25"),
            ("GET", "/v1/data/a//b", 400, "empty segment"),
            ("GET", "/v1/data/-x", 400, "'-'"),
            ("GET", "/v1/data/a?colour=red", 400, "'colour'"),
            ("GET", "/v1/data/a?timeout_sec=301", 400, "1 to 300"),
            ("GET", "/v1/data?prefix=..", 400, "'..' is not allowed"),
            ("GET", "/v1/data/a/?prefix=b", 400, "already says"),
            ("GET", "/v1/watch?after=x", 400, "EPOCH.N"),
            ("GET", "/v1/instances/i-1/data/a", 400, "i-1"),
            ("PUT", "/v1/data/a?ttl=0", 400, "0"),
            ("PUT", "/v1/data/", 400, "empty"),
            ("PUT", "/v1/data/a?visibility=x", 400, "x"),
        ] {
            let answer = client.ask(request(method, target, "")).await;
            let (got, _) = answer.problem();
            let detail = answer.json::<ProblemDetails>().detail;
            assert!(got == status && detail.contains(says), "{target}: {got} {detail}");
        }
        for (method, target, allowed) in [
            ("PATCH", "/v1/data/a", "GET, HEAD, PUT, POST, DELETE"),
            ("POST", "/v1/status", "GET, HEAD"),
            ("DELETE", "/v1/entries/a", "GET, HEAD"),
        ] {
            let answer = client.ask(request(method, target, "")).await;
            assert_eq!((answer.problem().0, answer.header("allow")), (405, allowed));
        }
    });
}

#[test]
fn long_heads_are_refused() {
    run(async {
        let rig = Rig::linked().await;
        let long = format!("GET /v1/data/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(10_000));
        let answer = raw(&rig, long.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        let headers = "x-y: z\r\n".repeat(100);
        let answer = raw(
            &rig,
            format!("GET /v1/data/a HTTP/1.1\r\n{headers}\r\n").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let answer = raw(&rig, b"\0\x01\x02 nonsense\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(get(&rig, "/v1/data/a").await.status, 200);
    });
}

#[test]
fn requests_may_follow_each_other_before_their_answers() {
    run(async {
        let rig = Rig::linked().await;
        let one = "GET /v1/data/a HTTP/1.1\r\nhost: a\r\n\r\n";
        let last = "GET /v1/data/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = raw(&rig, format!("{}{last}", one.repeat(50)).as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 51);
        assert_eq!(answer.matches("\r\n\r\none").count(), 51);
    });
}

#[test]
fn connections_are_bounded() {
    run(async {
        let rig = Rig::linked_with(Settings {
            connections: 2,
            ..Settings::default()
        })
        .await;
        let (mut one, two) = (Client::connect(&rig).await, Client::connect(&rig).await);
        one.ask(request("GET", "/v1/data/a", "")).await;
        let refused = raw(&rig, b"").await;
        assert!(
            refused.starts_with("HTTP/1.1 503") && refused.contains("too-many-connections"),
            "{refused}"
        );
        drop(two);
        // Room is made when the agent notices; until then it goes on to say no.
        while !is_served(&rig).await {}
    });
}

/// Whether a client that comes now is answered; if not, it is told that there are too many.
async fn is_served(rig: &Rig) -> bool {
    let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
    // Who is turned away may be before it has said anything.
    let _ = stream
        .write_all(b"GET /v1/data/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 503");
    assert!(refused || answer.starts_with("HTTP/1.1 200"), "{answer}");
    !refused
}

#[test]
fn no_user_has_all_connections() {
    run(async {
        let rig = Rig::linked_with(Settings {
            connections: 4,
            ..Settings::default()
        })
        .await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::connect(&rig).await;
            assert_eq!(client.ask(request("GET", "/v1/data/a", "")).await.status, 200);
            clients.push(client);
        }
        let refused = raw(&rig, b"").await;
        assert!(refused.contains("too-many-connections"), "{refused}");
    });
}

#[test]
fn connections_that_do_nothing_end() {
    run(async {
        let rig = Rig::linked_with(Settings {
            patience: Duration::from_millis(50),
            ..settings()
        })
        .await;
        assert_eq!(raw(&rig, b"").await, "");
        // Half a head, and a body that never comes.
        assert_eq!(raw(&rig, b"GET /v1/da").await, "");
        let slow = raw(
            &rig,
            b"PUT /v1/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab",
        )
        .await;
        assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
        // One that waits for a change is not idle.
        let waiting = get(&rig, "/v1/data/a?wait_for_change=true&timeout_sec=1").await;
        assert_eq!(waiting.status, 200);
    });
}

#[test]
fn a_reader_that_takes_nothing_ends() {
    run(async {
        let rig = Rig::linked_with(Settings {
            patience: Duration::from_millis(50),
            ..Settings::default()
        })
        .await;
        rig.host.change(&[("large", Some(&vec![b'x'; 250_000]))]);
        rig.mirrored(3).await;
        let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
        let ask = "GET /v1/data/large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(8);
        stream.write_all(ask.as_bytes()).await.unwrap();
        // It takes nothing until the agent has hung up, which a write after that tells.
        while stream.write_all(b"GET ").await.is_ok() {
            tokio::task::yield_now().await;
            if stream.try_write(b"").is_err() {
                break;
            }
        }
    });
}

#[test]
fn what_is_under_way_is_answered_when_the_agent_stops() {
    run(async {
        let mut rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            "/v1/data/a?wait_for_change=true&last_etag=1.2",
            "",
        ));
        let stopping = async {
            rig.host.change(&[("a", Some(b"two"))]);
            rig.mirrored(3).await;
            rig.stop.cancel();
        };
        let (answer, ()) = tokio::join!(polling, stopping);
        assert_eq!(&answer.body[..], b"two");
        for _ in 0..2 {
            rig.tasks.join_next().await.unwrap().unwrap();
        }
        assert!(UnixStream::connect(&rig.socket).await.is_err());
    });
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_served_one_is_not() {
    run(async {
        let rig = Rig::linked().await;
        assert!(matches!(
            super::super::socket::bind(&rig.socket).await,
            Err(super::super::BindError::Taken { .. })
        ));
        let left = rig.folder().join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        super::super::socket::bind(&left).await.unwrap();
        let (folder, file) = (rig.folder().join("folder"), rig.folder().join("file"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "kept").unwrap();
        for other in [&folder, &file] {
            assert!(matches!(
                super::super::socket::bind(other).await,
                Err(super::super::BindError::InTheWay { .. })
            ));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    });
}

#[test]
fn a_socket_whose_agent_is_too_busy_is_not_replaced() {
    run(async {
        let rig = Rig::linked().await;
        let busy = rig.folder().join("busy.sock");
        let family = AddressFamily::Unix;
        let listener = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&busy).unwrap()).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _first = UnixStream::connect(&busy).await.unwrap();
        assert!(matches!(
            super::super::socket::bind(&busy).await,
            Err(super::super::BindError::Taken { .. })
        ));
        assert!(busy.exists());
    });
}

#[test]
fn an_agent_that_stops_leaves_its_successors_socket() {
    run(async {
        let mut rig = Rig::linked().await;
        std::fs::remove_file(&rig.socket).unwrap();
        let successor = super::super::socket::bind(&rig.socket).await.unwrap();
        rig.stop.cancel();
        for _ in 0..2 {
            rig.tasks.join_next().await.unwrap().unwrap();
        }
        assert!(UnixStream::connect(&rig.socket).await.is_ok());
        successor.close();
        assert!(!rig.socket.exists());
    });
}
