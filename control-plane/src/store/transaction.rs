//! What is written: all of it or nothing, and only if every guard holds.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;

use super::error::Invalid;
use super::key::Key;

/// A value and when it came to be. Every `n` is one of the store's epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value as it was put.
    pub value: Bytes,
    /// The `n` of the transaction that created the key, after its last deletion if there was one.
    pub created: u64,
    /// The `n` of the transaction that put this value.
    pub modified: u64,
    /// How often the key was put since it was created; 1 for the first.
    pub version: u64,
}

impl fmt::Debug for Versioned {
    /// Says how long the value is, and never what it is: values can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versioned")
            .field("bytes", &self.value.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .field("version", &self.version)
            .finish()
    }
}

/// A condition on one key. All are judged on the state just before the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key has no value.
    Absent(Key),
    /// The key has some value.
    Exists(Key),
    /// The key has a value that was put by the transaction with this `n`.
    At(Key, u64),
    /// The key has a value with this [`Versioned::version`].
    Version(Key, u64),
}

impl Guard {
    /// The key that the guard is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Exists(key) | Self::At(key, _) | Self::Version(key, _) => key,
        }
    }
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Write {
    /// Gives the key this value.
    Put(Key, Bytes),
    /// Takes the key's value away. It is no error if the key has none; then no event is made of it.
    Delete(Key),
}

impl Write {
    /// The key that the write changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put(key, value) => key.as_bytes().len() + value.len(),
            Self::Delete(key) => key.as_bytes().len(),
        }
    }
}

impl fmt::Debug for Write {
    /// Says how long a value is, and never what it is: values can be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Delete(key) => write!(f, "Delete({key:?})"),
        }
    }
}

/// Writes that happen together if all guards hold. No key is written twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What is written then; watchers see it in this order.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// The most guards and writes together; the same in every backend.
    pub const MAX_OPERATIONS: usize = 4096;
    /// The most bytes of keys and values together; the same in every backend.
    pub const MAX_BYTES: usize = 4 << 20;

    /// Checks the bounds, and answers with the transaction's size in bytes.
    pub(crate) fn check(&self) -> Result<usize, Invalid> {
        let operations = self.guards.len() + self.writes.len();
        if operations > Self::MAX_OPERATIONS {
            return Err(Invalid::Operations { found: operations });
        }
        let bytes = self.size();
        if bytes > Self::MAX_BYTES {
            return Err(Invalid::Bytes { found: bytes });
        }
        self.check_repeats()?;
        Ok(bytes)
    }

    fn size(&self) -> usize {
        let guards: usize = self.guards.iter().map(|guard| guard.key().as_bytes().len()).sum();
        guards + self.writes.iter().map(Write::size).sum::<usize>()
    }

    fn check_repeats(&self) -> Result<(), Invalid> {
        let mut seen = HashSet::with_capacity(self.writes.len());
        for (write, key) in self.writes.iter().map(Write::key).enumerate() {
            if !seen.insert(key) {
                return Err(Invalid::Repeated {
                    write,
                    key: key.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: usize) -> Key {
        Key::try_from(format!("k{i}")).unwrap()
    }

    #[test]
    fn a_transaction_has_at_most_4096_guards_and_writes() {
        let guards = (0..4000).map(|i| Guard::Absent(key(i))).collect::<Vec<_>>();
        let writes = |n| (0..n).map(|i| Write::Delete(key(i))).collect::<Vec<_>>();
        let full = Transaction {
            guards: guards.clone(),
            writes: writes(96),
        };
        assert!(full.check().is_ok());
        let over = Transaction {
            guards,
            writes: writes(97),
        };
        assert_eq!(over.check(), Err(Invalid::Operations { found: 4097 }));
    }

    #[test]
    fn a_transaction_has_at_most_4_mib() {
        let put = |bytes: usize| Transaction {
            guards: vec![],
            writes: vec![Write::Put(key(1), Bytes::from(vec![0; bytes]))],
        };
        assert_eq!(put((4 << 20) - 2).check(), Ok(4 << 20));
        assert_eq!(
            put((4 << 20) - 1).check(),
            Err(Invalid::Bytes { found: (4 << 20) + 1 })
        );
    }

    #[test]
    fn a_key_is_written_once() {
        let twice = Transaction {
            guards: vec![],
            writes: vec![Write::Delete(key(1)), Write::Delete(key(1))],
        };
        assert_eq!(
            twice.check(),
            Err(Invalid::Repeated {
                write: 1,
                key: key(1)
            })
        );
    }

    #[test]
    fn debug_shows_no_value() {
        let put = Write::Put(key(1), Bytes::from_static(b"hunter2"));
        assert_eq!(format!("{put:?}"), "Put(\"k1\", 7 bytes)");
    }
}
