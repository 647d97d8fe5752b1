//! The host daemon of this machine, by its unix sockets: `register.sock` for VM managers, `admin.sock` for root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use moorline_shared::InstanceId;
use moorline_shared::host::{HostStatus, InstanceStatus, Register, Registered, Unregister};
use serde::Serialize;

use crate::error::{Asked, ClientError, Server};
use crate::local::LocalDeployment;
use crate::transport::{MAX_REPLY_BYTES, REQUEST_TIMEOUT, Reply, exchange_once, succeeded, unsecured};

/// Where VM managers register VMs, unless the daemon's configuration says otherwise.
const REGISTER_SOCKET: &str = "/run/moorline/host/register.sock";
/// Where root asks the daemon how it is, unless the daemon's configuration says otherwise.
const ADMIN_SOCKET: &str = "/run/moorline/host/admin.sock";

/// For a registration: longer than the two minutes for which the daemon goes on with one, in which it may have to wait for
/// the control plane.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(130);

/// One of a host daemon's two sockets. Each answers only its own requests. Nothing is asked twice.
#[derive(Clone, Debug)]
pub struct HostSocket {
    path: PathBuf,
    client: reqwest::Client,
}

/// Where this machine's host daemon lets VM managers register VMs, as far as nobody says it.
pub fn register_socket() -> PathBuf {
    usual(REGISTER_SOCKET, LocalDeployment::of_process().register_socket())
}

/// Where this machine's host daemon tells its operator how it is, as far as nobody says it.
pub fn admin_socket() -> PathBuf {
    usual(ADMIN_SOCKET, LocalDeployment::of_process().admin_socket())
}

/// The socket of a daemon that is a service; that of `moorline up` where only that is.
fn usual(service: &str, local: PathBuf) -> PathBuf {
    let service = PathBuf::from(service);
    if !service.exists() && local.exists() {
        local
    } else {
        service
    }
}

impl HostSocket {
    /// The socket at `path`. It is connected to when the first request is made.
    ///
    /// # Errors
    /// [`ClientError::Request`] if the HTTP library can't be set up.
    pub fn new(path: &Path) -> Result<Self, ClientError> {
        let basics = unsecured().map_err(|error| ClientError::request(&path.display(), error))?;
        let client = basics.unix_socket(path).build();
        Ok(Self {
            client: client.map_err(|error| ClientError::request(&path.display(), error))?,
            path: path.to_owned(),
        })
    }

    /// `register.sock`: a VM that somebody else runs becomes the VM of an instance.
    pub async fn register(&self, body: &Register) -> Result<Registered, ClientError> {
        self.post("/v1/register", body).await?.parsed()
    }

    /// `register.sock`: an instance's VM ended, or is to be served no longer.
    pub async fn unregister(&self, body: &Unregister) -> Result<(), ClientError> {
        self.post("/v1/unregister", body).await.map(drop)
    }

    /// `admin.sock`: how the daemon and all its instances are.
    pub async fn status(&self) -> Result<HostStatus, ClientError> {
        self.get("/v1/status").await?.parsed()
    }

    /// `admin.sock`: how one instance is.
    pub async fn instance_status(&self, instance: InstanceId) -> Result<InstanceStatus, ClientError> {
        self.get(&format!("/v1/instances/{instance}")).await?.parsed()
    }

    async fn get(&self, target: &str) -> Result<Reply, ClientError> {
        let request = self.client.get(url(target)).timeout(REQUEST_TIMEOUT);
        self.send(Method::GET, target, request).await
    }

    async fn post(&self, target: &str, body: &impl Serialize) -> Result<Reply, ClientError> {
        let request = self.client.post(url(target)).json(body).timeout(REGISTER_TIMEOUT);
        self.send(Method::POST, target, request).await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Reply, ClientError> {
        let asked = Asked {
            server: Server::HostDaemon,
            method,
            url: format!("unix:{}:{target}", self.path.display()),
        };
        let request = request.build();
        let request = request.map_err(|error| ClientError::request(&asked.url, error))?;
        succeeded(exchange_once(&self.client, &asked, MAX_REPLY_BYTES, request).await?)
    }
}

/// The name of a host means nothing on a unix socket; HTTP wants one all the same.
fn url(target: &str) -> String {
    format!("http://localhost{target}")
}
