//! How often somebody may try to log in, so that nobody guesses a password, and nobody keeps others from logging in.
//!
//! Attempts are counted for each user from each network, more widely for each network, and more widely still for each user
//! from all networks together, which is what slows many machines down that guess in concert. That last bound alone would
//! let strangers lock a user out, so it isn't for a network from which the user has logged in within thirty days: whatever
//! comes from elsewhere, there they have their own attempts. Sessions go on in any case, and each of these bounds is only a
//! wait. A restart forgets all of it, and the counts with it.
//!
//! A network is an IPv4 address, or the 64 bits of an IPv6 address that its holder doesn't choose.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moorline_shared::{Principal, UserName};

/// What an attempt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        })
    }
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    /// Attempts as a user from one network, or from where that isn't known.
    Here(UserName, Option<Network>),
    /// Attempts as a user from everywhere that they don't usually come from.
    Elsewhere(UserName),
    /// Attempts from one network.
    Network(Network),
    /// New passwords that somebody sets.
    Change(Principal),
}

impl Counted {
    /// How many may be tried at once, and how long it takes until one more may.
    const fn bound(&self) -> (u32, Duration) {
        match self {
            Self::Here(..) => (10, Duration::from_secs(6)),
            Self::Elsewhere(_) => (100, Duration::from_secs(1)),
            Self::Network(_) => (200, Duration::from_millis(500)),
            Self::Change(_) => (30, Duration::from_secs(1)),
        }
    }
}

/// Places that are remembered before those are forgotten that have their whole bound again.
const REMEMBERED: usize = 16_384;
/// For how long it is remembered where a user logged in from.
const USUAL_FOR: Duration = Duration::from_hours(30 * 24);
/// From how many networks that is remembered of one user: the last ones.
const USUAL: usize = 8;

/// Who tried how often.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// When each has its whole bound again.
    whole: HashMap<Counted, Instant>,
    forget_at: usize,
    /// Where users logged in from, and when, the last one last. Only who knows a password adds to it.
    usual: HashMap<UserName, VecDeque<(Network, Instant)>>,
}

impl Guesses {
    /// Counts an attempt to log in. If there were too many, it is not made, and this is for how long none will be.
    pub fn count(&self, user: &UserName, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = address.map(Network::from);
        let mut all = vec![Counted::Here(user.clone(), network)];
        all.extend(network.map(Counted::Network));
        if !network.is_some_and(|network| counts.is_usual(user, network, now)) {
            all.push(Counted::Elsewhere(user.clone()));
        }
        counts.count(all, now)
    }

    /// Counts that somebody sets a password, likewise: to hash it costs much.
    pub fn count_change(&self, by: &Principal, now: Instant) -> Result<(), Duration> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.count(vec![Counted::Change(by.clone())], now)
    }

    /// Forgets what a user tried from an address who then proved who they are, and remembers that they come from there.
    pub fn succeeded(&self, user: &UserName, address: Option<IpAddr>, now: Instant) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = address.map(Network::from);
        counts.whole.remove(&Counted::Here(user.clone(), network));
        if let Some(network) = network {
            counts.make_usual(user, network, now);
        }
    }
}

impl Counts {
    fn count(&mut self, all: Vec<Counted>, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        if let Some(wait) = all.iter().filter_map(|one| self.wait(one, now)).max() {
            return Err(wait);
        }
        for one in all {
            let (_, every) = one.bound();
            let whole = self.whole.entry(one).or_insert(now);
            *whole = (*whole).max(now) + every;
        }
        Ok(())
    }

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

    fn is_usual(&self, user: &UserName, network: Network, now: Instant) -> bool {
        let usual = self.usual.get(user).into_iter().flatten();
        let lately = |at: Instant| now.saturating_duration_since(at) < USUAL_FOR;
        usual
            .into_iter()
            .any(|(known, at)| *known == network && lately(*at))
    }

    fn make_usual(&mut self, user: &UserName, network: Network, now: Instant) {
        let usual = self.usual.entry(user.clone()).or_default();
        usual.retain(|(known, _)| *known != network);
        usual.push_back((network, now));
        if usual.len() > USUAL {
            usual.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn address(text: &str) -> Option<IpAddr> {
        let parsed = text.parse();
        assert!(parsed.is_ok(), "{text}");
        parsed.ok()
    }

    #[test]
    fn guessing_is_slowed_down_and_others_are_not() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (ann, bob) = (user("ann"), user("bob"));
        let (here, there) = (address("10.0.0.1"), address("10.0.0.2"));
        for _ in 0..10 {
            guesses.count(&ann, here, now).unwrap();
        }
        let wait = guesses.count(&ann, here, now).unwrap_err();
        assert!(wait <= Duration::from_secs(6), "{wait:?}");
        guesses.count(&ann, there, now).unwrap();
        guesses.count(&bob, here, now).unwrap();
        guesses.count(&ann, here, now + Duration::from_secs(6)).unwrap();
        guesses.succeeded(&ann, here, now);
        guesses.count(&ann, here, now).unwrap();
    }

    #[test]
    fn many_networks_together_do_not_guess_faster_than_a_user_allows() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let ann = user("ann");
        let from = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let let_in = (0..1_000).filter(|n| guesses.count(&ann, from(*n), now).is_ok());
        assert_eq!(let_in.count(), 100);
    }

    #[test]
    fn nobody_locks_a_user_out_where_they_usually_come_from() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (ann, home) = (user("ann"), address("10.0.0.1"));
        guesses.count(&ann, home, now).unwrap();
        guesses.succeeded(&ann, home, now);
        let later = now + Duration::from_hours(29 * 24);
        for n in 0..1_000_u32 {
            let _ = guesses.count(&ann, Some(IpAddr::from((n << 8).to_be_bytes())), later);
        }
        let elsewhere = guesses.count(&ann, address("192.0.2.1"), later);
        assert!(elsewhere.is_err(), "guessing from everywhere is slowed down");
        for _ in 0..10 {
            guesses.count(&ann, home, later).unwrap();
        }
        assert!(
            guesses.count(&ann, home, later).is_err(),
            "and so is guessing from there"
        );
        let long_after = later + Duration::from_hours(48);
        for n in 0..1_000_u32 {
            let _ = guesses.count(&ann, Some(IpAddr::from((n << 8).to_be_bytes())), long_after);
        }
        assert!(
            guesses.count(&ann, home, long_after).is_err(),
            "it is usual no more"
        );
    }

    #[test]
    fn whoever_has_a_whole_ipv6_network_has_one_place() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let ann = user("ann");
        let let_in = |prefix: u128| {
            let from = |n: u128| Some(IpAddr::from(Ipv6Addr::from_bits(prefix | n)));
            (0..1_000)
                .filter(|n| guesses.count(&ann, from(*n), now).is_ok())
                .count()
        };
        assert_eq!(let_in(0x2001_0db8 << 96), 10);
        assert_eq!(
            let_in(0x2001_0db8_0000_0001 << 64),
            10,
            "the next one is another's"
        );
        let mapped = (0..1_000).filter(|_| guesses.count(&ann, address("::ffff:10.0.0.9"), now).is_ok());
        assert_eq!(mapped.count(), 10);
        assert!(
            guesses.count(&ann, address("10.0.0.9"), now).is_err(),
            "it is the same machine"
        );
    }

    #[test]
    fn setting_passwords_is_slowed_down_too() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let root = Principal::User(user("root"));
        let let_in = (0..1_000).filter(|_| guesses.count_change(&root, now).is_ok());
        assert_eq!(let_in.count(), 30);
        guesses.count_change(&root, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let later = now + Duration::from_mins(10);
        for n in 0..100_000 {
            let user = user(&format!("u{n}"));
            guesses
                .count(&user, None, if n < 50_000 { now } else { later })
                .unwrap();
        }
        let ann = user("ann");
        for n in 0..1_000_u32 {
            guesses.succeeded(&ann, Some(IpAddr::from(n.to_be_bytes())), now);
        }
        let counts = guesses.0.lock().unwrap();
        assert!(counts.whole.len() <= 110_000, "{}", counts.whole.len());
        assert_eq!(counts.usual[&ann].len(), USUAL);
    }
}
