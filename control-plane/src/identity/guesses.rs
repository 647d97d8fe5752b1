//! How often somebody may try to log in: a bound for each user from each address, a wider one for each user and for each
//! address, so that neither many guesses from one place nor few from many get far, and nobody is locked out for good.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moorline_shared::UserName;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Both(UserName, Option<IpAddr>),
    User(UserName),
    Address(IpAddr),
}

impl Counted {
    /// How many may be tried at once, and how long it takes until one more may.
    const fn bound(&self) -> (u32, Duration) {
        match self {
            Self::Both(..) => (10, Duration::from_secs(6)),
            Self::User(_) => (100, Duration::from_secs(1)),
            Self::Address(_) => (200, Duration::from_millis(500)),
        }
    }
}

/// Places that are remembered before those are forgotten that have their whole bound again.
const REMEMBERED: usize = 16_384;

/// Who tried how often.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// When each has its whole bound again.
    whole: HashMap<Counted, Instant>,
    forget_at: usize,
}

impl Guesses {
    /// Counts an attempt. If there were too many, it is not made, and this is for how long none will be.
    pub fn count(&self, user: &UserName, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.forget(now);
        let all = counted(user, address);
        if let Some(wait) = all.iter().filter_map(|one| counts.wait(one, now)).max() {
            return Err(wait);
        }
        for one in all {
            let (_, every) = one.bound();
            let whole = counts.whole.entry(one).or_insert(now);
            *whole = (*whole).max(now) + every;
        }
        Ok(())
    }

    /// Forgets what a user tried from an address who then proved who they are.
    pub fn succeeded(&self, user: &UserName, address: Option<IpAddr>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.whole.remove(&Counted::Both(user.clone(), address));
    }
}

impl Counts {
    fn wait(&self, one: &Counted, now: Instant) -> Option<Duration> {
        let (burst, every) = one.bound();
        let owed = self.whole.get(one)?.saturating_duration_since(now);
        let most = every * (burst - 1);
        owed.checked_sub(most).filter(|wait| !wait.is_zero())
    }

    fn forget(&mut self, now: Instant) {
        if self.whole.len() > self.forget_at.max(REMEMBERED) {
            self.whole.retain(|_, whole| *whole > now);
            self.forget_at = 2 * self.whole.len();
        }
    }
}

fn counted(user: &UserName, address: Option<IpAddr>) -> Vec<Counted> {
    let mut all = vec![Counted::Both(user.clone(), address), Counted::User(user.clone())];
    all.extend(address.map(Counted::Address));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_down_and_others_are_not() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (ann, bob): (UserName, UserName) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let [here, there] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|ip| Some(IpAddr::from(ip)));
        for _ in 0..10 {
            guesses.count(&ann, here, now).unwrap();
        }
        let wait = guesses.count(&ann, here, now).unwrap_err();
        assert!(wait <= Duration::from_secs(6), "{wait:?}");
        guesses.count(&ann, there, now).unwrap();
        guesses.count(&bob, here, now).unwrap();
        guesses.count(&ann, here, now + Duration::from_secs(6)).unwrap();
        guesses.succeeded(&ann, here);
        guesses.count(&ann, here, now).unwrap();
    }

    #[test]
    fn many_addresses_together_do_not_guess_faster_than_a_user_allows() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let ann: UserName = "ann".parse().unwrap();
        let from = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let let_in = (0..1_000).filter(|n| guesses.count(&ann, from(*n), now).is_ok());
        assert_eq!(let_in.count(), 100);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let later = now + Duration::from_mins(10);
        for n in 0..100_000 {
            let user: UserName = format!("u{n}").parse().unwrap();
            guesses
                .count(&user, None, if n < 50_000 { now } else { later })
                .unwrap();
        }
        let counts = guesses.0.lock().unwrap();
        assert!(counts.whole.len() <= 110_000, "{}", counts.whole.len());
    }
}
