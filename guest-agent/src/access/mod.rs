//! Who in the guest may read what.
//!
//! A [`Peer`] is the program at the other end of a connection, as the kernel says. [`Rules`] decide by its user, its
//! groups and the path; every surface asks them about every entry and every role, and shows what they deny as it shows
//! what isn't there. Changes are another matter: they are made in the instance's name, and one user may make them.
//!
//! | what | path for the rules | without a rule |
//! |---|---|---|
//! | an entry of the instance's own | its path | everyone; a secret one root |
//! | credentials of a role | `credentials/ROLE` | everyone, as programs on EC2 expect |
//! | another instance's entry | `instances/ID/PATH` | everyone |

mod names;
mod peer;
mod rules;
#[cfg(test)]
mod tests;

pub use names::Names;
pub use peer::{Peer, User};
pub use rules::{Content, LineError, ROOT, Rules, RulesError};

/// Where the rules are unless another file is given.
pub const DEFAULT_RULES: &str = "/etc/moorline/agent.access";
