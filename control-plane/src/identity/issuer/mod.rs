//! Identity tokens: the control plane's word for who an instance is, which any relying party of `OpenID` Connect can check
//! by itself.
//!
//! A token is a JSON Web Token, signed with ES256 and good for a quarter of an hour, for one audience. Whoever gets one
//! finds the key that it was signed with by the discovery document of the issuer that it names ([`api`] serves both,
//! to everybody). Keys are kept sealed ([`model`]); [`keys`] says which of them signs and which are published.
//!
//! | claim | what |
//! |---|---|
//! | `iss` | the issuer's URL, as the configuration says |
//! | `sub` | `instance:` and the instance's id |
//! | `aud` | whom the token is for, as the instance said |
//! | `iat`, `nbf`, `exp` | from when and until when it is good, in seconds since 1970 |
//! | `jti` | which token it is |
//! | `account`, `instance`, `host`, `zone`, `image` | what the instance is; `image` only where it has one |

pub mod api;
pub mod keys;
pub mod model;
mod token;

pub use keys::{Issuer, IssuerError};
pub use model::{Model, Op};
