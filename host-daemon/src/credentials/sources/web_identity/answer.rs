//! The answer of a security token service: XML, of which only what the API documents is taken.
//!
//! This reads elements, their texts and the five named entities, and nothing else: a document type, a comment, a
//! section of raw characters, text beside an element or an element that is not closed make the whole answer invalid.
//! Attributes are passed over.

use moorline_shared::Timestamp;
use moorline_shared::credential::Aws;
use moorline_shared::secret::Secret;
use zeroize::Zeroizing;

/// How deep elements may lie in each other.
const MAX_DEPTH: usize = 8;
/// Where the credentials are.
const CREDENTIALS: [&str; 3] = [
    "AssumeRoleWithWebIdentityResponse",
    "AssumeRoleWithWebIdentityResult",
    "Credentials",
];

/// Why an answer is none. It never says what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::credentials) enum AnswerError {
    /// Not XML, or more of XML than such an answer has.
    #[error("the service's answer is not plain XML (at byte {0})")]
    Form(usize),
    /// Something is not there, or there twice.
    #[error("the service's answer doesn't have {0} exactly once")]
    Field(&'static str),
    /// Not a date.
    #[error("the service's answer has an Expiration that is no date")]
    Expiration,
}

/// Reads the credentials, and until when they are good.
pub(super) fn read(answer: &[u8]) -> Result<(Aws, Timestamp), AnswerError> {
    let text = std::str::from_utf8(answer).map_err(|error| AnswerError::Form(error.valid_up_to()))?;
    let mut fields = Fields::default();
    walk(text, |path, text| {
        let (Some((name, parents)), true) = (path.split_last(), path.len() == CREDENTIALS.len() + 1) else {
            return Ok(());
        };
        if parents == CREDENTIALS {
            fields.take(name, text)
        } else {
            Ok(())
        }
    })?;
    fields.credentials()
}

/// What a service says of why it refused: its error's code and message, or nothing.
pub(super) fn reason(answer: &[u8]) -> Vec<u8> {
    let mut said = String::new();
    let text = String::from_utf8_lossy(answer);
    // Whatever was read before something went wrong is better than nothing.
    let _ = walk(&text, |path, text| {
        if let ["ErrorResponse", "Error", "Code" | "Message"] = path {
            said.push_str(text);
            said.push(' ');
        }
        Ok(())
    });
    said.into_bytes()
}

#[derive(Default)]
struct Fields {
    key_id: Option<Zeroizing<String>>,
    key: Option<Zeroizing<String>>,
    token: Option<Zeroizing<String>>,
    expiration: Option<Zeroizing<String>>,
}

impl Fields {
    fn take(&mut self, name: &str, text: &Zeroizing<String>) -> Result<(), AnswerError> {
        let (field, name) = match name {
            "AccessKeyId" => (&mut self.key_id, "AccessKeyId"),
            "SecretAccessKey" => (&mut self.key, "SecretAccessKey"),
            "SessionToken" => (&mut self.token, "SessionToken"),
            "Expiration" => (&mut self.expiration, "Expiration"),
            _ => return Ok(()),
        };
        match field.replace(text.clone()) {
            None => Ok(()),
            Some(_) => Err(AnswerError::Field(name)),
        }
    }

    fn credentials(self) -> Result<(Aws, Timestamp), AnswerError> {
        let text = |field: Option<Zeroizing<String>>, name| {
            let text = field.ok_or(AnswerError::Field(name))?;
            Ok(Secret::from(text.as_str().to_owned()))
        };
        let aws = Aws {
            access_key_id: text(self.key_id, "AccessKeyId")?.expose().to_owned(),
            secret_access_key: text(self.key, "SecretAccessKey")?,
            session_token: Some(text(self.token, "SessionToken")?),
            account_id: None,
        };
        let expiration = text(self.expiration, "Expiration")?;
        let until = expiration.expose().parse().map_err(|_| AnswerError::Expiration)?;
        Ok((aws, until))
    }
}

/// Calls `leaf` with the path and the text of each element that has no other in it.
fn walk(
    text: &str,
    mut leaf: impl FnMut(&[&str], &Zeroizing<String>) -> Result<(), AnswerError>,
) -> Result<(), AnswerError> {
    let mut rest = prolog(text);
    let (mut path, mut depth_of_last) = (Vec::<&str>::new(), 0);
    let at = |rest: &str| AnswerError::Form(text.len() - rest.len());
    loop {
        let open = rest.find('<').ok_or_else(|| at(rest))?;
        let (between, tag) = rest.split_at(open);
        let is_blank = between.trim().is_empty();
        let close = tag.find('>').ok_or_else(|| at(rest))?;
        let (tag, after) = (&tag[1..close], &tag[close + 1..]);
        if let Some(name) = tag.strip_prefix('/') {
            if path.last() != Some(&name.trim_end()) {
                return Err(at(rest));
            }
            match (depth_of_last == path.len(), is_blank) {
                (true, _) => leaf(&path, &plain(between).ok_or_else(|| at(rest))?)?,
                (false, true) => {}
                (false, false) => return Err(at(rest)),
            }
            path.pop();
        } else {
            let name = element(tag).filter(|_| is_blank && path.len() < MAX_DEPTH);
            let name = name.ok_or_else(|| at(rest))?;
            depth_of_last = path.len() + 1;
            if !tag.ends_with('/') {
                path.push(name);
            }
        }
        rest = after;
        if path.is_empty() {
            let done = rest.trim().is_empty();
            return if done { Ok(()) } else { Err(at(rest)) };
        }
    }
}

/// What follows the declaration, if there is one.
fn prolog(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    match text.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")) {
        Some((_, rest)) => rest.trim_start(),
        None => text,
    }
}

/// The name in a tag that begins an element. Comments, declarations and instructions have none.
fn element(tag: &str) -> Option<&str> {
    let name = tag.split([' ', '\t', '\r', '\n', '/']).next()?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (begins && name.chars().all(valid)).then_some(name)
}

/// A text without its entities, and without the white space around it.
fn plain(text: &str) -> Option<Zeroizing<String>> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text.trim();
    while let Some(begin) = rest.find('&') {
        let (before, entity) = rest.split_at(begin);
        let (name, after) = entity[1..].split_once(';')?;
        plain.push_str(before);
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => return None,
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}
