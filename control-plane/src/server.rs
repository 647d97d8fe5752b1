//! The control plane as one process: the store, the tasks that own it, and the server in front.

use std::sync::Arc;

use moorline_shared::OperationId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::auth::{TokenError, Tokens};
use crate::http::feed::views::Views;
use crate::http::feed::{DispatchError, Dispatcher};
use crate::http::{self, Control};
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
    /// The address can't be listened on.
    #[error("listen {address}: it can't be had; is another control plane running?")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The settings in force could not be recorded.
    #[error("the settings could not be recorded")]
    Settings(#[from] ExecuteError),
    /// The feed could not be begun.
    #[error("the feed could not be begun")]
    Feed(#[from] ReadError),
    /// The feed ended because the store did.
    #[error("the feed ended")]
    FeedEnded(#[from] DispatchError),
    /// The server ended.
    #[error("the server ended")]
    Server(#[source] std::io::Error),
}

/// A control plane that is ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    control: Control,
    dispatcher: Dispatcher,
}

impl Server {
    /// Opens the store and the address; nothing is served yet.
    pub async fn open(config: &Config, cancel: CancellationToken) -> Result<Self, ServeError> {
        let state = |source| ServeError::State {
            path: config.state.clone(),
            source,
        };
        std::fs::create_dir_all(&config.state).map_err(state)?;
        let options = sqlite::Options {
            retention: sqlite::Retention::Last(config.keep_revisions),
            ..sqlite::Options::default()
        };
        let store = Store::open_sqlite(config.state.join("store.db"), &options)?;
        let tokens = Tokens::open(&config.state.join("admin.token"))?;
        let listen = |source| ServeError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let executor = Executor::new(store.clone(), config.settings.clone());
        adopt(&executor).await?;
        let (dispatcher, feed) = Dispatcher::new(&store, config.settings.access).await?;
        let control = Control {
            executor: Arc::new(executor),
            services: Arc::new(Services::default()),
            tokens: Arc::new(tokens),
            feed,
            views: Views::new(store, config.settings.access),
            deployment: config.deployment.as_str().into(),
            cancel,
        };
        Ok(Self {
            listener,
            control,
            dispatcher,
        })
    }

    /// Where the server listens.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until cancelled, then ends long answers, lets short ones finish, and closes the store.
    pub async fn run(self) -> Result<(), ServeError> {
        let Self {
            listener,
            control,
            dispatcher,
        } = self;
        let (cancel, executor, services) = (
            control.cancel.clone(),
            control.executor.clone(),
            control.services.clone(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(outbox::run(executor.clone(), services, cancel.clone()));
        let feed = dispatcher.run(cancel.clone());
        let ended = cancel.clone();
        let server =
            axum::serve(listener, http::router(control)).with_graceful_shutdown(ended.cancelled_owned());
        let result = tokio::try_join!(async { feed.await.map_err(ServeError::from) }, async {
            server.await.map_err(ServeError::Server)
        });
        cancel.cancel();
        while tasks.join_next().await.is_some() {}
        executor.store().close().await;
        result.map(drop)
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
