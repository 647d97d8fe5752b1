//! Credentials of a role: what an instance is given to be somebody at another service.
//!
//! A host's sources make them, the guest link carries them as a kind and a JSON document, and the agent gives them to
//! programs in whatever form these ask for. A [`Credential`] that exists can be put into a header, a line of a shell
//! script or a JSON document as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The most roles an instance has.
pub const MAX_ROLES: usize = 16;
/// The longest document of a credential in bytes: with its frame it is well below what a frame holds.
pub const MAX_DOCUMENT_BYTES: usize = 12 * 1024;

/// What kind of credential it is: `aws` or `bearer` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// A key id, a secret key and a session token, for requests signed as AWS wants them.
    Aws,
    /// A token that is good for whoever bears it.
    Bearer,
}

impl CredentialKind {
    /// The word on the wire and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Bearer => "bearer",
        }
    }
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CredentialKind {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "aws" => Ok(Self::Aws),
            "bearer" => Ok(Self::Bearer),
            other => Err(CredentialError::Kind(other.chars().take(32).collect())),
        }
    }
}

/// A credential, without its time: how long it is good is said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// See [`CredentialKind::Aws`].
    Aws(Aws),
    /// See [`CredentialKind::Bearer`].
    Bearer(Bearer),
}

/// The document of [`CredentialKind::Aws`], in the words of AWS's own tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Aws {
    /// Which key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret,
    /// What makes a temporary key valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
    /// The account that it is of, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
}

/// The document of [`CredentialKind::Bearer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bearer {
    /// The token.
    pub token: Secret,
}

/// Why something is not a credential. It never says what was in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a kind that this build knows.
    #[error("'{}' is not a kind of credential: there is aws and bearer", .0.escape_default())]
    Kind(String),
    /// More than a credential has.
    #[error("the document has {0} bytes, the most are {MAX_DOCUMENT_BYTES}")]
    TooLong(usize),
    /// Not the JSON of this kind.
    #[error("the document is not that of a credential of kind {kind} (line {line}, column {column})")]
    Document {
        /// Which kind it should be.
        kind: CredentialKind,
        /// Where it goes wrong.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// A text that can't be in a header or a script as it is.
    #[error("{0} is empty, or has other characters than printable ASCII")]
    Text(&'static str),
}

impl Credential {
    /// Reads a document of a kind, as it comes over the link. Fields that are not known are passed over.
    pub fn parse(kind: &str, document: &Secret) -> Result<Self, CredentialError> {
        let (kind, text) = (kind.parse()?, document.expose());
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(CredentialError::TooLong(text.len()));
        }
        let read = match kind {
            CredentialKind::Aws => serde_json::from_str(text).map(Self::Aws),
            CredentialKind::Bearer => serde_json::from_str(text).map(Self::Bearer),
        };
        // The parser's own words may quote the document.
        let read = read.map_err(|error| CredentialError::Document {
            kind,
            line: error.line(),
            column: error.column(),
        })?;
        read.checked()
    }

    /// The credential, if everything in it can be put into a header as it is.
    pub fn checked(self) -> Result<Self, CredentialError> {
        match &self {
            Self::Aws(aws) => {
                printable("AccessKeyId", &aws.access_key_id)?;
                printable("SecretAccessKey", aws.secret_access_key.expose())?;
                let token = aws.session_token.as_ref();
                token.map_or(Ok(()), |token| printable("SessionToken", token.expose()))?;
                let account = aws.account_id.as_ref();
                account.map_or(Ok(()), |account| printable("AccountId", account))?;
            }
            Self::Bearer(bearer) => printable("token", bearer.token.expose())?,
        }
        let length = self.document().expose().len();
        if length > MAX_DOCUMENT_BYTES {
            return Err(CredentialError::TooLong(length));
        }
        Ok(self)
    }

    /// Which kind it is.
    pub const fn kind(&self) -> CredentialKind {
        match self {
            Self::Aws(_) => CredentialKind::Aws,
            Self::Bearer(_) => CredentialKind::Bearer,
        }
    }

    /// The document that [`Credential::parse`] reads.
    pub fn document(&self) -> Secret {
        // Structs of texts are always JSON.
        let text = match self {
            Self::Aws(aws) => serde_json::to_string(aws),
            Self::Bearer(bearer) => serde_json::to_string(bearer),
        };
        Secret::from(text.unwrap_or_default())
    }
}

fn printable(what: &'static str, text: &str) -> Result<(), CredentialError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(CredentialError::Text(what))
    }
}

#[cfg(test)]
mod tests {
    use super::{Aws, Bearer, Credential, CredentialError, MAX_DOCUMENT_BYTES};
    use crate::secret::Secret;
    use proptest::prelude::*;

    fn secret(text: impl Into<String>) -> Secret {
        Secret::from(text.into())
    }

    proptest! {
        #[test]
        fn documents_round_trip(id in "[!-~]{1,40}", key in "[!-~]{1,80}", token in proptest::option::of("[!-~]{1,900}")) {
            let aws = Aws {
                access_key_id: id,
                secret_access_key: secret(key.clone()),
                session_token: token.map(secret),
                account_id: None,
            };
            for credential in [Credential::Aws(aws), Credential::Bearer(Bearer { token: secret(key) })] {
                let read = Credential::parse(credential.kind().as_str(), &credential.document());
                prop_assert_eq!(read, Ok(credential));
            }
        }

        #[test]
        fn no_refusal_shows_what_was_in_the_document(text in "\\PC{0,60}", kind in "aws|bearer") {
            let hidden = format!("{{\"token\":\"sesame\u{7}{text}\",\"AccessKeyId\":\"sesame\",\"SecretAccessKey\":5}}");
            if let Err(error) = Credential::parse(&kind, &secret(hidden)) {
                let said = format!("{error} {error:?}");
                prop_assert!(!said.contains("sesame"), "{}", said);
            }
        }
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let parse = |kind, text: &str| Credential::parse(kind, &secret(text));
        assert!(matches!(parse("x509", "{}"), Err(CredentialError::Kind(_))));
        assert!(matches!(
            parse("aws", "{}"),
            Err(CredentialError::Document { .. })
        ));
        assert_eq!(
            parse("bearer", r#"{"token":"a b"}"#),
            Err(CredentialError::Text("token"))
        );
        assert_eq!(
            parse("bearer", r#"{"token":""}"#),
            Err(CredentialError::Text("token"))
        );
        let long = format!("{{\"token\":\"{}\"}}", "a".repeat(MAX_DOCUMENT_BYTES));
        assert!(matches!(parse("bearer", &long), Err(CredentialError::TooLong(_))));
    }

    #[test]
    fn a_field_of_tomorrow_is_passed_over() {
        let read = Credential::parse("bearer", &secret(r#"{"token":"t","scope":"x"}"#));
        assert_eq!(read, Ok(Credential::Bearer(Bearer { token: secret("t") })));
    }
}
