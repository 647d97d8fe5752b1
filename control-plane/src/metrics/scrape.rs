//! All metrics of the control plane at one moment.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use moorline_daemon::metrics::{self, Scrape, process};

use super::Requests;
use crate::http::feed::FeedHandle;
use crate::store::Store;
use crate::store::sqlite::Outcome;

/// Where what is counted lies. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The requests.
    pub requests: Requests,
    /// The store.
    pub store: Store,
    /// The feed to the hosts.
    pub feed: FeedHandle,
}

impl Sources {
    /// What Prometheus is answered.
    pub async fn answer(self) -> impl IntoResponse {
        ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], self.text().await)
    }

    /// What Prometheus reads.
    pub async fn text(&self) -> String {
        let mut scrape = Scrape::default();
        process::add(&mut scrape, env!("CARGO_PKG_VERSION"));
        self.requests.add_to(&mut scrape);
        // A store that can't be read has its head nowhere, and its failures tell of that.
        let head = self.store.head().await.unwrap_or_default();
        self.add_store(&mut scrape, head);
        self.feed.stats().add_to(&mut scrape);
        let behind = head.saturating_sub(self.feed.position());
        let help = "How many transactions the feed's queues have not been told yet";
        scrape.gauge("moorline_control_feed_lag_transactions", help, shown(behind));
        scrape.to_text()
    }

    fn add_store(&self, scrape: &mut Scrape, head: u64) {
        let stats = self.store.stats();
        let ended = Outcome::ALL.map(|outcome| {
            let labels = vec![("outcome", outcome.name().into())];
            (labels, stats.transactions(outcome))
        });
        let help = "Transactions, by what became of them";
        scrape.counters("moorline_control_store_transactions", help, ended.into());
        let groups = vec![(vec![], stats.groups().read())];
        let help = "How many transactions were made durable by one fsync";
        scrape.histograms("moorline_control_store_group_transactions", help, groups);
        let times = vec![(vec![], stats.times().read())];
        let help = "How long a group of transactions took, its fsync included";
        scrape.histograms("moorline_control_store_group_seconds", help, times);
        let help = "Whether the last group could be made durable: 1 or 0";
        let writable = f64::from(u8::from(!stats.is_failing()));
        scrape.gauge("moorline_control_store_writable", help, writable);
        let help = "The number of the newest transaction";
        scrape.gauge("moorline_control_store_revision", help, shown(head));
    }
}

/// A number as gauges are shown.
#[expect(clippy::cast_precision_loss, reason = "a chart shows no difference")]
pub(crate) const fn shown(number: u64) -> f64 {
    number as f64
}
