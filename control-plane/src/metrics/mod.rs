//! What the control plane counts, and how it is scraped.
//!
//! Requests are counted by [`requests`] where they are served, by operation and outcome; refused ones by their
//! [`Reason`] as well. The store and the feed count for themselves. [`scrape`] puts all of it together when a
//! [`Port`](moorline_daemon::metrics::Port) of loopback, which is no part of the API, is asked. `packaging/METRICS.md` is
//! the list of it.

mod reason;
pub mod requests;
pub mod scrape;

pub use reason::Reason;
pub use requests::Requests;
