//! The mirror as the tasks of one thread share it: they read it between two awaits and wait for it to change.

use std::cell::{Ref, RefCell};

use http::HeaderValue;
use moorline_shared::link::Moment;
use tokio::sync::Notify;

use super::{Batch, Kept, Mirror, Refusal, Stamp, Standing};

/// A mirror that can be waited for. It belongs to one thread, so reading takes no lock.
#[derive(Debug, Default)]
pub struct Live {
    mirror: RefCell<Mirror>,
    changed: Notify,
    age: RefCell<Option<(u64, HeaderValue)>>,
}

impl Live {
    /// The mirror as it is. The guard must not be held across an await.
    pub fn read(&self) -> Ref<'_, Mirror> {
        self.mirror.borrow()
    }

    /// Applies a batch and wakes everyone who waits.
    pub fn apply(&self, batch: Batch, now: Moment) -> Result<(), Refusal> {
        self.mirror.borrow_mut().apply(batch, now)?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Begins with what was kept, and wakes everyone who waits. See [`Mirror::restore`].
    pub fn restore(&self, kept: Kept, now: &Stamp) -> Result<(), Refusal> {
        self.mirror.borrow_mut().restore(kept, now)?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// See [`Mirror::heard`].
    pub fn heard(&self, now: Moment) {
        self.mirror.borrow_mut().heard(now);
    }

    /// See [`Mirror::stand`].
    pub fn stand(&self, standing: Standing, now: Moment) {
        self.mirror.borrow_mut().stand(standing, now);
    }

    /// Drops everything and wakes everyone who waits.
    pub fn forget(&self) {
        self.mirror.borrow_mut().forget();
        self.changed.notify_waiters();
    }

    /// Waits until `look` finds something in the mirror. Dropping the future is harmless.
    pub async fn until<T>(&self, mut look: impl FnMut(&Mirror) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if let Some(found) = look(&self.mirror.borrow()) {
                return found;
            }
            changed.await;
        }
    }

    /// An age as a header. Many reads fall into one millisecond, and they share the text.
    pub fn age_header(&self, ms: u64) -> HeaderValue {
        let mut cached = self.age.borrow_mut();
        match &*cached {
            Some((same, header)) if *same == ms => header.clone(),
            _ => cached.insert((ms, HeaderValue::from(ms))).1.clone(),
        }
    }
}
