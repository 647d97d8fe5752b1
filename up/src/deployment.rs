//! Runs the two daemons: the control plane first, and to the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::time::Duration;

use moorline_client::{BaseUrl, ClientError, HostSocket, LocalDeployment};
use moorline_control::config::Config as ControlConfig;
use moorline_control::server::{ServeError, Server};
use moorline_host::config::Config as HostConfig;
use moorline_host::daemon::{Daemon, RunError, StartError};
use moorline_shared::HostId;
use tokio_util::sync::CancellationToken;

use crate::enrolment;

/// How often the host daemon is asked whether it is in step yet.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// What is run, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder of both.
    pub deployment: LocalDeployment,
    /// The control plane.
    pub control: ControlConfig,
    /// The host daemon. What it is called and where it finds the control plane are what the deployment says.
    pub host: HostConfig,
}

/// What runs, once it does.
#[derive(Clone, Debug)]
pub struct Up {
    /// Where the control plane is.
    pub url: BaseUrl,
    /// Which host the machine is.
    pub host: HostId,
}

/// Why the deployment doesn't run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The control plane doesn't.
    #[error(transparent)]
    Control(#[from] ServeError),
    /// The control plane's address can't be had.
    #[error("the control plane's address is not known")]
    Address(#[source] std::io::Error),
    /// Clients can't be told where it is.
    #[error("{}: it can't be written", path.display())]
    Url {
        /// The file for it.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The machine is not its host.
    #[error("this machine can't be made the host of its own control plane")]
    Enrolment(#[from] enrolment::Error),
    /// The host daemon doesn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The host daemon failed.
    #[error(transparent)]
    Host(#[from] RunError),
    /// The host daemon can't be asked how it is.
    #[error("the host daemon doesn't answer")]
    Ask(#[from] ClientError),
}

impl Plan {
    /// Runs until it is cancelled, and says when everything is in step. Then the host daemon ends first, so that nothing it
    /// has to say is lost; VMs run on.
    ///
    /// Fails as soon as one of the two fails; the other one is ended in good order.
    pub async fn run(self, stop: CancellationToken, say: impl FnOnce(&Up)) -> Result<(), DeploymentError> {
        let ending = CancellationToken::new();
        let server = Server::open(&self.control, ending.clone()).await?;
        let address = server.address().map_err(DeploymentError::Address)?;
        let mut control = pin!(server.run());
        let mut hosting = pin!(self.hosting(url(address), stop.clone(), say));
        let hosted = tokio::select! {
            hosted = &mut hosting => hosted,
            over = &mut control => {
                stop.cancel();
                return ended(over, hosting).await;
            }
        };
        ending.cancel();
        let over = control.await;
        hosted?;
        Ok(over?)
    }

    async fn hosting(
        self,
        url: BaseUrl,
        stop: CancellationToken,
        say: impl FnOnce(&Up),
    ) -> Result<(), DeploymentError> {
        let mut config = self.host;
        config.host = enrolment::host(&self.deployment, &url, &config.host).await?;
        config.control.url = Some(url.clone());
        let file = self.deployment.url_file();
        let written = replace(&file, &format!("{url}\n"));
        written.map_err(|source| DeploymentError::Url { path: file, source })?;
        let daemon = Daemon::open(&config)?;
        let socket = HostSocket::new(&config.sockets.admin)?;
        let mut running = pin!(daemon.run(stop));
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            () = in_step(&socket) => say(&Up { url, host: config.host }),
        }
        Ok(running.await?)
    }
}

/// Writes a small file in one step: whoever looks meanwhile reads what was there before.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, file)
}

/// The control plane ended before it was told to: that is the failure, whatever becomes of the host daemon then.
async fn ended(
    control: Result<(), ServeError>,
    hosting: Pin<&mut impl Future<Output = Result<(), DeploymentError>>>,
) -> Result<(), DeploymentError> {
    let hosted = hosting.await;
    control?;
    hosted
}

/// Waits until the host daemon says that it has the present state.
async fn in_step(socket: &HostSocket) {
    while !socket.status().await.is_ok_and(|status| status.feed.in_step) {
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// By what this machine reaches the address that the control plane listens on.
fn url(listening: SocketAddr) -> BaseUrl {
    let reached = match listening.ip() {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    let address = SocketAddr::new(reached, listening.port());
    let url = format!("https://{address}").parse();
    url.expect("an address makes a URL")
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn an_address_that_is_all_addresses_is_reached_on_this_machine() {
        for (listening, reached) in [
            ("127.0.0.1:8471", "https://127.0.0.1:8471"),
            ("0.0.0.0:8471", "https://127.0.0.1:8471"),
            ("[::]:1", "https://[::1]:1"),
            ("192.0.2.7:8471", "https://192.0.2.7:8471"),
        ] {
            assert_eq!(url(listening.parse().unwrap()).to_string(), reached);
        }
    }
}
