//! The deployment's certificate authority: whom hosts and clients know the control plane by, and the control plane its
//! hosts.
//!
//! It is made at the first start by an operation ([`model`]), which keeps its certificate and its key, sealed with the
//! master key. [`issue`] makes certificates with it: one for the [`server`] itself, made anew while it runs, and one for
//! each host, whose [`peer`] the server then is. Whoever is given the certificate's digest can tell this control plane
//! from any other.

pub mod adopt;
pub mod issue;
pub mod model;
pub mod peer;
pub mod server;
#[cfg(test)]
mod tests;

pub use issue::Authority;
pub use model::{Model, Op};
