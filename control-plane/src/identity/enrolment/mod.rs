//! How a machine becomes a host, and stays it.
//!
//! An operator makes a token for a host by its name; the machine shows the token's secret, once, with a key that it made,
//! and gets a certificate for a week. At a third of that time it asks for the next one, with a new key. Every certificate
//! has a *generation*, one more than the last, which the host's record has too. Who asks with one that is no longer the
//! host's present one has a copy of it, or is the host and somebody with a copy has asked before: nobody can say which, so
//! the host is *cloned* and both are refused until an operator enrols it again. Only the answer that got lost is given
//! again: to who asks with the key that the present certificate is for, which nobody else has.
//!
//! | the certificate that is shown | the key | then |
//! |---|---|---|
//! | is the present one, or a later one | any | the next one |
//! | is the one before | that of the present one | the present one again |
//! | is of an earlier enrolment | any | it is refused |
//! | is anything else | any | the host is cloned |
//!
//! [`operations`], [`model`] and [`refusal`] are the service, [`records`] what it keeps. [`hosts`] has all of it in memory,
//! for every request and every connection that a host makes.

pub mod api;
pub mod hosts;
pub mod model;
pub mod operations;
pub mod records;
pub mod refusal;
pub mod request;
#[cfg(test)]
mod tests;

pub use hosts::Hosts;
pub use model::Model;
pub use operations::Op;
pub use refusal::Refusal;
