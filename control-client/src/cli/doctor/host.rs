//! What the daemon says of itself, and whether the control plane answers.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use moorline_shared::Timestamp;
use moorline_shared::api::health::Health;
use moorline_shared::host::{CacheStatus, CertificateStatus, HostStatus};

use super::check::Check;
use super::settings::Settings;
use crate::cli::table::{age, now, period};
use crate::endpoint::{Endpoint, Retries};
use crate::tls::{Authority, Trust};
use crate::transport::Client;

/// How long the control plane may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// From which difference on a clock should be set, and from which on certificates and sessions fail, in milliseconds.
const CLOCK_WARN_MS: u64 = 2_000;
const CLOCK_FAIL_MS: u64 = 60_000;
const UNIT: &str = "moorline-host";

/// Whether the daemon runs, is of this release, and is in step.
pub(super) fn daemon(settings: &Settings, status: &Result<HostStatus, String>, checks: &mut Vec<Check>) {
    checks.push(unit(status));
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            checks.push(silent(settings, error));
            return;
        }
    };
    let up = age(status.started_at, now());
    let found = format!(
        "{}, host {}, pid {}, up for {up}",
        status.build, status.host, status.pid
    );
    checks.push(Check::ok("daemon", found));
    checks.push(release(&status.build));
    checks.push(certificate(status.certificate, now()));
    checks.push(feed(status));
    checks.push(cache(&status.cache));
}

/// A daemon that runs answers; who may not ask can't tell.
fn silent(settings: &Settings, error: &str) -> Check {
    let socket = settings.sockets.admin.display();
    let connected = std::os::unix::net::UnixStream::connect(&settings.sockets.admin);
    match connected {
        Err(denied) if denied.kind() == ErrorKind::PermissionDenied => {
            Check::unknown("daemon", format!("{socket}: {denied}"), "run this as root")
        }
        _ => {
            let advice =
                "start it (systemctl start moorline-host) and read its log (journalctl -u moorline-host)";
            Check::fail("daemon", error, advice)
        }
    }
}

fn unit(status: &Result<HostStatus, String>) -> Check {
    const NAME: &str = "unit";
    let asked = Command::new("systemctl").args(["is-active", UNIT]).output();
    let state = match asked {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => {
            return Check::unknown(
                NAME,
                format!("systemctl: {error}"),
                "look at how the daemon is started",
            );
        }
    };
    match (&*state, status) {
        ("active", _) => Check::ok(NAME, format!("{UNIT}.service is active")),
        ("", _) => Check::unknown(
            NAME,
            "systemd doesn't run here",
            "look at how the daemon is started",
        ),
        (_, Ok(_)) => Check::warn(
            NAME,
            format!("{UNIT}.service is {state}, and the daemon runs without it"),
            "let the unit start it, so that it is back after a reboot: systemctl enable --now moorline-host",
        ),
        _ => Check::fail(
            NAME,
            format!("{UNIT}.service is {state}"),
            "systemctl enable --now moorline-host",
        ),
    }
}

fn release(build: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    match build.rsplit_once(' ') {
        Some((_, theirs)) if theirs == ours => Check::ok("release", format!("{ours}, as this command")),
        _ => Check::warn(
            "release",
            format!("the daemon is {build}, and this command {ours}"),
            "after an upgrade: systemctl restart moorline-host; guests run on",
        ),
    }
}

fn certificate(found: Option<CertificateStatus>, now: Timestamp) -> Check {
    const NAME: &str = "certificate";
    let Some(CertificateStatus { from, until }) = found else {
        return Check::unknown(NAME, "the daemon doesn't say", "upgrade the daemon");
    };
    let (whole, left) = (from.millis_until(until), now.millis_until(until));
    let shown = period(left / 1_000);
    if left == 0 {
        let advice = "it is good for its renewal only: see that the control plane can be reached, and the daemon's log";
        return Check::fail(NAME, format!("it expired at {until}"), advice);
    }
    // The daemon asks for the next one at a third.
    if left < whole / 2 {
        let advice = "its renewal is overdue: see the control plane below, and the daemon's log";
        return Check::warn(NAME, format!("good for {shown} more, until {until}"), advice);
    }
    Check::ok(NAME, format!("good for {shown} more, until {until}"))
}

fn feed(status: &HostStatus) -> Check {
    if status.feed.in_step {
        return Check::ok("feed", "in step with the control plane");
    }
    let heard = period(status.feed.heard_ms_ago / 1_000);
    let advice = "guests go on with what the host has; the daemon's log says why it can't be in step";
    Check::warn(
        "feed",
        format!("not in step; the control plane was heard {heard} ago"),
        advice,
    )
}

/// Whether what the host has outlives a restart without the control plane.
fn cache(cache: &CacheStatus) -> Check {
    const NAME: &str = "cache";
    let advice =
        "see the disk below: until it takes files again, a restart without the control plane loses the rest";
    match (&cache.error, cache.unwritten) {
        (Some(error), _) => Check::fail(NAME, error, advice),
        (None, 0) => Check::ok(NAME, "all data of instances are on disk"),
        (None, unwritten) => Check::ok(
            NAME,
            format!("the data of {unwritten} instances are on their way to the disk"),
        ),
    }
}

/// Whether the control plane answers this machine, and what its clock says.
pub(super) async fn control_plane(settings: &Settings, checks: &mut Vec<Check>) {
    const NAME: &str = "control plane";
    let Some(url) = settings.url() else {
        let advice = "run this as root; if this machine was never enrolled: moorline host enroll-token NAME";
        checks.push(Check::unknown(NAME, "it isn't known where it is", advice));
        return;
    };
    let begun = Instant::now();
    match ask(settings, &url.to_string()).await {
        Ok(health) => {
            checks.push(Check::ok(NAME, format!("{} at {url}", health.build)));
            let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            checks.push(clock(health.now, now(), took));
        }
        Err(error) => {
            let authority = settings.identity("ca.pem");
            checks.push(unanswered(&authority, File::open(&authority), error));
        }
    }
}

/// The control plane can't be judged by who may not look at what it is known by.
fn unanswered(authority: &Path, opened: io::Result<File>, error: String) -> Check {
    const NAME: &str = "control plane";
    match opened {
        Err(denied) if denied.kind() == ErrorKind::PermissionDenied => {
            let found = format!("{}: {denied}", authority.display());
            Check::unknown(NAME, found, "run this as root")
        }
        _ => {
            let advice =
                "see that it runs, that this machine reaches it, and that ca.pem in the identity is its own";
            Check::fail(NAME, error, advice)
        }
    }
}

async fn ask(settings: &Settings, url: &str) -> Result<Health, String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let url = url.parse().map_err(|error| said(&error))?;
    let mut endpoint = Endpoint::without_token(url).retrying(Retries::NEVER);
    if let Ok(authority) = Authority::read(&settings.identity("ca.pem")) {
        endpoint = endpoint.trusting(Trust::Authority(authority));
    }
    let client = Client::new(endpoint).map_err(|error| said(&error))?;
    match tokio::time::timeout(PATIENCE, client.health()).await {
        Ok(health) => health.map_err(|error| said(&error)),
        Err(_) => Err(format!("no answer within {} seconds", PATIENCE.as_secs())),
    }
}

/// The control plane said `theirs` at some time in the last `took_ms`.
fn clock(theirs: Timestamp, ours: Timestamp, took_ms: u64) -> Check {
    const NAME: &str = "clock";
    let apart = theirs.millis_until(ours).max(ours.millis_until(theirs));
    let apart = apart.saturating_sub(took_ms);
    let advice = "set it, and keep it so: systemctl enable --now systemd-timesyncd";
    let found = format!("{apart} ms from the control plane's");
    match apart {
        CLOCK_FAIL_MS.. => Check::fail(NAME, found, advice),
        CLOCK_WARN_MS.. => Check::warn(NAME, found, advice),
        _ => Check::ok(NAME, "that of the control plane"),
    }
}

#[cfg(test)]
mod tests {
    use super::{certificate, clock, release, unanswered};
    use crate::cli::doctor::check::Verdict;
    use moorline_shared::Timestamp;
    use moorline_shared::host::CertificateStatus;
    use std::io::ErrorKind;
    use std::path::Path;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000).unwrap()
    }

    #[test]
    fn a_certificate_is_overdue_at_half_and_useless_at_its_end() {
        let found = Some(CertificateStatus {
            from: at(0),
            until: at(100),
        });
        for (now, verdict) in [(10, Verdict::Ok), (60, Verdict::Warn), (100, Verdict::Fail)] {
            assert_eq!(certificate(found, at(now)).verdict, verdict, "at {now}");
        }
        assert_eq!(certificate(None, at(0)).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_clock_is_judged_by_what_is_surely_wrong_with_it() {
        for (ours, took, verdict) in [
            (100, 0, Verdict::Ok),
            (105, 0, Verdict::Warn),
            (105, 4_000, Verdict::Ok),
            (95, 0, Verdict::Warn),
            (10, 0, Verdict::Fail),
        ] {
            assert_eq!(clock(at(100), at(ours), took).verdict, verdict, "{ours}");
        }
    }

    #[test]
    fn who_may_not_see_the_authority_is_not_told_that_the_control_plane_is_ill() {
        for (kind, verdict) in [
            (ErrorKind::PermissionDenied, Verdict::Unknown),
            (ErrorKind::NotFound, Verdict::Fail),
        ] {
            let check = unanswered(Path::new("ca.pem"), Err(kind.into()), "not trusted".to_owned());
            assert_eq!(check.verdict, verdict, "{check:?}");
        }
    }

    #[test]
    fn another_release_is_noticed() {
        let ours = format!("moorline-host {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(release(&ours).verdict, Verdict::Ok);
        assert_eq!(release("moorline-host 0.0.0").verdict, Verdict::Warn);
    }
}
