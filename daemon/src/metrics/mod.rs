//! What the daemons count, and how Prometheus reads it.
//!
//! Both daemons show theirs alike. What is counted where requests are served are relaxed atomics, which cost neither a
//! lock nor an allocation: plain ones, and a [`Histogram`]. On a scrape a [`Scrape`] is made of them and written out in
//! the text format. [`process`] is what each says of itself. [`Port`] is where it is asked for, beside the daemons' own
//! sockets.

mod histogram;
mod port;
pub mod process;

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use histogram::{Distribution, Histogram, Unit};
pub use port::Port;

/// The content type of [`Scrape::to_text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The labels of a sample. Their values come from lists that the code has, never from what a guest or a user says.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// All metrics as they are at one moment.
#[derive(Debug, Default)]
pub struct Scrape(Vec<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Counters(Vec<(Labels, u64)>),
    /// Of something that is not counted in wholes, as time is.
    Sums(Vec<(Labels, f64)>),
    Gauges(Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Distribution)>),
}

impl Scrape {
    /// Adds counters. `name` is without `_total`, which they have when they are shown.
    pub fn counters(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, u64)>) {
        self.add(name, help, Samples::Counters(samples));
    }

    /// Adds a counter that has no labels.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, vec![(Labels::new(), value)]);
    }

    /// Adds counters of what comes in parts of one, in the unit that their name ends with.
    pub fn sums(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) {
        self.add(name, help, Samples::Sums(samples));
    }

    /// Adds gauges.
    pub fn gauges(&mut self, name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) {
        self.add(name, help, Samples::Gauges(samples));
    }

    /// Adds a gauge that has no labels.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, vec![(Labels::new(), value)]);
    }

    /// Adds histograms.
    pub fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, Distribution)>,
    ) {
        self.add(name, help, Samples::Histograms(samples));
    }

    fn add(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        self.0.push(Family { name, help, samples });
    }

    /// All of them in the text format of `OpenMetrics`, which Prometheus reads.
    pub fn to_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // A string takes whatever is written into it.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut to))
    }
}

impl Family {
    fn encode(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.samples {
            Samples::Counters(_) | Samples::Sums(_) => MetricType::Counter,
            Samples::Gauges(_) => MetricType::Gauge,
            Samples::Histograms(_) => MetricType::Histogram,
        };
        let to = to.encode_descriptor(self.name, self.help, None, kind)?;
        match &self.samples {
            Samples::Counters(all) => each(to, all, |mut to, value| {
                to.encode_counter::<NoLabelSet, _, f64>(value, None)
            }),
            Samples::Sums(all) => each(to, all, |mut to, value| {
                to.encode_counter::<NoLabelSet, _, f64>(value, None)
            }),
            Samples::Gauges(all) => each(to, all, |mut to, value| to.encode_gauge(value)),
            Samples::Histograms(all) => each(to, all, |mut to, seen| {
                to.encode_histogram::<NoLabelSet>(seen.sum, seen.count, &seen.buckets, None)
            }),
        }
    }
}

fn each<T>(
    mut to: MetricEncoder<'_>,
    samples: &[(Labels, T)],
    encode: impl Fn(MetricEncoder<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in samples {
        if labels.is_empty() {
            // There is one of these, and no braces behind its name.
            return encode(to, value);
        }
        encode(to.encode_family(labels)?, value)?;
    }
    Ok(())
}

/// The names of the metrics in a scrape, as they are queried: `_total` included.
pub fn names(text: &str) -> std::collections::BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let name = |line: &str| match line.split_once(' ') {
        Some((name, "counter")) => format!("{name}_total"),
        Some((name, _)) => name.to_owned(),
        None => line.to_owned(),
    };
    types.map(name).collect()
}

/// The names of the metrics in a section of `packaging/METRICS.md`: each row of its table begins with one.
pub fn documented(document: &str, section: &str) -> std::collections::BTreeSet<String> {
    let lines = document.lines();
    let lines = lines.skip_while(|line| line.strip_prefix("## ") != Some(section));
    let rows = lines.skip(1).take_while(|line| !line.starts_with("## "));
    let name = |line: &str| line.strip_prefix("| `")?.split('`').next().map(str::to_owned);
    rows.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Histogram, Scrape, Unit, documented, names};

    #[test]
    fn a_scrape_is_the_text_that_prometheus_reads() {
        static BOUNDS: [u64; 2] = [1_000, 10_000];
        let seen = Histogram::new(Unit::Microseconds, &BOUNDS);
        for millis in [1, 5, 5, 700] {
            seen.observe_time(Duration::from_millis(millis));
        }
        let mut scrape = Scrape::default();
        scrape.counters("asked", "How often", vec![(vec![("by", "a \"b\"\n".into())], 3)]);
        scrape.sums("waited_seconds", "How long", vec![(vec![], 0.25)]);
        scrape.gauge("room", "How much", 1.5);
        scrape.gauges("empty", "None", vec![]);
        scrape.histograms("took_seconds", "How long", vec![(vec![], seen.read())]);
        let text = scrape.to_text();
        for line in [
            "# TYPE asked counter",
            r#"asked_total{by="a \"b\"\n"} 3"#,
            "# TYPE waited_seconds counter",
            "waited_seconds_total 0.25",
            "room 1.5",
            r#"took_seconds_bucket{le="0.001"} 1"#,
            r#"took_seconds_bucket{le="0.01"} 3"#,
            r#"took_seconds_bucket{le="+Inf"} 4"#,
            "took_seconds_sum 0.711",
            "took_seconds_count 4",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no line {line} in:\n{text}"
            );
        }
        let all = [
            "asked_total",
            "empty",
            "room",
            "took_seconds",
            "waited_seconds_total",
        ];
        assert!(names(&text).iter().map(String::as_str).eq(all), "{text}");
        let table = "## x\n| `a` | b |\n## asked\n|---|\n| `asked_total` | `by` |\n## y\n| `z` |\n";
        assert!(documented(table, "asked").iter().eq(["asked_total"]));
    }
}
