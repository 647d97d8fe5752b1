//! A typed client of the control plane and of the host's sockets, and the moorline command.
//!
//! A [`Client`] is made of an [`Endpoint`]: where the control plane is, whom it is known by ([`Trust`]), the token to
//! show there, and, for a host daemon, the host's name. Each operation of the API is one method, named after it:
//! [`Client::run_instances`], [`Client::put_instance_data`]. Bodies are those of `moorline_shared::api`. What goes
//! wrong is a [`ClientError`], which tells "it was not done" from "nobody knows", because a caller has to act
//! differently on the two.
//!
//! Every change carries an idempotency key, so that it can be sent again when a connection is lost; [`Retries`] says
//! how often the client does that by itself. Streams ([`Client::watch_instance_data`], [`Client::open_feed`]) are lines
//! of JSON taken apart by [`ndjson`], and end where the connection ends: whoever reads them resumes, or lets
//! [`Client::follow`] do it. [`Client::relay`] sends what a guest asked for byte for byte in the guest's name.
//!
//! [`HostSocket`] is the host daemon of this machine, by one of its two unix sockets. [`LocalDeployment`] is the control
//! plane and the host daemon of `moorline up`.
//!
//! The feature `cli` adds the module `cli`, which is the `moorline` command.
#![forbid(unsafe_code)]

mod calls;
#[cfg(feature = "cli")]
pub mod cli;
mod endpoint;
mod error;
mod follow;
mod host_socket;
mod local;
pub mod ndjson;
mod relay;
mod stream;
mod terms;
mod tls;
mod token;
mod transport;

pub use endpoint::{BaseUrl, BaseUrlError, Endpoint, Retries};
pub use error::{ClientError, Server};
pub use follow::{Follow, Followed};
pub use host_socket::{HostSocket, admin_socket, register_socket};
pub use local::{LocalDeployment, STATE_VARIABLE};
pub use relay::{GuestRequest, RawReply, RelayRefusal};
pub use stream::EventStream;
pub use terms::{Terms, fresh_key};
pub use tls::{
    Authority, AuthorityDigest, AuthorityDigestError, AuthorityError, Identity, TlsRefusal, Trust,
};
pub use token::{Token, TokenError};
pub use transport::{Client, MAX_REPLY_BYTES};
