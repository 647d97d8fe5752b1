//! What an entry is: a value with a content type, and what is known about it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::id::serde_as_text;

/// The largest value of an entry, in bytes.
pub const MAX_VALUE_BYTES: usize = 256 * 1024;
/// The most entries of an instance.
pub const MAX_ENTRIES: usize = 1024;
/// The most bytes of all values of an instance together.
pub const MAX_INSTANCE_BYTES: usize = 1024 * 1024;

/// The bytes of an entry. In JSON they are text where they are UTF-8, otherwise `{"base64": "..."}`.
///
/// `Debug` shows the length only: a value may be a secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Value(Bytes);

impl Value {
    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same value, whose bytes are wiped when their last holder lets them go. They are copied only if somebody else
    /// holds them too, whose copy isn't wiped.
    #[must_use]
    pub fn wiped(self) -> Self {
        Self(Bytes::from_owner(Zeroizing::new(Vec::from(self.0))))
    }

    /// The value as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Zeroizing<Vec<u8>>> for Value {
    /// A value whose bytes are wiped when their last holder lets them go.
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Bytes::from_owner(bytes))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonValue<'a> {
    Text(&'a str),
    Base64 { base64: String },
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if !s.is_human_readable() {
            return s.serialize_bytes(&self.0);
        }
        let json = match self.text() {
            Some(text) => JsonValue::Text(text),
            None => JsonValue::Base64 {
                base64: STANDARD.encode(&self.0),
            },
        };
        json.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if !d.is_human_readable() {
            return Bytes::deserialize(d).map(Self);
        }
        d.deserialize_any(JsonVisitor)
    }
}

/// Takes text, and bytes in base64.
struct JsonVisitor;

impl<'de> de::Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, or bytes as {\"base64\": TEXT}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value(Bytes::from(text)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "base64" {
                return Err(de::Error::unknown_field(&key, &["base64"]));
            }
            found = Some(map.next_value::<String>()?);
        }
        let text = found.ok_or_else(|| de::Error::missing_field("base64"))?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|error| de::Error::custom(format!("a value is not well formed base64: {error}")))?;
        Ok(Value(bytes.into()))
    }
}

/// What the bytes of a value are, as in HTTP: `type/subtype` with optional parameters, 1 to 128 printable ASCII
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentType(Box<str>);

impl ContentType {
    /// The content type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a value is taken for when nobody says: text if it is UTF-8, otherwise bytes.
    pub fn guess(value: &[u8]) -> Self {
        Self(
            if std::str::from_utf8(value).is_ok() {
                Self::TEXT
            } else {
                Self::BYTES
            }
            .into(),
        )
    }

    const TEXT: &'static str = "text/plain; charset=utf-8";
    const BYTES: &'static str = "application/octet-stream";
}

impl Default for ContentType {
    fn default() -> Self {
        Self(Self::TEXT.into())
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a content type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a content type is type/subtype in 3 to 128 printable ASCII characters")]
pub struct ContentTypeError;

impl FromStr for ContentType {
    type Err = ContentTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let printable = text.len() <= 128 && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        let parts = text
            .split_once('/')
            .is_some_and(|(kind, sub)| !kind.is_empty() && !sub.is_empty());
        if printable && parts {
            Ok(Self(text.into()))
        } else {
            Err(ContentTypeError)
        }
    }
}

serde_as_text!(ContentType);

/// Who determined an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The provider's services: identifiers, placement, hardware.
    Provider,
    /// The customer's users: parameters, scripts, keys, flags.
    Customer,
    /// An instance, about itself or about another.
    Instance,
}

/// Whether `describe` names an entry. Reading follows the access list alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Named in the published listing of the instance's attributes.
    Public,
    /// Not named there.
    #[default]
    Private,
}

#[cfg(test)]
mod tests {
    use super::{ContentType, Value};
    use bytes::Bytes;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_round_trip_in_json_and_postcard(bytes: Vec<u8>) {
            let value = Value::from(Bytes::from(bytes));
            prop_assert_eq!(&serde_json::from_slice::<Value>(&serde_json::to_vec(&value).unwrap()).unwrap(), &value);
            prop_assert_eq!(&postcard::from_bytes::<Value>(&postcard::to_stdvec(&value).unwrap()).unwrap(), &value);
        }
    }

    #[test]
    fn a_value_that_will_be_wiped_is_the_same_value() {
        let value = Value::from("hunter2");
        assert_eq!(value.clone().wiped(), value);
        assert_eq!(Value::from(zeroize::Zeroizing::new(b"hunter2".to_vec())), value);
        assert_eq!(Value::default().wiped(), Value::default());
    }

    #[test]
    fn a_value_is_never_shown_by_debug() {
        assert_eq!(format!("{:?}", Value::from("hunter2")), "Value(7 bytes)");
    }

    #[test]
    fn content_types_are_bounded() {
        assert!("text/plain".parse::<ContentType>().is_ok());
        for bad in ["", "text", "/x", "x/", "a/b\n", &format!("a/{}", "b".repeat(127))] {
            assert!(bad.parse::<ContentType>().is_err(), "{bad:?} was taken");
        }
    }
}
