//! A role's credentials in the forms that other programs read.

use std::fmt::Write as _;
use std::str::FromStr;

use moorline_shared::agent::{CredentialFields, RoleCredentials};
use moorline_shared::credential::{Aws, CredentialKind};
use moorline_shared::secret::Secret;
use moorline_shared::{Timestamp, id::RoleName};
use serde::Serialize;

/// How credentials are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// For a shell's `eval`: an `export` per variable.
    Env,
    /// As the agent's socket has them.
    #[default]
    Json,
    /// As the AWS SDKs read them from a `credential_process`.
    Process,
}

impl FromStr for Form {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "env" => Ok(Self::Env),
            "json" => Ok(Self::Json),
            "process" => Ok(Self::Process),
            _ => Err("it is env, json or process"),
        }
    }
}

/// The credentials have no such form.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credentials of role '{role}' are of kind {kind}, and a credential_process has those of kind aws; use --format json"
)]
pub(super) struct FormError {
    role: RoleName,
    kind: CredentialKind,
}

/// Version 1 of what a `credential_process` writes.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process<'a> {
    version: u8,
    #[serde(flatten)]
    aws: &'a Aws,
    /// Without a fraction of a second, which not every SDK reads.
    expiration: String,
}

impl Form {
    /// The text, a line or more.
    pub(super) fn of(self, given: &RoleCredentials) -> Result<String, FormError> {
        let text = match (self, &given.credentials) {
            (Self::Env, fields) => env(fields, given.held.expires_at),
            (Self::Json, _) => json(given),
            (Self::Process, CredentialFields::Aws(aws)) => json(&Process {
                version: 1,
                aws,
                expiration: given.held.expires_at.to_the_second(),
            }),
            (Self::Process, CredentialFields::Bearer(_)) => {
                return Err(FormError {
                    role: given.held.role.clone(),
                    kind: given.held.kind,
                });
            }
        };
        Ok(text)
    }
}

fn json(document: &impl Serialize) -> String {
    // Our documents are structs of texts, which are always JSON.
    let mut text = serde_json::to_string(document).unwrap_or_default();
    text.push('\n');
    text
}

fn env(fields: &CredentialFields, expires_at: Timestamp) -> String {
    let expiration = expires_at.to_the_second();
    let variables = match fields {
        CredentialFields::Aws(aws) => vec![
            ("AWS_ACCESS_KEY_ID", Some(aws.access_key_id.as_str())),
            ("AWS_SECRET_ACCESS_KEY", Some(aws.secret_access_key.expose())),
            (
                "AWS_SESSION_TOKEN",
                aws.session_token.as_ref().map(Secret::expose),
            ),
            ("AWS_CREDENTIAL_EXPIRATION", Some(expiration.as_str())),
        ],
        CredentialFields::Bearer(bearer) => vec![
            ("MOORLINE_TOKEN", Some(bearer.token.expose())),
            ("MOORLINE_TOKEN_EXPIRATION", Some(expiration.as_str())),
        ],
    };
    variables
        .into_iter()
        .fold(String::new(), |mut text, (name, value)| {
            // Writing to a string can't fail. What is absent must not stay from a role that was used before.
            let _ = match value {
                Some(value) => writeln!(text, "export {name}={}", quoted(value)),
                None => writeln!(text, "unset {name}"),
            };
            text
        })
}

/// The text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use moorline_shared::Timestamp;
    use moorline_shared::agent::{CredentialFields, RoleCredentials, RoleHeld};
    use moorline_shared::credential::{Aws, Bearer, CredentialKind};
    use moorline_shared::secret::Secret;

    use super::Form;

    fn given(kind: CredentialKind, credentials: CredentialFields) -> RoleCredentials {
        let held = RoleHeld {
            role: "backup".parse().unwrap(),
            kind,
            expires_at: Timestamp::from_millis(1_800_000_000_999).unwrap(),
            expires_in_ms: 5,
        };
        RoleCredentials { held, credentials }
    }

    fn aws(token: Option<&str>) -> RoleCredentials {
        let aws = Aws {
            access_key_id: "AKIA".to_owned(),
            secret_access_key: Secret::from("it's/a+key".to_owned()),
            session_token: token.map(|token| Secret::from(token.to_owned())),
            account_id: None,
        };
        given(CredentialKind::Aws, CredentialFields::Aws(aws))
    }

    fn bearer() -> RoleCredentials {
        let token = Secret::from("$(rm)".to_owned());
        given(CredentialKind::Bearer, CredentialFields::Bearer(Bearer { token }))
    }

    #[test]
    fn a_shell_reads_back_what_was_given() {
        let script = Form::Env.of(&aws(Some("tok\"en"))).unwrap() + &Form::Env.of(&bearer()).unwrap();
        let script = format!(
            "{script}printf '%s %s %s' \"$AWS_SECRET_ACCESS_KEY\" \"$AWS_SESSION_TOKEN\" \"$MOORLINE_TOKEN\""
        );
        let shell = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(shell.stdout).unwrap(),
            "it's/a+key tok\"en $(rm)"
        );
    }

    #[test]
    fn what_another_role_left_is_unset() {
        let text = Form::Env.of(&aws(None)).unwrap();
        assert!(text.contains("\nunset AWS_SESSION_TOKEN\n"), "{text}");
    }

    #[test]
    fn a_credential_process_has_the_words_of_the_sdks() {
        let text = Form::Process.of(&aws(Some("t"))).unwrap();
        let expected = serde_json::json!({
            "Version": 1,
            "AccessKeyId": "AKIA",
            "SecretAccessKey": "it's/a+key",
            "SessionToken": "t",
            "Expiration": "2027-01-15T08:00:00Z",
        });
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            expected
        );
        let refused = Form::Process.of(&bearer()).unwrap_err().to_string();
        assert!(
            refused.contains("kind bearer") && refused.contains("--format json"),
            "{refused}"
        );
    }

    #[test]
    fn json_reads_back_whole() {
        for given in [aws(Some("t")), bearer()] {
            let text = Form::Json.of(&given).unwrap();
            assert_eq!(
                serde_json::from_str::<super::RoleCredentials>(&text).unwrap(),
                given
            );
        }
    }
}
