//! `moorline host`: the hosts as the control plane knows them, and the daemon of this one by its sockets.

mod attach;
mod enrol;
mod status;

use clap::Subcommand;
use moorline_shared::api::hosts::{Host, HostPage, HostStanding};
use moorline_shared::id::IdempotencyKey;
use moorline_shared::{InstanceId, Timestamp};

use super::Session;
use super::args::ConnectionArgs;
use super::connection::Environment;
use super::failure::Failure;
use super::instance::id_or_uuid;
use super::out::Out;
use super::table::{Table, age, now};

#[derive(Debug, Subcommand)]
pub(super) enum HostCommand {
    /// List the hosts, with what they offer and what is used of it.
    #[command(visible_alias = "ls")]
    List,
    /// Print a token that makes a machine a host, once.
    EnrollToken(enrol::EnrollTokenArgs),
    /// Refuse a host from now on, on the connections that it has too.
    Revoke(enrol::RevokeArgs),
    /// Tell this machine's host daemon of a VM that somebody else runs, before the VM starts.
    Attach(attach::AttachArgs),
    /// Tell this machine's host daemon to serve a VM no longer; its instance's data stay.
    Detach(attach::DetachArgs),
    /// Show how this machine's host daemon and its instances are. Root may ask.
    Status(status::StatusArgs),
}

/// What a command has to find the control plane with, if it needs it: most of them only need the daemon.
struct Local<'a> {
    connection: &'a ConnectionArgs,
    environment: &'a Environment,
    key: IdempotencyKey,
    out: &'a mut Out,
}

pub(super) async fn run(
    command: HostCommand,
    connection: &ConnectionArgs,
    environment: &Environment,
    key: IdempotencyKey,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut local = Local {
        connection,
        environment,
        key,
        out,
    };
    match command {
        HostCommand::List => list(&mut local).await,
        HostCommand::EnrollToken(args) => enrol::token(args, &mut local).await,
        HostCommand::Revoke(args) => enrol::revoke(args, &mut local).await,
        HostCommand::Attach(args) => attach::attach(args, &mut local).await,
        HostCommand::Detach(args) => attach::detach(args, &mut local).await,
        HostCommand::Status(args) => status::run(args, &mut local).await,
    }
}

impl Local<'_> {
    async fn session(&mut self) -> Result<Session<'_>, Failure> {
        Session::open(self.connection, self.environment, self.key.clone(), self.out).await
    }

    /// The id of the instance that `text` means. Only a name, or the beginning of an id, needs the control plane.
    async fn instance(&mut self, text: &str) -> Result<InstanceId, Failure> {
        match id_or_uuid(text) {
            Ok(id) => Ok(id),
            Err(_) => self.session().await?.instance(text).await,
        }
    }
}

async fn list(local: &mut Local<'_>) -> Result<(), Failure> {
    let session = local.session().await?;
    let described = session.client.describe_hosts().await;
    let page = described.map_err(|error| session.failed(error))?;
    session.out.show(&page, |page| table(page, now()))
}

fn table(page: &HostPage, now: Timestamp) -> String {
    let mut table = Table::new([
        "NAME",
        "STATE",
        "ZONE",
        "INSTANCES",
        "VCPUS",
        "MEMORY MIB",
        "IMAGES",
    ]);
    for host in &page.hosts {
        let images: Vec<_> = host.offer.images.iter().map(ToString::to_string).collect();
        table.row([
            host.id.to_string(),
            standing(host, now),
            host.offer.zone.to_string(),
            host.instances.to_string(),
            format!("{} of {}", host.used_vcpus, host.offer.vcpus),
            format!("{} of {}", host.used_memory_mib, host.offer.memory_mib),
            images.join(", "),
        ]);
    }
    table.to_string()
}

/// Whether the host is served, and if not, since when.
fn standing(host: &Host, now: Timestamp) -> String {
    let since = host
        .standing_since
        .map(|since| age(since, now))
        .unwrap_or_default();
    match host.standing {
        None => "never enrolled".to_owned(),
        Some(HostStanding::Enrolled) => "enrolled".to_owned(),
        Some(HostStanding::Revoked) => format!("revoked {since} ago"),
        Some(HostStanding::Cloned) => format!("cloned {since} ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn hosts_are_shown_with_what_is_used_of_them() {
        let host = |id: &str, standing: &str| {
            json!({
                "id": id, "zone": "z1", "vcpus": 8, "memory_mib": 4096, "images": ["debian-13", "busybox"],
                "used_vcpus": 3, "used_memory_mib": 1024, "instances": 2,
                "created_at": "2026-01-31T12:00:00Z", "revision": "1.1",
                "standing": standing, "standing_since": "2026-01-31T12:00:00Z",
            })
        };
        let hosts = [
            host("h1", "enrolled"),
            host("h2", "revoked"),
            host("h3", "cloned"),
        ];
        let page = serde_json::from_value(json!({"revision": "1.2", "hosts": hosts})).unwrap();
        let now = "2026-01-31T12:05:00Z".parse().unwrap();
        insta::assert_snapshot!(table(&page, now));
    }
}
