//! What a token says.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use moorline_shared::id::{ClientName, DirectoryName};
use moorline_shared::{AccountId, Principal, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// To be exchanged for other tokens, once.
    Code = 1,
    /// To be shown with a request.
    Access = 2,
    /// To be exchanged for fresh tokens.
    Refresh = 3,
    /// Both of these in one.
    AccessAndRefresh = 4,
    /// An instance's own, by which it is known.
    Instance = 5,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Code,
        Self::Access,
        Self::Refresh,
        Self::AccessAndRefresh,
        Self::Instance,
    ];

    /// What a token of this kind begins with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Code => "mlc_",
            Self::Access => "mla_",
            Self::Refresh => "mlr_",
            Self::AccessAndRefresh => "mlb_",
            Self::Instance => "mli_",
        }
    }

    /// The kind that `text` begins with the prefix of, and the rest of it.
    pub fn strip(text: &str) -> Option<(Self, &str)> {
        let rest = |kind: Self| Some((kind, text.strip_prefix(kind.prefix())?));
        Self::ALL.into_iter().find_map(rest)
    }
}

/// The text is not the id of a session or a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{1}' is not such an id: write {0}- and 32 lowercase hexadecimal digits")]
pub struct TokenIdError(&'static str, String);

/// 32 lowercase hexadecimal digits.
fn digits(text: &str) -> Option<[u8; 16]> {
    let valid = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let number = u128::from_str_radix(text, 16).ok().filter(|_| valid)?;
    Some(number.to_be_bytes())
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type([u8; 16]);

        impl $type {
            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "-{:032x}"), u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = TokenIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let id = text.strip_prefix(concat!($letter, "-")).and_then(digits);
                id.map(Self).ok_or_else(|| TokenIdError($letter, text.chars().take(64).collect()))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A session: what somebody who proved who they are has until it ends. As text `s-` and 32 hexadecimal digits.
    SessionId, "s");
id!(
    /// One token. As text `t-` and 32 hexadecimal digits. It is no secret: records name tokens by it.
    TokenId, "t");

/// Which of a session's grants a code or a refresh token is for, and which turn of it: it is good while the session
/// says the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The slot in the session, 0 to 31.
    pub slot: u8,
    /// How many grants have had the slot before this one.
    pub generation: u32,
    /// How often the slot's tokens have been exchanged when this one was made.
    pub counter: u32,
}

/// What a token says. There is nothing in it that a change of rights would have to take back: what somebody may do is
/// found by who they are when they do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// What it is good for.
    pub kind: Kind,
    /// Which token it is.
    pub token: TokenId,
    /// The session that it falls with.
    pub session: SessionId,
    /// The grant that it belongs to.
    pub grant: Grant,
    /// When it was made.
    pub issued: Timestamp,
    /// When it ends. From that millisecond on it is refused.
    pub expires: Timestamp,
    /// Who shows it.
    pub subject: Principal,
    /// The directory that knows the subject.
    pub directory: DirectoryName,
    /// The account that it acts in.
    pub account: AccountId,
    /// The client that it was given to, if it was given to one.
    pub client: Option<ClientName>,
    /// For an instance's token: the life of its VM that it was made for.
    pub incarnation: Option<u64>,
}
