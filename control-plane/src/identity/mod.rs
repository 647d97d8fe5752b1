//! Who everybody is: sessions, the tokens that stand for them, and the keys that tokens are sealed with.
//!
//! A [`token`] is an encrypted bundle: who it stands for, what it is good for, and which session it belongs to. Nothing
//! of it is stored; what is stored is the [`session`], and a token is worth nothing without it.
//!
//! What has to be kept secret for long is sealed with the [`master`] key, which is a [`secret_file`].

pub mod master;
pub mod secret_file;
pub mod session;
pub mod token;
