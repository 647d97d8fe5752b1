//! The daemon's metrics: what the shards and the uplink count, and how everything stands at the moment.

use std::collections::BTreeMap;

use moorline_daemon::metrics::{Labels, Scrape, process};
use moorline_shared::api::instances::{Driver, InstanceState};
use moorline_shared::host::CredentialStatus;
use moorline_shared::link::body::Freshness;

use super::Services;
use crate::link::{self, Count, Counts, Ending, GuestStatus};

/// What a sum over the shards is taken of.
type Which = fn(&Counts) -> &Count;

/// What Prometheus reads.
///
/// # Errors
/// [`Ending`] if the daemon is about to end.
pub(super) async fn text(services: &Services) -> Result<String, Ending> {
    let guests = services.shards.status().await?;
    let mut scrape = Scrape::default();
    process::add(&mut scrape, env!("CARGO_PKG_VERSION"));
    let counted = Counted(services);
    counted.requests(&mut scrape);
    counted.connections(&mut scrape);
    counted.feed(&mut scrape);
    stand(&guests, &mut scrape);
    let help = "How many guests there is room for; a VM beyond them doesn't start";
    scrape.gauge(
        "moorline_host_guests_room",
        help,
        shown(services.shards.room() as u64),
    );
    let help = "Instances whose data are not on disk as they are in memory";
    let unwritten = services.cache.status().unwritten;
    scrape.gauge("moorline_host_cache_unwritten_instances", help, shown(unwritten));
    vms(services, &mut scrape);
    let credentials = services.credentials.status().await;
    held(credentials.values().flatten(), &mut scrape);
    let (_, until) = services.identity.present().validity();
    let help = "When the host's certificate ends, in seconds since 1970";
    scrape.gauge(
        "moorline_host_certificate_expires_seconds",
        help,
        shown(until.millis().unsigned_abs() / 1_000),
    );
    Ok(scrape.to_text())
}

struct Counted<'s>(&'s Services);

impl Counted<'_> {
    fn sum(&self, which: Which) -> u64 {
        let shards = self.0.shards.counts();
        shards.iter().map(|shard| which(shard).read()).sum()
    }

    fn by(&self, label: &'static str, all: &[(&'static str, Which)]) -> Vec<(Labels, u64)> {
        let one = |(name, which): &(&'static str, Which)| (vec![(label, (*name).into())], self.sum(*which));
        all.iter().map(one).collect()
    }

    fn requests(&self, scrape: &mut Scrape) {
        let requests: [(_, Which); 4] = [
            ("get", |c| &c.gets),
            ("list", |c| &c.lists),
            ("watch", |c| &c.watches),
            ("relay", |c| &c.relays),
        ];
        let help = "What guests have asked for, by kind";
        scrape.counters("moorline_host_guest_requests", help, self.by("kind", &requests));
        let refused: [(_, Which); 2] = [("budget", |c| &c.refused_busy), ("other", |c| &c.refused)];
        let help = "How much of it was refused, by reason";
        scrape.counters(
            "moorline_host_guest_requests_refused",
            help,
            self.by("reason", &refused),
        );
        let pushed: [(_, Which); 2] = [
            ("changes", |c| &c.changes_pushed),
            ("snapshot", |c| &c.snapshots_pushed),
        ];
        let help = "Batches that were sent to guests, by what they hold";
        scrape.counters("moorline_host_pushes", help, self.by("kind", &pushed));
    }

    fn connections(&self, scrape: &mut Scrape) {
        let help = "Times that a guest was welcome on a connection";
        scrape.counter("moorline_host_guest_welcomes", help, self.sum(|c| &c.welcomed));
        let refused: [(_, Which); 3] = [
            ("crowded", |c| &c.crowded),
            ("stranger", |c| &c.strangers),
            ("fault", |c| &c.faults),
        ];
        let help = "Connections of guests that were refused or cut, by reason";
        scrape.counters(
            "moorline_host_guest_connections_refused",
            help,
            self.by("reason", &refused),
        );
        let help = "Lines about guests that were not logged, because one guest caused too many";
        scrape.counter(
            "moorline_host_log_lines_suppressed",
            help,
            self.sum(|c| &c.lines_suppressed),
        );
    }

    fn feed(&self, scrape: &mut Scrape) {
        let counts = self.0.shards.feed_counts();
        let events = [
            ("opened", &counts.opened),
            ("lost", &counts.lost),
            ("snapshot", &counts.snapshots),
            ("resync", &counts.resyncs),
        ];
        let events = events.map(|(name, count)| (vec![("event", name.into())], count.read()));
        let help = "What happened to the feed from the control plane";
        scrape.counters("moorline_host_feed_events", help, events.into());
        let standing = self.0.shards.feed_clock().standing(link::now());
        let fresh = f64::from(u8::from(standing.freshness == Freshness::Fresh));
        let help = "Whether the feed is up, so that what the host has is the present state: 1 or 0";
        scrape.gauge("moorline_host_feed_in_step", help, fresh);
        let help = "How long ago the control plane was heard";
        scrape.gauge(
            "moorline_host_feed_age_seconds",
            help,
            f64::from(standing.age_ms) / 1e3,
        );
    }
}

fn stand(guests: &[GuestStatus], scrape: &mut Scrape) {
    let connected = guests.iter().filter(|guest| guest.conversation.is_some()).count();
    let states = [("connected", connected), ("absent", guests.len() - connected)];
    let states = states.map(|(name, count)| (vec![("state", name.into())], shown(count as u64)));
    let help = "The guests of this host's instances, by whether their agent is connected";
    scrape.gauges("moorline_host_guests", help, states.into());
    let sum = |of: fn(&GuestStatus) -> usize| shown(guests.iter().map(of).sum::<usize>() as u64);
    let help = "Entries of instances that the host has for their guests";
    scrape.gauge("moorline_host_cache_entries", help, sum(|guest| guest.entries));
    let help = "Bytes that all data take which the host has for guests";
    scrape.gauge("moorline_host_cache_bytes", help, sum(|guest| guest.bytes));
    let help = "Other instances' data that the host has for guests, in views";
    scrape.gauge(
        "moorline_host_cache_foreign_views",
        help,
        sum(|guest| guest.foreign_views),
    );
}

fn vms(services: &Services, scrape: &mut Scrape) {
    let mut states: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for vm in services.table.all() {
        *states.entry((driver(vm.driver), state(vm.state))).or_default() += 1;
    }
    let states = states.into_iter().map(|((driver, state), count)| {
        let labels = vec![("driver", driver.into()), ("state", state.into())];
        (labels, shown(count))
    });
    let help = "The VMs of this host, by who runs them and how they are";
    scrape.gauges("moorline_host_vms", help, states.collect());
}

fn held<'c>(credentials: impl Iterator<Item = &'c CredentialStatus>, scrape: &mut Scrape) {
    let mut states = BTreeMap::from([("failing", 0), ("held", 0), ("missing", 0)]);
    for credential in credentials {
        let state = match (&credential.error, &credential.kind) {
            (Some(_), _) => "failing",
            (None, Some(_)) => "held",
            (None, None) => "missing",
        };
        *states.entry(state).or_default() += 1;
    }
    let states = states.into_iter();
    let states = states.map(|(name, count)| (vec![("state", name.into())], shown(count)));
    let help = "Tokens of instances and credentials of their roles, by how they are";
    scrape.gauges("moorline_host_credentials", help, states.collect());
}

const fn driver(driver: Driver) -> &'static str {
    match driver {
        Driver::Qemu => "qemu",
        Driver::External => "external",
    }
}

const fn state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Pending => "pending",
        InstanceState::Running => "running",
        InstanceState::Stopping => "stopping",
        InstanceState::Stopped => "stopped",
        InstanceState::ShuttingDown => "shutting-down",
        InstanceState::Terminated => "terminated",
        InstanceState::Failed => "failed",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a chart shows no difference")]
const fn shown(number: u64) -> f64 {
    number as f64
}
