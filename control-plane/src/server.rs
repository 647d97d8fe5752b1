//! The control plane as one process: the store, the tasks that own it, and the server in front.

use std::collections::HashMap;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use moorline_daemon::metrics::Port;
use moorline_daemon::watchdog;
use moorline_shared::OperationId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::auth::administrator::{AdministratorToken, TokenError};
use crate::http::auth::instance::Seen;
use crate::http::feed::views::Views;
use crate::http::feed::{DispatchError, Dispatcher};
use crate::http::listen::{self, Bounds, Secured};
use crate::http::{self, Control};
use crate::identity::authority::adopt::{AdoptError, adopt as adopt_authority, publish};
use crate::identity::authority::server::{self as tls, TlsError};
use crate::identity::enrolment::hosts::{self, Hosts};
use crate::identity::issuer::{Issuer, IssuerError};
use crate::identity::master::{MasterKey, MasterKeyError};
use crate::identity::password::Passwords;
use crate::identity::sessions::{self, FollowError};
use crate::identity::{self, StartError};
use crate::metrics::Requests;
use crate::metrics::scrape::Sources;
use crate::model::{Attempt, ExecuteError, Executor, outbox};
use crate::services::{self, Services};
use crate::settings;
use crate::store::{OpenError, ReadError, Store, sqlite};

/// Why the control plane did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder of the state can't be made.
    #[error("state {}: it can't be made; check that this user may write there", path.display())]
    State {
        /// The folder.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The administrator's token can't be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The master key can't be used.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// There is no certificate authority.
    #[error(transparent)]
    Authority(#[from] AdoptError),
    /// The hosts' certificates are no longer in step with the store.
    #[error("the certificates of hosts can't be kept in step with the store")]
    Hosts(#[from] crate::store::follow::FollowError),
    /// TLS can't be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address can't be listened on.
    #[error("listen {address}: it can't be had; is another control plane running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The settings in force could not be recorded.
    #[error("the settings could not be recorded")]
    Settings(#[from] ExecuteError),
    /// Keys or sessions could not be read.
    #[error("the sessions or the keys of tokens can't be had")]
    Identity(#[from] StartError),
    /// The sessions are no longer in step with the store.
    #[error("the sessions can't be kept in step with the store")]
    Sessions(#[from] FollowError),
    /// The keys of identity tokens can't be had.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The feed could not be begun.
    #[error("the feed could not be begun")]
    Feed(#[from] ReadError),
    /// The feed ended because the store did.
    #[error("the feed ended")]
    FeedEnded(#[from] DispatchError),
    /// A part that runs as long as the process does ended by itself, or failed.
    #[error("the {part} ended before the control plane did; this is a bug")]
    Ended {
        /// Which.
        part: &'static str,
        /// Why, if it panicked.
        source: Option<tokio::task::JoinError>,
    },
}

/// A control plane that is ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    metrics: Option<Port>,
    tls: Arc<rustls::ServerConfig>,
    control: Control,
    dispatcher: Dispatcher,
}

impl Server {
    /// Opens the store and the address; nothing is served yet.
    pub async fn open(config: &Config, cancel: CancellationToken) -> Result<Self, ServeError> {
        let store = open_store(config)?;
        let administrator = AdministratorToken::open(&config.state.join("admin.token"))?;
        let master = Arc::new(MasterKey::open(&config.master_key())?);
        let (listener, port) = bind(config.listen).await?;
        let metrics = bind_metrics(config.metrics)?;
        let executor = Executor::new(store.clone(), config.settings.clone(), master.clone());
        adopt(&executor).await?;
        let issuer = Issuer::open(&executor, &master, config.issuer(port)).await?;
        let tokens = identity::open(&executor, &master).await?;
        let authority = Arc::new(adopt_authority(&executor, &master, &config.deployment).await?);
        publish(&authority, &config.state.join("ca.pem"))?;
        let hosts = Hosts::open(store.clone()).await?;
        let tls = tls::config(authority.clone(), config.server_names())?;
        let (dispatcher, feed) = Dispatcher::new(&store, config.settings.access, master.clone()).await?;
        let control = Control {
            issuer,
            seen: Seen::new(executor.now()),
            executor: Arc::new(executor),
            services: Arc::new(Services::default()),
            administrator: Arc::new(administrator),
            tokens,
            passwords: Arc::new(Passwords::new(master.clone())),
            guesses: Arc::default(),
            authority,
            hosts,
            feed,
            views: Views::new(store, config.settings.access, master.clone()),
            master,
            deployment: config.deployment.as_str().into(),
            requests: Requests::default(),
            looks: Default::default(),
            cancel,
        };
        Ok(Self {
            listener,
            metrics,
            tls: Arc::new(tls),
            control,
            dispatcher,
        })
    }

    /// Where the server listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What the certificate authority is known by, as people write it.
    pub fn authority(&self) -> String {
        format!("sha256:{}", self.control.authority.digest())
    }

    /// Serves until cancelled, then ends long answers, lets short ones finish for a while, and closes the store.
    ///
    /// Fails as soon as any part ends that is to run as long as the process.
    pub async fn run(self) -> Result<(), ServeError> {
        let (control, mut parts) = (self.control, Parts::default());
        let (cancel, executor) = (control.cancel.clone(), control.executor.clone());
        let outbox = outbox::run(executor.clone(), control.services.clone(), cancel.clone());
        let (known, ring) = (control.tokens.sessions().clone(), control.tokens.ring().clone());
        let sessions = sessions::follow::run(known, ring, cancel.clone());
        let hosts = hosts::run(control.hosts.clone(), cancel.clone());
        parts.spawn("hosts", async { hosts.await.map_err(ServeError::from) });
        let secured = Secured {
            tls: self.tls.into(),
            hosts: control.hosts.clone(),
        };
        if let Some(port) = self.metrics {
            let sources = sources(&control);
            let serving = port.serve(move || sources.answer(), cancel.clone());
            parts.spawn("metrics", async {
                serving.await;
                Ok(())
            });
        }
        let routes = http::router(control);
        let server = listen::serve(self.listener, secured, routes, Bounds::default(), cancel.clone());
        parts.spawn("outbox", async {
            outbox.await;
            Ok(())
        });
        parts.spawn("server", async {
            server.await;
            Ok(())
        });
        parts.spawn("sessions", async { sessions.await.map_err(ServeError::from) });
        // That this runtime turns is all that is asked: the task isn't polled otherwise.
        let watchdog = watchdog::run(|| ready(true), cancel.clone());
        parts.spawn("watchdog", async {
            watchdog.await;
            Ok(())
        });
        let feed = self.dispatcher.run(cancel.clone());
        parts.spawn("feed", async { feed.await.map_err(ServeError::from) });
        let result = parts.run(cancel).await;
        executor.store().close().await;
        result
    }
}

/// The store in the folder of the state, which is made if there is none.
fn open_store(config: &Config) -> Result<Store, ServeError> {
    let state = |source| ServeError::State {
        path: config.state.clone(),
        source,
    };
    std::fs::create_dir_all(&config.state).map_err(state)?;
    let options = sqlite::Options {
        retention: sqlite::Retention::Last(config.keep_revisions),
        ..sqlite::Options::default()
    };
    Ok(Store::open_sqlite(config.state.join("store.db"), &options)?)
}

/// The socket, and its port where the system chose that.
async fn bind(address: SocketAddr) -> Result<(TcpListener, u16), ServeError> {
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let port = listener.local_addr().map_err(listen)?.port();
    Ok((listener, port))
}

fn bind_metrics(address: Option<SocketAddr>) -> Result<Option<Port>, ServeError> {
    let bind = |address| Port::bind(address).map_err(|source| ServeError::Listen { address, source });
    address.map(bind).transpose()
}

fn sources(control: &Control) -> Sources {
    Sources {
        requests: control.requests.clone(),
        store: control.executor.store().clone(),
        feed: control.feed.clone(),
    }
}

/// The tasks that run as long as the process does.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<Result<(), ServeError>>,
    names: HashMap<tokio::task::Id, &'static str>,
}

impl Parts {
    fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), ServeError>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(part);
        self.names.insert(task.id(), name);
    }

    /// Waits until all have ended, and cancels the others once one has. The first that was not to end is the error.
    async fn run(mut self, cancel: CancellationToken) -> Result<(), ServeError> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let ended = match ended {
                Ok((_, Ok(()))) if cancel.is_cancelled() => Ok(()),
                Ok((id, Ok(()))) => Err(self.early(id, None)),
                Ok((_, failed)) => failed,
                Err(error) => Err(self.early(error.id(), Some(error))),
            };
            cancel.cancel();
            result = result.and(ended);
        }
        result
    }

    fn early(&self, id: tokio::task::Id, source: Option<tokio::task::JoinError>) -> ServeError {
        let part = self.names.get(&id).copied().unwrap_or("task");
        ServeError::Ended { part, source }
    }
}

/// Records the settings in force, if they are not the ones that were in force before.
async fn adopt(executor: &Executor) -> Result<(), ExecuteError> {
    let settings = executor.settings().as_ref().clone();
    let digest = settings.digest();
    let op = settings::Op::AdoptSettings(settings);
    let id = OperationId::from(moorline_shared::Digest::of_parts([
        b"AdoptSettings".as_slice(),
        digest.bytes(),
    ]));
    executor
        .execute(
            &settings::Model,
            Attempt::new(op, services::provider("control"), id),
        )
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(cancel: CancellationToken) -> Result<(), ServeError> {
        cancel.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_part_that_ends_early_ends_all_with_its_name() {
        let cancel = CancellationToken::new();
        let mut parts = Parts::default();
        parts.spawn("server", until(cancel.clone()));
        parts.spawn("outbox", async { panic!("a bug") });
        let error = parts.run(cancel.clone()).await.unwrap_err();
        assert!(
            matches!(
                error,
                ServeError::Ended {
                    part: "outbox",
                    source: Some(_)
                }
            ),
            "{error:?}"
        );
        let mut parts = Parts::default();
        parts.spawn("feed", async { Ok(()) });
        let error = parts.run(CancellationToken::new()).await.unwrap_err();
        assert!(
            matches!(
                error,
                ServeError::Ended {
                    part: "feed",
                    source: None
                }
            ),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn parts_that_are_cancelled_end_well() {
        let cancel = CancellationToken::new();
        let mut parts = Parts::default();
        parts.spawn("server", until(cancel.clone()));
        cancel.cancel();
        parts.run(cancel).await.unwrap();
    }
}
