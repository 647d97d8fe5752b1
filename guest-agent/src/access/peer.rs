//! Whose program asks.

/// A user, as far as the kernel tells one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// The user with this number.
    Known(u32),
    /// A program of this machine whose user can't be told any more, or not surely: it has the rights that all have.
    Nobody,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(id) => write!(f, "{id}"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

/// The program at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    user: User,
    groups: Groups,
}

/// Where it is known from which groups a program is of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Groups {
    /// The process itself has these.
    OfProcess(Vec<u32>),
    /// Only its user is known, so the groups are those that the user has by the account files.
    OfUser,
}

impl Peer {
    /// A process with a user and groups, the supplementary ones included.
    pub fn process(user: u32, groups: Vec<u32>) -> Self {
        Self {
            user: User::Known(user),
            groups: Groups::OfProcess(groups),
        }
    }

    /// A program of which only the user is known.
    pub fn of(user: User) -> Self {
        Self {
            user,
            groups: Groups::OfUser,
        }
    }

    /// Whose program it is.
    pub fn user(&self) -> User {
        self.user
    }

    /// Whether it is of the group `id`, whose users are `members` by the account files.
    pub(super) fn is_of(&self, id: u32, members: &[u32]) -> bool {
        match (&self.groups, self.user) {
            (Groups::OfProcess(groups), _) => groups.contains(&id),
            (Groups::OfUser, User::Known(user)) => members.contains(&user),
            (Groups::OfUser, User::Nobody) => false,
        }
    }
}
