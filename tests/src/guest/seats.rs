//! How many guests run at once.
//!
//! An emulated guest wants a processor while it boots; more guests than this at once only make each other slow
//! enough to miss their deadlines.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Guests that this process runs at the same time.
const SEATS: u32 = 4;

static FREE: Semaphore = Semaphore::const_new(SEATS as usize);

/// Room for some guests, given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Seats {
    _permit: SemaphorePermit<'static>,
}

/// Waits for room for `guests` guests at once, up to four.
///
/// A test takes all the seats it needs in one call: two tests that each held one and waited for another would
/// wait for ever. More than there are is a mistake in the test, and panics. Cancel-safe.
pub async fn seats(guests: u32) -> Seats {
    assert!(
        guests <= SEATS,
        "no test can have more than {SEATS} guests at once"
    );
    let permit = FREE
        .acquire_many(guests)
        .await
        .expect("the semaphore is never closed");
    Seats { _permit: permit }
}
