//! What the control plane and the host daemon have in common as processes: each is started by a service manager, watched
//! by it, read by whoever looks at its logs and scraped by Prometheus.
//!
//! [`logs`] is how they log. [`cores`] keeps their memory, which holds secrets, out of core files. [`metrics`] is what
//! they count and the port where it is shown; [`watchdog`] is how the service manager hears that they turn. Neither
//! daemon depends on the other. The guest agent doesn't depend on this either: it has a few lines of its own for what it
//! needs, because its size counts.
#![forbid(unsafe_code)]

pub mod cores;
pub mod logs;
pub mod metrics;
pub mod watchdog;
