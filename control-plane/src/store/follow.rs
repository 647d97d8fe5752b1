//! Keeps something in memory in step with a part of the store.
//!
//! A [`Follower`] reads once what there is, and from there on takes transaction after transaction. What is made of it is
//! an [`Image`]: readers ask that, and never the store. Whoever has just committed a transaction waits for it with
//! [`Follower::reach`], so that what it revoked is refused in this process before the request that did so is answered.

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{Event, Range, ReadError, Store, Watch, WatchError};

/// What is made of a part of the store.
pub trait Image: Sync {
    /// Why it can't be.
    type Error: From<FollowError>;

    /// What the keys of that part begin with, in the order in which they are read at first.
    const PREFIXES: &'static [&'static str];

    /// Forgets everything: it is all read anew.
    fn clear(&self);

    /// Takes in what there is or changed, in its order.
    ///
    /// # Errors
    /// What can't be read ends whoever follows, unless it is better left out.
    fn take<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Result<(), Self::Error>;
}

/// Where an image is in the order of the store's transactions.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    /// Whoever has it takes the next transaction; `None` before everything was read.
    watch: Mutex<Option<Watch>>,
    position: watch::Sender<u64>,
}

/// The store can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It ended, or can't be watched.
    #[error("the store can't be followed")]
    Watch(#[from] WatchError),
    /// It can't be read.
    #[error("what is followed of the store can't be read")]
    Read(#[from] ReadError),
}

impl Follower {
    /// Nothing is read yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            watch: Mutex::new(None),
            position: watch::Sender::new(0),
        }
    }

    /// Up to which transaction the image is in step.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until the image is in step with transaction `n`, which was committed. Cancel-safe.
    ///
    /// # Errors
    /// [`Image::Error`] if the store ended or can't be read, or the image can't be made of it.
    pub async fn reach<I: Image>(&self, n: u64, image: &I) -> Result<(), I::Error> {
        let mut position = self.position.subscribe();
        while *position.borrow_and_update() < n {
            tokio::select! {
                // Both arms are cancel-safe: whoever follows keeps what it took, and a position is never missed.
                _ = position.changed() => {}
                followed = self.next(image) => followed?,
            }
        }
        Ok(())
    }

    /// Keeps the image in step until cancelled.
    ///
    /// # Errors
    /// [`Image::Error`] as [`Self::reach`]: without the store nothing that is revoked would be known here.
    pub async fn run<I: Image>(&self, image: &I, cancel: CancellationToken) -> Result<(), I::Error> {
        loop {
            tokio::select! {
                // Both arms are cancel-safe: see next.
                () = cancel.cancelled() => return Ok(()),
                followed = self.next(image) => followed?,
            }
        }
    }

    /// Takes in what the next transaction changed, waiting for it if there is none yet. Cancel-safe: what was taken from
    /// the watch is taken in before anything else is waited for.
    async fn next<I: Image>(&self, image: &I) -> Result<(), I::Error> {
        let mut watch = self.watch.lock().await;
        let Some(following) = watch.as_mut() else {
            *watch = Some(self.begin(image).await?);
            return Ok(());
        };
        match following.next().await {
            Ok(batch) => {
                image.take(batch.events.iter().filter(|event| is_of::<I>(event)))?;
                self.position.send_replace(batch.n);
            }
            // It is all read anew, as at the start.
            Err(WatchError::Compacted { .. }) => *watch = None,
            Err(error) => return Err(FollowError::from(error).into()),
        }
        Ok(())
    }

    async fn begin<I: Image>(&self, image: &I) -> Result<Watch, I::Error> {
        let at = self.store.head().await.map_err(FollowError::from)?;
        let watch = self.store.watch(at).await.map_err(FollowError::from)?;
        image.clear();
        for prefix in I::PREFIXES {
            self.read(at, prefix, image).await?;
        }
        self.position.send_replace(at);
        Ok(watch)
    }

    async fn read<I: Image>(&self, at: u64, prefix: &str, image: &I) -> Result<(), I::Error> {
        let mut pages = self.store.pages(at, Range::prefix(prefix));
        while let Some(page) = pages.next().await.map_err(FollowError::from)? {
            let events: Vec<_> = page.into_iter().map(there_is).collect();
            image.take(events.iter())?;
        }
        Ok(())
    }
}

fn is_of<I: Image>(event: &Event) -> bool {
    let key = event.key.as_bytes();
    I::PREFIXES
        .iter()
        .any(|prefix| key.starts_with(prefix.as_bytes()))
}

fn there_is((key, kept): (super::Key, super::Versioned)) -> Event {
    Event {
        key,
        value: Some(kept),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::{FollowError, Follower, Image};
    use crate::store::{Event, Key, Store, Transaction, Write};

    /// What there is under `a/` and `b/`.
    #[derive(Debug, Default)]
    struct Copy(Mutex<BTreeMap<Key, bytes::Bytes>>);

    impl Image for Copy {
        type Error = FollowError;
        const PREFIXES: &'static [&'static str] = &["a/", "b/"];

        fn clear(&self) {
            self.0.lock().unwrap().clear();
        }

        fn take<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Result<(), FollowError> {
            let mut copy = self.0.lock().unwrap();
            for event in events {
                match &event.value {
                    Some(kept) => drop(copy.insert(event.key.clone(), kept.value.clone())),
                    None => drop(copy.remove(&event.key)),
                }
            }
            Ok(())
        }
    }

    impl Copy {
        fn keys(&self) -> String {
            let copy = self.0.lock().unwrap();
            copy.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
    }

    async fn commit(store: &Store, writes: Vec<Write>) -> u64 {
        let transaction = Transaction {
            guards: Vec::new(),
            writes,
        };
        store.commit(transaction).await.unwrap()
    }

    fn key(key: &str) -> Key {
        Key::try_from(key).unwrap()
    }

    fn put(name: &str) -> Write {
        Write::Put(key(name), bytes::Bytes::from_static(b"x"))
    }

    #[tokio::test]
    async fn an_image_has_what_there_was_and_what_came_since_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let n = commit(&store, vec![put("a/1"), put("ab"), put("b/1")]).await;
        let (follower, copy) = (Follower::new(store.clone()), Copy::default());
        follower.reach(n, &copy).await.unwrap();
        assert_eq!((copy.keys().as_str(), follower.position()), ("a/1 b/1", n));
        commit(&store, vec![put("c/1"), put("b/2")]).await;
        let n = commit(&store, vec![Write::Delete(key("a/1"))]).await;
        follower.reach(n, &copy).await.unwrap();
        assert_eq!((copy.keys().as_str(), follower.position()), ("b/1 b/2", n));
    }

    #[tokio::test]
    async fn what_compaction_overtook_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
        let n = commit(&store, vec![put("a/1")]).await;
        let (follower, copy) = (Follower::new(store.clone()), Copy::default());
        follower.reach(n, &copy).await.unwrap();
        copy.0.lock().unwrap().insert(key("a/0"), bytes::Bytes::new());
        // As after a watch that was overtaken: whatever is there counts for nothing.
        *follower.watch.lock().await = None;
        let n = commit(&store, vec![put("a/2")]).await;
        follower.reach(n, &copy).await.unwrap();
        assert_eq!(copy.keys(), "a/1 a/2");
    }
}
