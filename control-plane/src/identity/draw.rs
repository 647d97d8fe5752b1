//! Random bytes for tokens, asked of the kernel for several tokens at once: asking for each would take half as long as
//! everything else that making one takes.
//!
//! What was drawn and not used yet lies in this process, and so in every copy of the machine it runs on. Two copies
//! still make different tokens: a token's nonce is made of its content too, and its id of its session.

use std::cell::RefCell;

use zeroize::{Zeroize as _, Zeroizing};

use super::token::{SessionId, TokenId};

/// For how many tokens the kernel is asked at once.
const TOKENS: usize = 16;
const ID: usize = 16;
const NONCE: usize = 32;
const EACH: usize = ID + NONCE;

/// The random part of one token.
pub(super) struct Draw {
    id: [u8; ID],
    /// What its nonce is made with.
    pub(super) nonce: Zeroizing<[u8; NONCE]>,
}

impl Draw {
    /// The token's id, if it is of this session.
    pub(super) fn id_in(&self, session: &SessionId) -> TokenId {
        let mut id = self.id;
        for (byte, of_session) in id.iter_mut().zip(session.bytes()) {
            *byte ^= of_session;
        }
        TokenId::from_bytes(id)
    }
}

/// What this thread has drawn.
struct Drawn {
    bytes: [u8; TOKENS * EACH],
    used: usize,
}

impl Drop for Drawn {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Drawn {
    const fn none() -> Self {
        Self {
            bytes: [0; TOKENS * EACH],
            used: TOKENS,
        }
    }

    fn next(&mut self) -> Result<Draw, getrandom::Error> {
        if self.used == TOKENS {
            getrandom::fill(&mut self.bytes)?;
            self.used = 0;
        }
        let (each, _) = self.bytes.as_chunks_mut::<EACH>();
        let one = &mut each[self.used];
        self.used += 1;
        let (mut id, mut nonce) = ([0; ID], Zeroizing::new([0; NONCE]));
        id.copy_from_slice(&one[..ID]);
        nonce.copy_from_slice(&one[ID..]);
        // Whoever sees this memory later learns nothing of tokens that were made.
        one.zeroize();
        Ok(Draw { id, nonce })
    }
}

/// The random part of one more token; never the same twice.
///
/// # Errors
/// If the kernel gives no randomness.
pub(super) fn one() -> Result<Draw, getrandom::Error> {
    thread_local! {
        static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn::none()) };
    }
    DRAWN.with_borrow_mut(Drawn::next)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::token::SessionId;
    use super::{Drawn, TOKENS, one};

    #[test]
    fn no_two_draws_are_alike() {
        let session = SessionId::from_bytes([1; 16]);
        let draws: Vec<_> = (0..3 * TOKENS).map(|_| one().unwrap()).collect();
        let ids: HashSet<_> = draws.iter().map(|draw| draw.id_in(&session)).collect();
        let nonces: HashSet<_> = draws.iter().map(|draw| *draw.nonce).collect();
        assert_eq!((ids.len(), nonces.len()), (draws.len(), draws.len()));
    }

    #[test]
    fn sessions_have_different_ids_of_one_draw() {
        let draw = one().unwrap();
        let [a, b] = [1, 2].map(|byte| draw.id_in(&SessionId::from_bytes([byte; 16])));
        assert_ne!(a, b);
    }

    #[test]
    fn what_was_used_is_wiped() {
        let mut drawn = Drawn::none();
        drawn.next().unwrap();
        let (used, unused) = drawn.bytes.split_at(super::EACH);
        assert!(used.iter().all(|byte| *byte == 0));
        assert!(unused.iter().any(|byte| *byte != 0));
    }
}
