//! The service through real sockets: as the test's own user over TCP, and as anybody over a door that says so.

mod credentials;

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::credential::Credential;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::{Imds, Settings, Version};
use crate::access::{Names, Peer, Rules, User};
use crate::credentials::Held;
use crate::local;
use crate::local::posing::door_for;
use crate::platform::now;
use crate::test_host::{Give, LASTING, Order, Rig, making, run, settings};

const HOST: &str = "host: 169.254.169.254\r\n";

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends a request of these headers alone, and reads the answer; none if there is none.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    line: &str,
    headers: &str,
) -> Option<Answer> {
    let request = format!("{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    // Who is turned away may be before it has said anything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Some(Answer {
        status,
        headers: headers.collect(),
        body: body.to_owned(),
    })
}

/// An agent with the service, and a place where it is.
struct Service {
    rig: Rig,
    place: SocketAddrV4,
}

fn free_place() -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    match listener.local_addr().unwrap() {
        SocketAddr::V4(place) => place,
        SocketAddr::V6(place) => panic!("{place}"),
    }
}

const DATA: &[(&str, Option<&[u8]>)] = &[
    ("meta/instance-id", Some(b"i-1")),
    ("meta/account", Some(b"acme")),
    ("meta/zone", Some(b"zone-1")),
    ("meta/region", Some(b"north")),
    ("meta/name", Some(b"web-1\n")),
    (
        "meta/tags",
        Some("[\"role=web\",\"a b=c\",\"env =x\",\" led=x\",\"a\u{2028}b=c\"]".as_bytes()),
    ),
    ("public-keys/ann", Some(b"ssh-ed25519 AAAA ann\n")),
    ("public-keys/bob", Some(b"ssh-ed25519 BBBB bob")),
    ("user-data", Some(b"#!/bin/sh\necho \n")),
];

impl Service {
    async fn unlinked(version: Version, rules: &str) -> Self {
        let place = free_place();
        let settings = local::Settings {
            imds: Some(Settings {
                version,
                listen: place,
            }),
            ..settings()
        };
        let rules = Rules::parse(rules, &Names::default()).unwrap();
        let rig = Rig::ruled_without_host(settings, rules).await;
        Self { rig, place }
    }

    async fn ruled(version: Version, rules: &str) -> Self {
        let mut service = Self::unlinked(version, rules).await;
        service.rig.host.change(DATA);
        service.rig.start_host();
        service.rig.mirrored(2).await;
        service
    }

    async fn start(version: Version) -> Self {
        Self::ruled(version, "").await
    }

    async fn stream(&self) -> TcpStream {
        // The door listens when the agent's task comes to it.
        loop {
            match TcpStream::connect(self.place).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn ask(&self, line: &str, headers: &str) -> Answer {
        exchange(self.stream().await, line, headers).await.unwrap()
    }

    async fn token(&self, ttl: &str) -> String {
        let headers = format!("{HOST}X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
        let answer = self.ask("PUT /latest/api/token", &headers).await;
        assert_eq!(
            (
                answer.status,
                answer.header("x-aws-ec2-metadata-token-ttl-seconds")
            ),
            (200, ttl)
        );
        answer.body
    }

    /// Reads with a token: the body, or the status if it isn't 200.
    async fn get(&self, path: &str) -> Result<String, u16> {
        let token = self.token("60").await;
        let headers = format!("{HOST}X-aws-ec2-metadata-token: {token}\r\n");
        let answer = self.ask(&format!("GET {path}"), &headers).await;
        if answer.status == 200 {
            Ok(answer.body)
        } else {
            Err(answer.status)
        }
    }

    /// A socket on which everyone is this peer, and no token is needed.
    fn door_for(&mut self, name: &str, peer: Peer) -> PathBuf {
        let settings = Settings {
            version: Version::V1,
            listen: self.place,
        };
        let surface = Rc::new(Imds::new(&self.rig.backing, settings).unwrap());
        door_for(&mut self.rig, &surface, name, peer)
    }

    fn give(&self, n: u32) {
        self.rig
            .host
            .order(Order::Give(Box::new(Give::Credential(making(n, LASTING)))));
    }
}

async fn get_at(socket: &Path, path: &str) -> Result<String, u16> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let answer = exchange(stream, &format!("GET {path}"), HOST).await.unwrap();
    if answer.status == 200 {
        Ok(answer.body)
    } else {
        Err(answer.status)
    }
}

fn made(held: &Held) -> Option<String> {
    match &held.roles(now()).next()?.credential {
        Credential::Aws(aws) => Some(aws.access_key_id.clone()),
        Credential::Bearer(_) => None,
    }
}

#[test]
fn every_path_shows_what_ec2_shows() {
    run(async {
        let service = Service::start(Version::V2).await;
        for (path, body) in [
            ("/latest/meta-data/instance-id", "i-1"),
            ("/2009-04-04/meta-data/instance-id", "i-1"),
            ("/latest//meta-data///instance-id", "i-1"),
            ("/latest/meta-data/placement/availability-zone/", "zone-1"),
            ("/latest/meta-data/placement/region", "north"),
            ("/latest/meta-data/local-hostname", "web-1"),
            ("/latest/meta-data/public-keys/", "0=ann\n1=bob"),
            ("/latest/meta-data/public-keys/0/", "openssh-key"),
            (
                "/latest/meta-data/public-keys/0/openssh-key",
                "ssh-ed25519 AAAA ann",
            ),
            ("/latest/meta-data/tags/instance", "a b\nrole"),
            ("/latest/meta-data/tags/instance/a%20b", "c"),
            ("/latest/user-data", "#!/bin/sh\necho \n"),
            ("/latest", "dynamic/\nmeta-data/\nuser-data"),
            ("/latest/dynamic/instance-identity/", "document"),
            (
                "/latest/dynamic/instance-identity/document",
                r#"{"accountId":"acme","availabilityZone":"zone-1","instanceId":"i-1","region":"north","version":"2017-09-30"}"#,
            ),
        ] {
            assert_eq!(service.get(path).await.as_deref(), Ok(body), "{path}");
        }
        for path in [
            "/latest/meta-data/ami-id",
            "/latest/meta-data/iam/security-credentials-extended/",
            "/latest/meta-data/public-keys/2/openssh-key",
            "/latest/meta-data/public-keys/00/openssh-key",
            "/latest/meta-data/tags/instance/none",
            "/latest/meta-data/network/",
            "/newest/meta-data/",
            "/latest/meta-data/instance-id/x",
            "/latest/meta-data/*",
        ] {
            assert_eq!(service.get(path).await, Err(404), "{path}");
        }
    });
}

/// Follows every name that a listing has.
async fn crawl(socket: &Path, folder: &str) -> usize {
    let mut open = vec![folder.to_owned()];
    let mut leaves = 0;
    while let Some(folder) = open.pop() {
        let listing = get_at(socket, &folder).await;
        // As cloud-init does: Python has more ends of a line than others, and each line is stripped.
        for name in listing
            .unwrap_or_else(|status| panic!("{folder}: {status}"))
            .split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'])
            .map(str::trim)
        {
            let name = name
                .split_once('=')
                .map_or(name.to_owned(), |(place, _)| format!("{place}/"));
            let path = format!("{folder}{}", name.replace(' ', "%20"));
            if name.ends_with('/') {
                open.push(path);
            } else {
                assert!(
                    get_at(socket, &path).await.is_ok(),
                    "{path} is listed and not there"
                );
                leaves += 1;
            }
        }
    }
    leaves
}

#[test]
fn every_name_that_is_listed_answers_whoever_asks() {
    run(async {
        let rules = "meta 1\nmeta/region all\nmeta/tags all\ncredentials 1\npublic-keys/ann 1\nuser-data 1";
        let mut service = Service::ruled(Version::V2, rules).await;
        service.give(1);
        let all = service.door_for("all", Peer::process(1, vec![1]));
        let few = service.door_for("few", Peer::of(User::Nobody));
        let credentials = &service.rig.backing.given.credentials;
        credentials.until(made).await;
        assert_eq!(crawl(&all, "/latest/").await, 13);
        assert_eq!(crawl(&few, "/latest/").await, 4);
        assert_eq!(
            get_at(&few, "/latest/meta-data/").await.as_deref(),
            Ok("placement/\npublic-keys/\ntags/")
        );
        for denied in [
            "/latest/meta-data/instance-id",
            "/latest/meta-data/iam/",
            "/latest/meta-data/iam/security-credentials/backup",
            "/latest/dynamic/instance-identity/document",
            "/latest/user-data",
        ] {
            assert_eq!(get_at(&few, denied).await, Err(404), "{denied}");
        }
        assert_eq!(
            get_at(&few, "/latest/meta-data/public-keys/").await.as_deref(),
            Ok("0=bob")
        );
    });
}

#[test]
fn a_token_is_asked_for_as_on_ec2() {
    run(async {
        let service = Service::start(Version::V2).await;
        let asking = |ttl: &str| format!("{HOST}X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
        for ttl in ["1", "21600"] {
            service.token(ttl).await;
        }
        for headers in [
            HOST.to_owned(),
            asking("0"),
            asking("21601"),
            asking("x"),
            asking("-1"),
            asking("1.5"),
            asking("60") + "x-aws-ec2-metadata-token-ttl-seconds: 70\r\n",
        ] {
            assert_eq!(
                service.ask("PUT /latest/api/token", &headers).await.status,
                400,
                "{headers}"
            );
        }
        for (line, allowed) in [
            ("GET /latest/api/token", "PUT"),
            ("POST /latest/api/token", "PUT"),
            ("PUT /latest/meta-data/instance-id", "GET, HEAD"),
            ("DELETE /latest/meta-data/none", "GET, HEAD"),
        ] {
            let answer = service.ask(line, &asking("60")).await;
            assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{line}");
        }
        assert_eq!(
            service
                .ask("PUT //latest//api/token/", &asking("60"))
                .await
                .status,
            200
        );
    });
}

#[test]
fn without_a_good_token_nothing_is_read() {
    run(async {
        let mut service = Service::start(Version::V2).await;
        let door = service.door_for("door", Peer::of(User::Known(1000)));
        let other = Service::start(Version::V1).await;
        let line = "GET /latest/meta-data/instance-id";
        let with = |token: &str| format!("{HOST}x-aws-ec2-metadata-token: {token}\r\n");
        let foreign = other.token("60").await;
        let short = service.token("1").await;
        assert_eq!(service.ask(line, &with(&short)).await.status, 200);
        for (token, what) in [
            (String::new(), "empty"),
            ("x".repeat(4_000), "long"),
            (foreign, "of another boot"),
            (service.token("60").await + "A", "longer"),
        ] {
            assert_eq!(service.ask(line, &with(&token)).await.status, 401, "{what}");
            let paths = [
                "GET /latest/meta-data/none",
                "GET /",
                "HEAD /latest/meta-data/instance-id",
            ];
            for line in paths {
                assert_eq!(
                    service.ask(line, &with(&token)).await.status,
                    401,
                    "{what} {line}"
                );
            }
        }
        // What is longer than a head may be ends before anyone looks at it.
        let stream = UnixStream::connect(&door).await.unwrap();
        let answer = exchange(stream, line, &with(&"x".repeat(10_000))).await;
        assert_eq!(answer.map(|answer| answer.status), Some(431));
        let two = with(&service.token("60").await) + &with(&service.token("60").await)[HOST.len()..];
        assert_eq!(service.ask(line, &two).await.status, 401, "which of the two?");
        assert_eq!(service.ask(line, HOST).await.status, 401);
        assert_eq!(other.ask(line, HOST).await.body, "i-1", "version 1 asks for none");
        assert_eq!(
            other.ask(line, &with("bad")).await.status,
            401,
            "but takes no bad one"
        );
        while service.ask(line, &with(&short)).await.status != 401 {}
    });
}

#[test]
fn requests_that_were_passed_on_are_refused() {
    run(async {
        let service = Service::start(Version::V1).await;
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
        for header in [
            "X-Forwarded-For: 1.2.3.4\r\n",
            "x-forwarded-for:\r\n",
            "X-FORWARDED-FOR: a\r\n",
        ] {
            for line in ["PUT /latest/api/token", "GET /latest/meta-data/instance-id"] {
                let answer = service.ask(line, &format!("{HOST}{ttl}{header}")).await;
                assert_eq!(answer.status, 403, "{line} {header}");
            }
        }
        let line = "GET /latest/meta-data/instance-id";
        for host in [
            "",
            "host: evil.example\r\n",
            "host: 169.254.169.254.evil.example\r\n",
            "host: 169.254.169.254:81\r\n",
            "host: localhost\r\n",
            "host: 169.254.169.254\r\nhost: evil.example\r\n",
        ] {
            assert_eq!(service.ask(line, host).await.status, 403, "{host}");
        }
        let absolute = "GET http://evil.example/latest/meta-data/instance-id";
        assert_eq!(service.ask(absolute, HOST).await.status, 403);
        let own = format!("host: {}\r\n", service.place);
        for host in [&own, "host: 169.254.169.254:80\r\n", "host: [fd00:ec2::254]\r\n"] {
            assert_eq!(service.ask(line, host).await.status, 200, "{host}");
        }
        let absolute = "GET http://169.254.169.254/latest/meta-data/instance-id";
        assert_eq!(service.ask(absolute, HOST).await.status, 200);
    });
}

#[test]
fn nobody_is_heard_before_there_are_data() {
    run(async {
        let mut service = Service::unlinked(Version::V2, "").await;
        for _ in 0..3 {
            assert!(TcpStream::connect(service.place).await.is_err());
            tokio::task::yield_now().await;
        }
        service.rig.host.change(DATA);
        service.rig.start_host();
        service.rig.mirrored(2).await;
        assert_eq!(
            service.get("/latest/meta-data/instance-id").await.as_deref(),
            Ok("i-1")
        );
    });
}

#[test]
fn a_place_that_clients_cannot_name_is_told() {
    run(async {
        let rig = Rig::without_host(settings()).await;
        for place in ["0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80"] {
            let error = super::Gate::bind(place.parse().unwrap(), Rc::clone(&rig.mirror)).unwrap_err();
            assert!(
                matches!(error, super::OpenError::Place { .. }),
                "{place}: {error}"
            );
        }
    });
}

#[test]
fn a_place_that_is_taken_is_told() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(listen) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4")
        };
        let rig = Rig::without_host(settings()).await;
        let error = super::Gate::bind(listen, Rc::clone(&rig.mirror)).unwrap_err();
        assert!(error.to_string().contains("--imds-listen"), "{error}");
    });
}

#[test]
fn a_slow_client_is_not_waited_for() {
    run(async {
        let place = free_place();
        let imds = Settings {
            version: Version::V2,
            listen: place,
        };
        let settings = local::Settings {
            imds: Some(imds),
            patience: Duration::from_millis(50),
            ..settings()
        };
        let rig = Rig::linked_with(settings).await;
        let service = Service { rig, place };
        let mut slow = service.stream().await;
        slow.write_all(b"GET /latest/meta-da").await.unwrap();
        assert_eq!(slow.read(&mut [0; 16]).await.unwrap_or(0), 0);
    });
}
