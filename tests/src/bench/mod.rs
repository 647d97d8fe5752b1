//! Benches: our programs against the physical limit and against peers, everything that a row compares in one run.
//!
//! [`Bench`] names them; [`run`] builds what is measured, in the profiles that are shipped, sets it up, measures, and
//! prints a [`report`]. `link` is about guests and their host, `feed` about changes at the control plane, `tokens` about
//! what shows who asks, `imds` about the metadata service in a guest and a guest's own writes, `footprint` about
//! what all of it takes while nothing happens, `fanout` about very many hosts at one control
//! plane, and `hostile` about guests that attack their host.
//!
//! The method is the same for all. What is compared takes turns, many short ones, and a row shows the median of the
//! turns' own ratios beside the smallest and the largest ([`spread`]). The load comes from one small program
//! ([`moorline_lab_load`]) on core 1 with one request in flight per connection, the server that has its turn is alone on
//! core 0, and its processor time per request is told as well. [`servers`] starts ours, [`peers`] the others'.

mod fanout;
mod feed;
mod footprint;
mod group;
mod hostile;
pub mod hosts;
mod imds;
mod link;
mod load;
mod peers;
mod programs;
mod relay;
pub mod report;
mod servers;
pub mod spread;
mod tokens;

use anyhow::{Context as _, Result, ensure};
use report::{Form, Report};
use rustix::process::{Resource, getrlimit, setrlimit};

/// The core of whoever is measured.
const SERVER_CORE: usize = 0;
/// The core of the load.
const LOAD_CORE: usize = 1;
/// How often each of those that are compared has its turn. Many short turns say more than few long ones where
/// something else runs now and then: the turn that it hits is not the one in the middle.
const TURNS: u32 = 11;

/// How many files a bench has open at most: a host of a thousand guests keeps ten for each, and some back.
const DESCRIPTORS: u64 = 11_500;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bench {
    /// Reads and changes between guests and their host.
    Link,
    /// Changes at the control plane.
    Feed,
    /// Tokens made and checked.
    Tokens,
    /// Reads from the metadata service in a guest, and a guest's own writes.
    Imds,
    /// What everything takes while nobody asks it anything.
    Footprint,
    /// Very many hosts at one control plane.
    Fanout,
    /// How fifty guests fare beside one that attacks their host.
    Hostile,
}

/// Sets up, measures and prints. A goal that isn't met is told and is no failure.
///
/// Fails when something can't be set up, or answers a request with anything but what was asked for.
pub async fn run(bench: Bench, form: Form) -> Result<()> {
    more_files(DESCRIPTORS)?;
    let programs = programs::Programs::build().await?;
    let before = load_average()?;
    let rows = match bench {
        Bench::Link => link::measure(&programs).await?,
        Bench::Feed => feed::measure(&programs).await?,
        Bench::Tokens => tokens::measure(&programs).await?,
        Bench::Imds => imds::measure(&programs).await?,
        Bench::Footprint => footprint::measure(&programs).await?,
        Bench::Fanout => fanout::measure(&programs).await?,
        Bench::Hostile => hostile::measure(&programs).await?,
    };
    let name = match bench {
        Bench::Link => "link",
        Bench::Feed => "feed",
        Bench::Tokens => "tokens",
        Bench::Imds => "imds",
        Bench::Footprint => "footprint",
        Bench::Fanout => "fanout",
        Bench::Hostile => "hostile",
    };
    println!("{}", Report { name, rows }.show(form)?);
    eprintln!(
        "load average: {before} before, {} after (the bench itself is in it)",
        load_average()?
    );
    Ok(())
}

/// This process, and all that it starts, may open as many files as it can get, which have to be so many.
fn more_files(needed: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= needed,
        "the bench needs {needed} open files and may have {most}: raise the hard limit, such as by ulimit -Hn {needed}"
    );
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the number of open files to its limit")
}

fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read the load average")?;
    Ok(text
        .split_ascii_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" "))
}
