//! Who everybody is: sessions, the tokens that stand for them, and the keys that tokens are sealed with.
//!
//! A [`token`] is an encrypted bundle: who it stands for, what it is good for, and which session it belongs to. Nothing
//! of it is stored; what is stored is the session with its [grants](session), and a token is worth nothing without it.
//!
//! It is a service like others: [`operations`] and [`refusal`] say what can be asked, [`model`] and [`rules`] what it
//! does, and [`records`] what is kept. Beside it, in memory and in step with the store: all [`sessions`], and the ring of
//! [`keys`]. [`tokens`] makes tokens and checks them with these two, and everything that takes a token asks there.
//!
//! Hosts are known by certificates of the deployment's own [`authority`], and so is the control plane; [`enrolment`] is how
//! they come by them.
//!
//! What has to be kept secret for long is sealed with the [`master`] key, which is a [`secret_file`].

pub mod api;
pub mod authority;
pub mod directory;
mod draw;
pub mod enrolment;
pub mod guesses;
pub mod instances;
pub mod issuer;
pub mod keys;
pub mod master;
pub mod model;
pub mod operations;
pub mod password;
pub mod public_key;
pub mod records;
pub mod refusal;
pub mod rules;
pub mod secret_file;
pub mod session;
pub mod sessions;
#[cfg(test)]
mod tests;
pub mod token;
pub mod tokens;

use std::sync::Arc;

pub use model::Model;
pub use operations::Op;
pub use refusal::Refusal;

use self::keys::{KeyError, Ring};
use self::master::MasterKey;
use self::sessions::{FollowError, Sessions};
use self::tokens::Tokens;
use crate::model::Executor;
use crate::store::follow::Follower;

/// Why identities can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys of tokens can't be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The sessions can't be read.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] crate::store::ReadError),
}

/// Makes the first key if there is none, and reads all sessions.
///
/// They are kept in step by [`sessions::follow::run`].
///
/// # Errors
/// [`StartError`] if keys or sessions can't be had.
pub async fn open(executor: &Executor, master: &Arc<MasterKey>) -> Result<Tokens, StartError> {
    keys::adopt(executor, master).await?;
    let sessions = Sessions::new(Follower::new(executor.store().clone()));
    let tokens = Tokens::new(Arc::new(sessions), Ring::new(master.clone()));
    tokens.reach(executor.store().head().await?).await?;
    Ok(tokens)
}
