//! The surfaces for local programs.
//!
//! A surface is a module here and a line in [`open`]. It says where programs come in (a [`surface::Door`], which also
//! says who they are) and what they are answered (a [`surface::Surface`]). The rest is the same for all: [`mod@serve`]
//! accepts connections, bounds them, and ends those that do nothing; [`connection`] speaks HTTP/1.1 on each. All answer
//! from one [`Backing`], and ask the access rules of [`crate::access`] before they name or show anything. Everything from
//! a local program is as little trusted as anything from a network.

mod body;
mod connection;
mod imds;
mod native;
mod portions;
#[cfg(test)]
mod posing;
mod seats;
mod serve;
mod surface;
mod view;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use moorline_shared::agent::DEFAULT_SOCKET;
use moorline_shared::id::RoleName;
use tokio_util::sync::CancellationToken;

use crate::access::{Content, Peer, Rules};
use crate::link::{Asking, Given, Line};
use crate::mirror::Mirror;
use crate::proof::Prover;
use crate::writes::{self, Writes};
use seats::Seats;
use serve::serve;
use surface::{Door, Opened, Surface};
use view::View;

pub use imds::{Settings as ImdsSettings, Version as ImdsVersion};
pub use native::BindError;

/// What the surfaces keep to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the native surface's socket is.
    pub socket: PathBuf,
    /// Whether there is a metadata service like EC2's, and how.
    pub imds: Option<imds::Settings>,
    /// The most connections of a surface at once. Some of them are root's, and no user has them all.
    pub connections: usize,
    /// The user whose programs may change data; those of any other may only read. What a program changes, it changes in
    /// the instance's name.
    pub writer: u32,
    /// How long a read waits for the first snapshot before it says that there is none.
    pub first_wait: Duration,
    /// How long a connection may do nothing, or take to say what it wants. It ends within twice that.
    pub patience: Duration,
    /// How long a program that changes something waits for an answer that was lost, before it is told that the outcome is
    /// unknown.
    pub settling: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            imds: None,
            connections: 128,
            writer: 0,
            first_wait: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            settling: writes::SETTLING,
        }
    }
}

impl Settings {
    fn seats(&self) -> Seats {
        Seats {
            all: self.connections,
            writer: self.writer,
        }
    }
}

/// What the surfaces answer from, and what they keep to.
#[derive(Debug)]
pub struct Backing {
    /// What the host gave: the instance's own data, and the credentials of its roles.
    pub given: Given,
    /// The way to the host.
    pub line: Rc<Line>,
    /// What proves requests to be this instance's.
    pub prover: Rc<Prover>,
    /// What makes changes.
    pub writes: Rc<Writes>,
    /// Who may read what.
    pub rules: Rules,
    /// Bounds and places.
    pub settings: Settings,
}

impl Backing {
    /// Whether the peer may have the credentials of a role.
    fn may_assume(&self, peer: &Peer, role: &RoleName) -> bool {
        let path = format!("credentials/{role}");
        self.rules.may_read(peer, &path, Content::Ordinary)
    }

    /// On whose behalf the host is asked for the peer.
    fn asking(&self, peer: &Peer) -> Asking {
        if self.settings.seats().is_privileged(peer.user()) {
            Asking::Agent
        } else {
            Asking::User(peer.user())
        }
    }

    /// A state of the mirror, as the peer may see it.
    fn seen<'a>(&'a self, mirror: &'a Mirror, peer: &'a Peer) -> View<'a> {
        View {
            mirror,
            rules: &self.rules,
            peer,
        }
    }
}

/// A surface can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the {surface} surface can't be opened")]
pub struct OpenError {
    /// Which.
    surface: &'static str,
    /// Why, and what to do.
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Opens every surface that is asked for, and returns what serves them until `stop` is cancelled and what was under way
/// is answered, or a second has passed.
///
/// What is returned must run on a runtime that takes local tasks; dropping it closes all connections. If one surface
/// can't be opened, none is.
pub async fn open(
    backing: &Rc<Backing>,
    stop: &CancellationToken,
) -> Result<Vec<LocalBoxFuture<'static, ()>>, OpenError> {
    let serving = [
        served("native", native::open(backing).await, backing, stop)?,
        served("metadata", imds::open(backing), backing, stop)?,
    ];
    Ok(serving.into_iter().flatten().collect())
}

/// What serves a surface, if it is open.
fn served<D: Door, S: Surface>(
    surface: &'static str,
    opened: Result<Option<Opened<D, S>>, impl std::error::Error + Send + Sync + 'static>,
    backing: &Backing,
    stop: &CancellationToken,
) -> Result<Option<LocalBoxFuture<'static, ()>>, OpenError> {
    let opened = opened.map_err(|error| OpenError {
        surface,
        source: error.into(),
    })?;
    let serve = |opened| serve(opened, backing.settings.clone(), stop.clone());
    Ok(opened.map(|opened| serve(opened).boxed_local()))
}
