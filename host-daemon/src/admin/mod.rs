//! The two local sockets: `register.sock` for VM managers, `admin.sock` for root.
//!
//! [`Sockets::bind`] makes both, with their owners and modes, before anything else of the daemon can be asked;
//! [`Sockets::serve`] answers on them until it is cancelled. [`listen`] is what both have in common: bounds on
//! connections, on time and on bodies. [`register`] and [`status`] are what each is for; their bodies are
//! `moorline_shared::host`. [`metrics`] are what Prometheus reads, at `admin.sock` and, where the configuration names one,
//! at a [`Port`] of loopback.
//!
//! Who a caller is, is what the kernel says of the socket's other end; who may call at all, the socket's mode.

mod listen;
mod metrics;
mod problem;
mod register;
mod status;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use moorline_client::Client;
use moorline_daemon::metrics::Port;
use moorline_shared::Timestamp;
use moorline_shared::id::HostId;
use tokio_util::sync::CancellationToken;

pub use self::listen::BindError;
use self::listen::{Access, Socket};
use crate::config::SocketConfig;
use crate::credentials;
use crate::identity::HostIdentity;
use crate::link::ShardsHandle;
use crate::parts::{PartError, Parts};
use crate::persistence;
use crate::vm::Table;
use crate::vm::external::External;

/// What the sockets speak for.
#[derive(Clone, Debug)]
pub struct Services {
    /// This host's name.
    pub host: HostId,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// The guests.
    pub shards: ShardsHandle,
    /// The VMs.
    pub table: Table,
    /// Where VMs of others are registered.
    pub external: External,
    /// What guests are given to be somebody.
    pub credentials: credentials::Handle,
    /// Where the guests' data are kept.
    pub cache: persistence::Handle,
    /// The control plane, which instances are made at.
    pub control: Client,
    /// What the host is known by.
    pub identity: HostIdentity,
}

/// Both sockets, bound.
#[derive(Debug)]
pub struct Sockets {
    register: Socket,
    admin: Socket,
    metrics: Option<Port>,
}

impl Sockets {
    /// Binds both. A socket that an earlier daemon left is replaced; one on which somebody answers is not.
    ///
    /// Must be called within a runtime.
    pub fn bind(config: &SocketConfig) -> Result<Self, BindError> {
        let access = config.register_group.clone().map_or(Access::Owner, Access::Group);
        Ok(Self {
            register: Socket::bind(&config.register, &access)?,
            admin: Socket::bind(&config.admin, &Access::Owner)?,
            metrics: None,
        })
    }

    /// The same with a port for metrics, if there is to be one.
    pub fn with_metrics(self, address: Option<SocketAddr>) -> Result<Self, BindError> {
        let bind = |address| Port::bind(address).map_err(|source| BindError::Port { address, source });
        let metrics = address.map(bind).transpose()?;
        Ok(Self { metrics, ..self })
    }

    /// Answers on both until cancelled; answers under way are finished, but not waited for longer than a second.
    ///
    /// Fails when one of the sockets is answered on no more before that.
    pub async fn serve(self, services: Services, cancel: CancellationToken) -> Result<(), PartError> {
        let services = Arc::new(services);
        let cancel = cancel.child_token();
        let mut parts = Parts::new(cancel.clone());
        let register = register::routes(Arc::clone(&services));
        parts.add("register.sock", self.register.serve(register, cancel.clone()));
        if let Some(port) = self.metrics {
            let services = Arc::clone(&services);
            let scrape = async move || status::metrics(&services).await;
            parts.add("the metrics", port.serve(scrape, cancel.clone()));
        }
        parts.add("admin.sock", self.admin.serve(status::routes(services), cancel));
        parts.run().await
    }
}
