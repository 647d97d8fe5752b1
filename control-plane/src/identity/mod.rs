//! Who everybody is: sessions, the tokens that stand for them, and the keys that tokens are sealed with.
//!
//! A [`token`] is an encrypted bundle: who it stands for, what it is good for, and which session it belongs to. Nothing
//! of it is stored; what is stored is the [`session`], and a token is worth nothing without it.

pub mod session;
pub mod token;
