//! What the control plane counts, and how it is scraped.
//!
//! Requests are counted by [`requests`] where they are served, by operation and outcome; refused ones by their
//! [`Reason`] as well. The store and the feed count for themselves. [`scrape`] puts all of it together when
//! [`listen`], a port of loopback that is no part of the API, is asked. `packaging/METRICS.md` is the list of it.

pub mod listen;
mod reason;
pub mod requests;
pub mod scrape;

pub use reason::Reason;
pub use requests::Requests;
