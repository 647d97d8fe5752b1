//! What the store keeps: records, their keys, and the fences of their collections.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::Key;

/// Something the store keeps under a key of its own, as JSON.
///
/// Fields are added with a default and never change their meaning, so that what an earlier release wrote is read. The
/// key is `KIND/SCOPE/MEMBER`; the records of one scope are a collection, which can be scanned in the byte order of
/// the members.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The first segment of its keys. It is unique.
    const KIND: &'static str;
    /// Whether the collection is ever scanned by a step. Only then it has a fence.
    const FENCED: bool;
    /// What it is found by.
    type Id: ?Sized;
    /// What its collection is found by.
    type Collection: ?Sized;

    /// The key of the record with this id.
    fn key(id: &Self::Id) -> Key;
    /// The key of this record.
    fn own_key(&self) -> Key;
    /// What all keys of the collection begin with.
    fn prefix(of: &Self::Collection) -> String;
    /// The fence of the collection that this record belongs to.
    fn fence(key: &Key) -> Key {
        let text = key.as_bytes();
        let scope = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .nth(Self::SCOPE_SEGMENTS);
        fence(&text[..scope.map_or(text.len(), |(at, _)| at + 1)])
    }
    /// How many segments of the key after the kind name the collection.
    const SCOPE_SEGMENTS: usize;
}

/// The fence of the collection whose keys begin with `prefix`: every write to the collection puts it.
pub fn fence(prefix: &[u8]) -> Key {
    key(&[b"fence/", prefix].concat())
}

/// The key with these bytes. Every id and path is bounded so that keys are.
pub fn key(bytes: &[u8]) -> Key {
    // The longest key of all is a value's: a kind, an instance, a path of 512 bytes and a digest.
    Key::try_from(bytes).expect("ids and paths are bounded, so that every key has 1 to 1,024 bytes")
}

/// A time as keys write it, so that later ones come first.
pub fn newest_first(millis: i64) -> String {
    format!("{:016x}", u64::MAX - u64::try_from(millis).unwrap_or(0))
}
