//! How the host daemon and its instances are.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use moorline_shared::host::{CredentialStatus, GuestStatus, HostStatus, InstanceStatus, VmStatus};

use super::Local;
use crate::cli::failure::{Failure, state_word};
use crate::cli::table::{Table, age, now, or_dash, pairs, period};
use crate::host_socket::{HostSocket, admin_socket};

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Only this one, with more of it: a name, an id, the beginning of an id, or the VM's UUID.
    instance: Option<String>,
    /// The host daemon's socket for root, by default that of the service, or of `moorline up`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub(super) async fn run(args: StatusArgs, local: &mut Local<'_>) -> Result<(), Failure> {
    let socket = HostSocket::new(&args.socket.unwrap_or_else(admin_socket))?;
    match &args.instance {
        Some(text) => {
            let instance = local.instance(text).await?;
            let status = socket.instance_status(instance).await?;
            local.out.show(&status, one)
        }
        None => local.out.show(&socket.status().await?, all),
    }
}

fn all(status: &HostStatus) -> String {
    let mut text = pairs(&[
        ("host", status.host.to_string()),
        ("build", status.build.clone()),
        ("pid", status.pid.to_string()),
        ("up for", age(status.started_at, now())),
        ("feed", feed(status)),
    ]);
    let mut table = Table::new([
        "INSTANCE",
        "VM",
        "GUEST",
        "REVISION",
        "ENTRIES",
        "BYTES",
        "CREDENTIALS",
    ]);
    for instance in &status.instances {
        let guest = instance.guest.as_ref();
        table.row([
            instance.instance.to_string(),
            or_dash(instance.vm.as_ref().map(|vm| state_word(vm.state))),
            or_dash(guest.map(connection)),
            or_dash(guest.and_then(|guest| guest.revision)),
            or_dash(guest.map(|guest| guest.entries)),
            or_dash(guest.map(|guest| guest.bytes)),
            how_many_good(&instance.credentials),
        ]);
    }
    let _ = write!(text, "\n{table}");
    text
}

/// How many of an instance's credentials are there and were not refused the last time.
fn how_many_good(credentials: &[CredentialStatus]) -> String {
    let good = |credential: &&CredentialStatus| credential.kind.is_some() && credential.error.is_none();
    match credentials.len() {
        0 => or_dash(None::<u8>),
        all => format!("{} of {all}", credentials.iter().filter(good).count()),
    }
}

fn feed(status: &HostStatus) -> String {
    if status.feed.in_step {
        "in step".to_owned()
    } else {
        "not in step: what guests read may be old".to_owned()
    }
}

fn connection(guest: &GuestStatus) -> &'static str {
    match &guest.connection {
        Some(_) => "connected",
        None => "away",
    }
}

fn one(status: &InstanceStatus) -> String {
    let mut lines = vec![("instance", status.instance.to_string())];
    match &status.vm {
        Some(vm) => lines.extend(vm_lines(vm)),
        None => lines.push(("vm", "-".to_owned())),
    }
    match &status.guest {
        Some(guest) => lines.extend(guest_lines(guest)),
        None => lines.push(("guest", "-".to_owned())),
    }
    let mut text = pairs(&lines);
    if !status.credentials.is_empty() {
        let _ = write!(text, "\n{}", credentials(&status.credentials));
    }
    text
}

/// What the guest is given to be somebody, and why not where it isn't.
fn credentials(of: &[CredentialStatus]) -> Table<4> {
    let mut table = Table::new(["CREDENTIAL", "KIND", "GOOD FOR", "LAST ERROR"]);
    for credential in of {
        let role = credential.role.as_ref().map(ToString::to_string);
        let left = credential.expires_in_ms.map(|millis| period(millis / 1_000));
        table.row([
            role.unwrap_or_else(|| "(its own)".to_owned()),
            or_dash(credential.kind.as_ref()),
            or_dash(left),
            or_dash(credential.error.as_ref()),
        ]);
    }
    table
}

fn vm_lines(vm: &VmStatus) -> [(&'static str, String); 5] {
    [
        ("vm", state_word(vm.state).to_owned()),
        ("reason", or_dash(vm.reason.as_ref())),
        ("incarnation", vm.incarnation.to_string()),
        ("reboots", vm.reboots.to_string()),
        ("pid", or_dash(vm.pid)),
    ]
}

fn guest_lines(guest: &GuestStatus) -> [(&'static str, String); 13] {
    let connected = guest.connection.as_ref();
    let counts = guest.requests;
    [
        ("guest", connection(guest).to_owned()),
        ("agent", or_dash(connected.map(|connected| &connected.build))),
        (
            "heard",
            or_dash(connected.map(|connected| format!("{} ms ago", connected.heard_ms_ago))),
        ),
        (
            "applied",
            or_dash(connected.and_then(|connected| connected.applied)),
        ),
        ("revision", or_dash(guest.revision)),
        ("entries", guest.entries.to_string()),
        ("bytes", guest.bytes.to_string()),
        ("foreign views", guest.foreign_views.to_string()),
        ("gets", counts.gets.to_string()),
        ("lists, watches", format!("{}, {}", counts.lists, counts.watches)),
        ("relays", counts.relays.to_string()),
        ("refused", counts.refused.to_string()),
        ("faults", counts.faults.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::{all, one};
    use moorline_shared::host::HostStatus;
    use serde_json::json;

    #[test]
    fn a_host_and_its_instances_are_shown() {
        let id = |digit: &str| format!("i-{}", digit.repeat(32));
        let status: HostStatus = serde_json::from_value(json!({
            "host": "h1", "build": "0.1.0", "pid": 7, "started_at": "9999-01-31T12:00:00Z",
            "feed": {"in_step": false, "heard_ms_ago": 4000},
            "instances": [
                {"instance": id("1")},
                {
                    "instance": id("2"),
                    "vm": {"instance": id("2"), "driver": "qemu", "state": "running", "incarnation": 3, "reboots": 1,
                           "pid": 99},
                    "guest": {"incarnation": 3, "revision": "1.9", "entries": 4, "bytes": 80, "foreign_views": 1,
                              "connection": {"session": 5, "build": "agent\u{1b}[2J", "heard_ms_ago": 12},
                              "requests": {"gets": 6, "lists": 1, "watches": 2, "relays": 3, "refused": 1, "faults": 0}},
                    "credentials": [
                        {"kind": "session", "expires_in_ms": 3_000_000},
                        {"role": "backup", "kind": "aws", "expires_in_ms": 119_000, "error": "nothing came within 30s"},
                        {"role": "mail", "error": "the command /x\u{1b} ended with exit status: 1"},
                    ],
                },
            ],
        }))
        .unwrap();
        insta::assert_snapshot!(all(&status));
        insta::assert_snapshot!(status.instances.iter().map(one).collect::<Vec<_>>().join("\n"));
    }
}
