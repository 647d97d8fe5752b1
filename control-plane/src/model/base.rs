//! What a view lies over: loaded keys for live operations, a fork of the whole store for everything else.

use std::collections::HashMap;
use std::ops::Bound;

use imbl::OrdMap;

use super::record::key;
use super::view::Load;
use crate::store::{End, Key, Range, ReadError, Store, Transaction, Versioned, Write};

/// A state of the store, as far as it is at hand.
pub trait Base: Send {
    /// The epoch of its revisions.
    fn epoch(&self) -> u64;
    /// The value of a key; `Load` if it is not at hand.
    fn get(&mut self, key: &Key) -> Result<Option<Versioned>, Load>;
    /// The keys of a span with their values in byte order; `Load` if they are not at hand.
    fn scan(&mut self, span: &Span) -> Result<Vec<(Key, Versioned)>, Load>;
}

/// A part of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// What the keys begin with.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// The most keys.
    pub limit: usize,
}

/// The keys that a live operation asked for so far, as they are at one revision.
#[derive(Debug)]
pub struct Loaded {
    epoch: u64,
    at: u64,
    keys: HashMap<Key, Option<Versioned>>,
    spans: HashMap<Span, Vec<(Key, Versioned)>>,
    missing_keys: Vec<Key>,
    missing_spans: Vec<Span>,
}

impl Loaded {
    /// Nothing is loaded yet of the state at revision `at`.
    pub fn at(store: &Store, at: u64) -> Self {
        Self {
            epoch: store.epoch(),
            at,
            keys: HashMap::new(),
            spans: HashMap::new(),
            missing_keys: Vec::new(),
            missing_spans: Vec::new(),
        }
    }

    /// Loads what the last step asked for in vain.
    pub async fn fetch(&mut self, store: &Store) -> Result<(), ReadError> {
        let keys = std::mem::take(&mut self.missing_keys);
        let values = store.read(self.at, &keys).await?;
        self.keys.extend(keys.into_iter().zip(values));
        for span in std::mem::take(&mut self.missing_spans) {
            let found = range(store, self.at, &span).await?;
            self.spans.insert(span, found);
        }
        Ok(())
    }
}

/// What a span holds at revision `at`.
async fn range(store: &Store, at: u64, span: &Span) -> Result<Vec<(Key, Versioned)>, ReadError> {
    let mut range = Range::prefix(&span.prefix).limit(span.limit);
    if let Some(after) = &span.after {
        range = range.resume_at(after.successor());
    }
    let (mut pages, mut found) = (store.pages(at, range), Vec::new());
    while found.len() < span.limit
        && let Some(page) = pages.next().await?
    {
        found.extend(page);
    }
    found.truncate(span.limit);
    Ok(found)
}

impl Base for Loaded {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn get(&mut self, key: &Key) -> Result<Option<Versioned>, Load> {
        if let Some(found) = self.keys.get(key) {
            Ok(found.clone())
        } else {
            self.missing_keys.push(key.clone());
            Err(Load(()))
        }
    }

    fn scan(&mut self, span: &Span) -> Result<Vec<(Key, Versioned)>, Load> {
        if let Some(found) = self.spans.get(span) {
            Ok(found.clone())
        } else {
            self.missing_spans.push(span.clone());
            Err(Load(()))
        }
    }
}

/// A whole state in memory that can be stepped on without touching the store it was taken from. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Fork {
    epoch: u64,
    head: u64,
    keys: OrdMap<Key, Versioned>,
}

impl Fork {
    /// The state before the first transaction.
    pub fn empty(epoch: u64) -> Self {
        Self {
            epoch,
            head: 0,
            keys: OrdMap::new(),
        }
    }

    /// The state of `store` at revision `at`. It takes as much memory as the store has.
    pub async fn of(store: &Store, at: u64) -> Result<Self, ReadError> {
        let keys = store.dump(at).await?.into_iter().collect();
        Ok(Self {
            epoch: store.epoch(),
            head: at,
            keys,
        })
    }

    /// The revision of the state.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Every key with its value, in order.
    pub fn dump(&self) -> impl Iterator<Item = (&Key, &Versioned)> {
        self.keys.iter()
    }

    /// From here on revisions are of this epoch, those of what is there included.
    pub(super) const fn begin(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// Leaves out a revision of which nothing is kept.
    pub(super) const fn skip(&mut self) {
        self.head += 1;
    }

    /// Applies what a transaction writes; its guards hold because nobody else writes here.
    pub fn apply(&mut self, transaction: Transaction) {
        self.head += 1;
        for write in transaction.writes {
            match write {
                Write::Put(key, value) => {
                    let old = self.keys.get(&key);
                    let created = old.map_or(self.head, |old| old.created);
                    let version = old.map_or(1, |old| old.version + 1);
                    self.keys.insert(
                        key,
                        Versioned {
                            value,
                            created,
                            modified: self.head,
                            version,
                        },
                    );
                }
                Write::Delete(key) => {
                    self.keys.remove(&key);
                }
            }
        }
    }
}

impl Base for Fork {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn get(&mut self, key: &Key) -> Result<Option<Versioned>, Load> {
        Ok(self.keys.get(key).cloned())
    }

    fn scan(&mut self, span: &Span) -> Result<Vec<(Key, Versioned)>, Load> {
        let range = Range::prefix(&span.prefix);
        let below = |key: &Key| match &range.end {
            End::Before(end) => key.as_bytes() < end.as_ref(),
            End::Open => true,
        };
        let start = match &span.after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included(key(span.prefix.as_bytes())),
        };
        let found = self
            .keys
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| below(key))
            .take(span.limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
