//! What is no entry: documents that are made, and names that the data give.

use bytes::Bytes;
use moorline_shared::access::Tag;
use moorline_shared::credential::{Aws, Credential};
use moorline_shared::id::RoleName;
use moorline_shared::{PathPrefix, Timestamp};
use serde::Serialize;

use super::tree::{Name, Shown, State};
use crate::credentials::RoleCredential;

/// Where the keys are that may log in: an entry for each.
const PUBLIC_KEYS: &str = "public-keys";

/// The form of the identity document that this is.
const DOCUMENT_VERSION: &str = "2017-09-30";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    instance_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    version: &'static str,
}

/// Who the instance is.
pub(super) fn identity(state: &State<'_>) -> Option<Bytes> {
    json(&Identity {
        account_id: state.string("meta/account"),
        availability_zone: state.string("meta/zone"),
        image_id: state.string("meta/image"),
        instance_id: state.string("meta/instance-id")?,
        instance_type: state.string("meta/instance-type"),
        region: state.string("meta/region"),
        version: DOCUMENT_VERSION,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IamInfo {
    code: &'static str,
    last_updated: String,
    instance_profile_arn: String,
    instance_profile_id: String,
}

/// As what the instance acts: its first role, as a profile.
pub(super) fn iam_info(state: &State<'_>) -> Option<Bytes> {
    let (given, aws) = aws_roles(state).next()?;
    let named = aws.account_id.clone().or_else(|| state.string("meta/account"));
    let account = named.unwrap_or_default();
    json(&IamInfo {
        code: "Success",
        last_updated: updated(state, given).to_the_second(),
        instance_profile_arn: format!("arn:aws:iam::{account}:instance-profile/{}", given.role),
        instance_profile_id: given.role.to_string(),
    })
}

/// The credentials of roles that are good now, that the peer may have, and that are of the kind that these paths show.
fn aws_roles<'a>(state: &'a State<'_>) -> impl Iterator<Item = (&'a RoleCredential, &'a Aws)> {
    let allowed = state
        .held
        .roles(state.now)
        .filter(|given| state.backing.may_assume(state.peer, &given.role));
    allowed.filter_map(|given| match &given.credential {
        Credential::Aws(aws) => Some((&**given, aws)),
        Credential::Bearer(_) => None,
    })
}

/// The names of those roles.
pub(super) fn roles(state: &State<'_>) -> Vec<Name> {
    aws_roles(state)
        .map(|(given, _)| name(given.role.as_str()))
        .collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    code: &'static str,
    last_updated: String,
    #[serde(rename = "Type")]
    kind: &'static str,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: String,
}

/// The credentials of a role, all of one making.
pub(super) fn role_credentials(state: &State<'_>, role: &str) -> Option<Shown> {
    let role: RoleName = role.parse().ok()?;
    let (given, aws) = aws_roles(state).find(|(given, _)| given.role == role)?;
    let document = Credentials {
        code: "Success",
        last_updated: updated(state, given).to_the_second(),
        kind: "AWS-HMAC",
        access_key_id: &aws.access_key_id,
        secret_access_key: aws.secret_access_key.expose(),
        token: aws.session_token.as_ref().map_or("", |token| token.expose()),
        expiration: given.expires_at.to_the_second(),
    };
    json(&document).map(Shown::Json)
}

/// The present time by the host's calendar, as of which these credentials are the latest.
fn updated(state: &State<'_>, given: &RoleCredential) -> Timestamp {
    let left = i64::try_from(given.deadline.since(state.now)).unwrap_or(i64::MAX);
    let now = given.expires_at.millis().saturating_sub(left);
    Timestamp::from_millis(now).unwrap_or(given.expires_at)
}

/// The keys, by their place: `0=NAME` in the listing.
pub(super) fn public_keys(state: &State<'_>) -> Vec<Name> {
    let keys = (0..).zip(key_paths(state));
    let name = |(place, path): (usize, String)| Name {
        segment: place.to_string(),
        listed: Some(format!("{place}={}", path.rsplit('/').next().unwrap_or_default())),
    };
    keys.map(name).collect()
}

/// A key by its place.
pub(super) fn public_key(state: &State<'_>, place: &str) -> Option<Shown> {
    let place: usize = place
        .parse()
        .ok()
        .filter(|number: &usize| number.to_string() == place)?;
    let path = key_paths(state).into_iter().nth(place)?;
    state.text(&path).map(Shown::Text)
}

fn key_paths(state: &State<'_>) -> Vec<String> {
    let Ok(prefix) = PUBLIC_KEYS.parse::<PathPrefix>() else {
        return Vec::new();
    };
    let keys = state.view.list(&prefix, state.now);
    keys.map(|entry| entry.path().to_string()).collect()
}

/// The keys of the instance's tags that can stand in a path and on a line.
pub(super) fn tags(state: &State<'_>) -> Vec<Name> {
    all_tags(state).iter().map(|tag| name(tag.key())).collect()
}

/// The value of a tag.
pub(super) fn tag(state: &State<'_>, key: &str) -> Option<Shown> {
    let tags = all_tags(state);
    let tag = tags.iter().find(|tag| tag.key() == key)?;
    Some(Shown::Text(tag.value().to_owned().into()))
}

fn all_tags(state: &State<'_>) -> Vec<Tag> {
    let bytes = state.bytes("meta/tags");
    let tags: Option<Vec<Tag>> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut tags = tags.unwrap_or_default();
    tags.retain(|tag| is_name(tag.key()));
    tags
}

/// Whether a key can be a name in a listing: clients strip each line and ask for what is left, and one that then answers
/// 404 makes cloud-init throw everything away. These are the characters of EC2's tags in metadata, and single spaces.
fn is_name(key: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-.,_:@".contains(c);
    let mut words = key.split(' ');
    words.all(|word| !word.is_empty() && word.chars().all(is_plain)) && key != "." && key != ".."
}

fn name(segment: &str) -> Name {
    Name {
        segment: segment.to_owned(),
        listed: None,
    }
}

fn json(document: &impl Serialize) -> Option<Bytes> {
    serde_json::to_vec(document).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn only_keys_that_stay_what_they_are_on_a_line_are_names() {
        for key in ["role", "a b", "aws:name", "a.b-c_d,e+f@g", "0"] {
            assert!(is_name(key), "{key}");
        }
        for key in [
            "",
            " a",
            "a ",
            "a  b",
            "a/b",
            "a\nb",
            "a\u{2028}b",
            "a\u{85}b",
            "a\tb",
            "é",
            ".",
            "..",
        ] {
            assert!(!is_name(key), "{key:?}");
        }
    }
}
