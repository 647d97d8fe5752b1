//! How many connections of a surface each may have at once.
//!
//! | who | at most |
//! |---|---|
//! | root, and the user who may change data, each | six eighths |
//! | any other user | five eighths |
//! | programs whose user can't be told | one eighth, and one at least |
//! | all but root and the user who may change data | seven eighths |
//!
//! A user has more names than one: what it half closes belongs to nobody, and a user namespace gives it thousands. So the
//! last eighth is not for any of them.

use crate::access::{ROOT, User};

/// The seats of a surface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seats {
    pub(super) all: usize,
    /// The user who may change data.
    pub(super) writer: u32,
}

impl Seats {
    /// Whether there is a seat for one more of `user` beside those who sit.
    pub(super) fn has_room(self, user: User, seated: impl Iterator<Item = User>) -> bool {
        let (mut all, mut own, mut ordinary) = (0, 0, 0);
        for other in seated {
            all += 1;
            own += usize::from(other == user);
            ordinary += usize::from(!self.is_privileged(other));
        }
        let kept = self.is_privileged(user) || ordinary < self.all - self.eighths(1);
        all < self.all && own < self.most_of(user) && kept
    }

    /// Whether nobody else may keep this user out.
    pub(super) fn is_privileged(self, user: User) -> bool {
        [User::Known(ROOT), User::Known(self.writer)].contains(&user)
    }

    fn most_of(self, user: User) -> usize {
        match user {
            User::Nobody => self.eighths(1).max(1),
            _ if self.is_privileged(user) => self.all - self.eighths(2),
            User::Known(_) => self.all - self.eighths(3),
        }
    }

    fn eighths(self, count: usize) -> usize {
        self.all * count / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEATS: Seats = Seats { all: 128, writer: 33 };

    /// How many of these users in turn find a seat.
    fn seated(seated: &mut Vec<User>, users: impl Iterator<Item = User>) -> usize {
        let before = seated.len();
        for user in users {
            if SEATS.has_room(user, seated.iter().copied()) {
                seated.push(user);
            }
        }
        seated.len() - before
    }

    fn many(user: User) -> impl Iterator<Item = User> {
        std::iter::repeat_n(user, 200)
    }

    #[test]
    fn no_user_under_any_of_its_names_keeps_root_out() {
        let mut seats = Vec::new();
        assert_eq!(seated(&mut seats, many(User::Known(1000))), 80);
        assert_eq!(seated(&mut seats, many(User::Nobody)), 16);
        assert_eq!(seated(&mut seats, (100_000..100_200).map(User::Known)), 16);
        assert_eq!(seated(&mut seats, many(User::Known(1001))), 0);
        assert_eq!(seated(&mut seats, [User::Known(33)].into_iter()), 1);
        assert_eq!(seated(&mut seats, many(User::Known(0))), 15);
    }

    #[test]
    fn no_user_has_all_seats() {
        for (user, most) in [(0, 96), (33, 96), (1000, 80)] {
            let mut seats = Vec::new();
            assert_eq!(seated(&mut seats, many(User::Known(user))), most, "user {user}");
            assert_eq!(seated(&mut seats, [User::Known(7)].into_iter()), 1);
        }
    }

    #[test]
    fn few_seats_are_shared_too() {
        for all in 1..8 {
            let seats = Seats { all, ..SEATS };
            assert!(seats.has_room(User::Nobody, [].into_iter()));
            assert!(seats.has_room(User::Known(1000), [].into_iter()));
        }
    }
}
