//! Who and what: instances, hosts, accounts, users, operations, and the principals that act.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::digest::{Digest, hex_into};

/// An instance for its whole life, whatever its host and however often it starts: `i-` and 32 lowercase
/// hexadecimal digits as text, 16 bytes on the guest link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id as a UUID, as DMI tables and VM managers know it.
    pub const fn uuid(&self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for InstanceId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i-{}", self.0.as_simple())
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the id of an instance.
    #[error("'{0}' is not an instance id: write i- and 32 lowercase hexadecimal digits")]
    Instance(String),
    /// Not the id of an operation.
    #[error("'{0}' is not an operation id: write op- and 64 lowercase hexadecimal digits")]
    Operation(String),
    /// Not a name.
    #[error("'{text}' is not {what}: a name is 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit")]
    Name {
        /// What the name is of, with its article.
        what: &'static str,
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// Not a principal.
    #[error("'{0}' is not a principal: write user:NAME, instance:ID, host:NAME or service:NAME")]
    Principal(String),
    /// Not an idempotency key.
    #[error("an idempotency key is 1 to 128 printable ASCII characters without spaces")]
    IdempotencyKey,
}

/// What was given, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl FromStr for InstanceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        text.strip_prefix("i-")
            .and_then(|digits| hex_into(digits, &mut bytes))
            .ok_or_else(|| IdError::Instance(shown(text)))?;
        Ok(Self::from_bytes(bytes))
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.bytes().serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            Deserialize::deserialize(d).map(Self::from_bytes)
        }
    }
}

/// One operation, once: made of the principal and its idempotency key, so that a retry finds its first attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(Digest);

impl OperationId {
    /// The id of what `principal` asks under `key`.
    pub fn derive(principal: &Principal, key: &IdempotencyKey) -> Self {
        Self(Digest::of_parts([
            principal.to_string().as_bytes(),
            key.0.as_bytes(),
        ]))
    }

    /// The bytes that everything fresh in this operation is made of.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl From<Digest> for OperationId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op-{}", self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for OperationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digest = text.strip_prefix("op-").and_then(|digits| digits.parse().ok());
        digest.map(Self).ok_or_else(|| IdError::Operation(shown(text)))
    }
}

/// Gives a type with `Display` and `FromStr` the same text in serde.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;

serde_as_text!(OperationId);

/// What a client sends with a change so that sending it again changes nothing more: 1 to 128 printable ASCII
/// characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Box<str>);

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(IdError::IdempotencyKey)
        }
    }
}

serde_as_text!(IdempotencyKey);

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && text.as_bytes()[0].is_ascii_alphanumeric()
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(IdError::Name { what: $what, text: shown(text) }) }
            }
        }

        serde_as_text!($type);
    };
}

name!(
    /// An account: what owns instances and what administrators administer.
    AccountId, "an account");
name!(
    /// A hypervisor host.
    HostId, "a host");
name!(
    /// A user of the directory.
    UserName, "a user");
name!(
    /// A group of users or of instances in an account.
    GroupName, "a group");
name!(
    /// A directory: what knows users and groups.
    DirectoryName, "a directory");
name!(
    /// An application or a program that tokens are given to.
    ClientName, "a client");
name!(
    /// A service of the control plane.
    ServiceName, "a service");
name!(
    /// A failure domain that hosts belong to.
    ZoneName, "a zone");
name!(
    /// What an instance boots from, as hosts know it in their configuration.
    ImageName, "an image");
name!(
    /// How many vCPUs and how much memory an instance gets, as the control plane knows it in its settings.
    TypeName, "an instance type");
name!(
    /// A role whose credentials instances are given, as hosts know it in their configuration.
    RoleName, "a role");

/// Whoever acts: `user:NAME`, `instance:ID`, `host:NAME` or `service:NAME` as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A person or a program with a user's credential.
    User(UserName),
    /// A guest, known by its channel and its host's word for it.
    Instance(InstanceId),
    /// A host daemon.
    Host(HostId),
    /// A part of the control plane.
    Service(ServiceName),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Instance(id) => write!(f, "instance:{id}"),
            Self::Host(name) => write!(f, "host:{name}"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

impl FromStr for Principal {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("user", name)) => name.parse().map(Self::User),
            Some(("instance", id)) => id.parse().map(Self::Instance),
            Some(("host", name)) => name.parse().map(Self::Host),
            Some(("service", name)) => name.parse().map(Self::Service),
            _ => Err(IdError::Principal(shown(text))),
        }
    }
}

serde_as_text!(Principal);

#[cfg(test)]
mod tests {
    use super::{AccountId, IdempotencyKey, InstanceId, OperationId, Principal};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn instance_ids_round_trip_as_text_json_and_bytes(bytes: [u8; 16]) {
            let id = InstanceId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
            prop_assert_eq!(serde_json::from_str::<InstanceId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
            let wire = postcard::to_stdvec(&id).unwrap();
            prop_assert_eq!(&wire[..], &bytes[..]);
            prop_assert_eq!(postcard::from_bytes::<InstanceId>(&wire).unwrap(), id);
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in "\\PC{0,80}") {
            let _ = (text.parse::<InstanceId>(), text.parse::<AccountId>(), text.parse::<Principal>());
        }
    }

    #[test]
    fn operations_of_two_principals_never_meet() {
        let key: IdempotencyKey = "k1".parse().unwrap();
        let [a, b] = ["user:a", "user:b"].map(|p| p.parse::<Principal>().unwrap());
        assert_ne!(OperationId::derive(&a, &key), OperationId::derive(&b, &key));
        assert_eq!(
            OperationId::derive(&a, &key).to_string().parse(),
            Ok(OperationId::derive(&a, &key))
        );
    }
}
