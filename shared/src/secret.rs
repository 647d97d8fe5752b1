//! Secrets: bytes that are wiped when they are dropped and that nothing prints.
//!
//! Only these bytes are wiped. What carried them, the buffers of a connection, of a batch that is being put together and
//! of a request that is being sent, is freed as it is, except where its owner wipes it: the agent does so with what it
//! reads from its host. Wiping makes it unlikely that an old copy is found; that nothing reads the process's memory, and
//! that no core file is written of it, is what the secrets rest on.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret text, such as a token or the JSON of a credential. It is sent as any text; it has no `Display`, `Debug`
/// hides it, and its bytes are wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Box<str>>);

impl Secret {
    /// The secret itself, for whoever must send it or check it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.into_boxed_str()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

/// A secret key of 32 bytes: base64 as text, 32 bytes on the guest link. It is wiped when it is dropped, and nothing
/// prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// The key itself, for whoever must use it.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SecretKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        if s.is_human_readable() {
            let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(self.expose()));
            s.serialize_str(&text)
        } else {
            self.expose().serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        if !d.is_human_readable() {
            return <[u8; 32]>::deserialize(d).map(Self::from);
        }
        let text = Secret::deserialize(d)?;
        let mut key = Zeroizing::new([0; 32]);
        let decoded = base64::engine::general_purpose::STANDARD.decode_slice(text.expose(), &mut key[..]);
        match decoded {
            Ok(32) => Ok(Self(key)),
            _ => Err(serde::de::Error::custom("a key is 32 bytes in base64")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, SecretKey};

    #[test]
    fn secrets_are_sent_and_not_shown() {
        let (secret, key) = (Secret::from("hunter2".to_owned()), SecretKey::from([7; 32]));
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"hunter2\"");
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<SecretKey>(&json).unwrap(), key);
        assert_eq!(postcard::to_stdvec(&key).unwrap(), [7; 32]);
        assert_eq!(postcard::from_bytes::<SecretKey>(&[7; 32]).unwrap(), key);
        assert!(serde_json::from_str::<SecretKey>("\"BwcH\"").is_err());
        assert_eq!(format!("{secret:?} {key:?}"), "Secret(hidden) SecretKey(hidden)");
    }
}
