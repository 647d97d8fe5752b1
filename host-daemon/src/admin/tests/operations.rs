//! What operators' tools ask of `admin.sock`: health, readiness, metrics.

use moorline_daemon::metrics::{Port, documented, names};
use moorline_shared::api::health::Health;
use moorline_shared::host::{Readiness, Serves};
use tokio_util::sync::CancellationToken;

use super::{Daemon, Host, OURS, Sockets};
use crate::admin::BindError;

#[tokio::test]
async fn every_metric_is_in_the_list_and_every_one_of_the_list_is_there() {
    let host = Host::new();
    let (daemon, _vmm) = Daemon::with_vmm(&host).await;
    let answer = daemon.get("/v1/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.body;
    let listed = include_str!("../../../../packaging/METRICS.md");
    assert_eq!(names(&text), documented(listed, "moorline-host"), "{text}");
    for line in [
        r#"moorline_host_guests{state="connected"} 0.0"#,
        r#"moorline_host_vms{driver="external",state="running"} 1.0"#,
        "moorline_host_feed_in_step 0.0",
        r#"moorline_host_guest_requests_total{kind="get"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    assert!(
        !text.contains(&OURS.to_string()),
        "a metric has an instance's name in it"
    );
    daemon.end().await;
}

#[tokio::test]
async fn a_daemon_that_never_reached_the_control_plane_lives_and_is_not_ready() {
    let host = Host::new();
    let daemon = Daemon::start(&host).await;
    let health: Health = daemon.get("/v1/health").await.as_done();
    assert!(health.build.starts_with("moorline-host "), "{health:?}");
    let not_ready = daemon.get("/v1/ready").await.as_problem();
    assert_eq!((not_ready.status, &*not_ready.kind), (503, "not-ready"));
    assert!(
        not_ready.detail.contains("has not been reached"),
        "{}",
        not_ready.detail
    );

    daemon.shards.handle().feed_clock().heard(crate::link::now());
    let ready: Readiness = daemon.get("/v1/ready").await.as_done();
    assert_eq!(ready.serves, Serves::Fresh);
    daemon.end().await;
}

#[tokio::test]
async fn a_port_for_metrics_that_is_taken_is_named() {
    let host = Host::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let sockets = Sockets::bind(&host.sockets()).unwrap();
    let error = sockets.with_metrics(Some(address)).unwrap_err();
    assert!(matches!(error, BindError::Port { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_port_of_loopback_shows_the_same_metrics() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let host = Host::new();
    let daemon = Daemon::start(&host).await;
    let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.address().unwrap();
    let cancel = CancellationToken::new();
    let services = daemon.services.clone();
    let scrape = async move || crate::admin::status::metrics(&services).await;
    let serving = port.serve(scrape, cancel.clone());
    let scrape = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: local\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        cancel.cancel();
        answer
    };
    let ((), answer) = tokio::join!(serving, scrape);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
    daemon.end().await;
}
