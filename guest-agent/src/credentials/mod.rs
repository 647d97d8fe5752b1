//! What the agent holds to be somebody: the instance's own token, and the credentials of its roles.
//!
//! The host pushes them, all right behind its `HELLO_ACK`, and again at each rotation; nothing here asks for them, and
//! nothing is kept on disk. [`Held`] is pure: frames and the time in, credentials out. It replaces a credential whole, and
//! gives none out past its deadline, which is counted on the clock that never steps back from what the host said remains:
//! the guest's calendar may be off by years. When the link is lost, credentials stay until they run out. When the host
//! takes the guest for another life of its VM, another instance or one of another deployment, all are dropped.
//!
//! [`Credentials`] adds waiting to it, for the tasks of one thread.

mod held;
mod live;
#[cfg(test)]
mod tests;

pub use held::{Held, InstanceToken, Lookup, Refusal, RoleCredential};
pub use live::Credentials;
