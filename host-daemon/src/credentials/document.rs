//! What a command prints: version 1 of a `credential_process` of the AWS SDKs, or a bearer token.
//!
//! ```json
//! {"Version": 1, "AccessKeyId": "...", "SecretAccessKey": "...", "SessionToken": "...", "Expiration": "2026-01-31T12:00:00Z"}
//! {"kind": "bearer", "token": "...", "expires_at": "2026-01-31T12:00:00Z"}
//! ```

use moorline_shared::Timestamp;
use moorline_shared::credential::{Aws, Bearer, Credential, CredentialError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why a text is no credential. It never says what is in the text.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    /// It is not JSON, or not an object with the right fields.
    #[error(
        "what came is no credential document (line {line}, column {column}): print AccessKeyId, SecretAccessKey, \
         SessionToken and Expiration as a credential_process does, or kind, token and expires_at"
    )]
    Form {
        /// Where it goes wrong.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// A version that there was not when this was written.
    #[error("the credential document is of version {0}; version 1 is understood")]
    Version(u32),
    /// A kind that can't be printed.
    #[error("the credential document is of another kind than bearer")]
    Kind,
    /// It can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    version: u32,
    #[serde(flatten)]
    aws: Aws,
    expiration: Timestamp,
}

#[derive(Deserialize)]
struct Printed {
    #[serde(flatten)]
    bearer: Bearer,
    expires_at: Timestamp,
}

/// Reads what a command printed: the credential, and until when it is good.
pub(super) fn read(text: &[u8]) -> Result<(Credential, Timestamp), DocumentError> {
    match parse::<Kind>(text)?.kind.as_deref() {
        None | Some("aws") => {
            let process: Process = parse(text)?;
            if process.version != 1 {
                return Err(DocumentError::Version(process.version));
            }
            Ok((Credential::Aws(process.aws).checked()?, process.expiration))
        }
        Some("bearer") => {
            let printed: Printed = parse(text)?;
            Ok((Credential::Bearer(printed.bearer).checked()?, printed.expires_at))
        }
        Some(_) => Err(DocumentError::Kind),
    }
}

/// The parser's own words may quote the text, so only the place is kept.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(text).map_err(|error| DocumentError::Form {
        line: error.line(),
        column: error.column(),
    })
}

#[cfg(test)]
mod tests {
    use super::read;
    use moorline_shared::credential::{Credential, CredentialKind};

    const AWS: &str = r#"{"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "sesame", "SessionToken": "t",
        "Expiration": "2027-01-15T08:00:00Z"}"#;

    #[test]
    fn what_commands_print_is_read() {
        let (credential, until) = read(AWS.as_bytes()).unwrap();
        let Credential::Aws(aws) = credential else {
            panic!("of another kind")
        };
        assert_eq!(
            (aws.access_key_id.as_str(), aws.secret_access_key.expose()),
            ("AKIA", "sesame")
        );
        assert_eq!(until.millis(), 1_800_000_000_000);
        let bearer = br#"{"kind": "bearer", "token": "t", "expires_at": "2027-01-15T08:00:00Z"}"#;
        assert_eq!(read(bearer).unwrap().0.kind(), CredentialKind::Bearer);
    }

    #[test]
    fn what_is_none_is_refused_and_not_shown() {
        for text in [
            "",
            "[]",
            "null",
            "sesame",
            &AWS[..AWS.len() - 1],
            &AWS.replace("1,", "2,"),
            &AWS.replace("\"sesame\"", "{\"sesame\": 1}"),
            &AWS.replace("sesame", "ses ame"),
            &AWS.replace("2027-01-15T08:00:00Z", "sesame"),
            &AWS.replace("\"Expiration\"", "\"sesame\""),
            r#"{"kind": "sesame", "token": "t"}"#,
            r#"{"kind": "bearer", "token": 5, "expires_at": "sesame"}"#,
        ] {
            let said = read(text.as_bytes()).unwrap_err();
            let said = format!("{said} {said:?}");
            assert!(!said.contains("sesame"), "{text}: {said}");
        }
    }
}
