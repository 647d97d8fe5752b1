//! What an identity token says, and how it is written (RFC 7515, RFC 7519).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorline_shared::{Principal, Timestamp};
use serde_json::{Value as Json, json};

use super::keys::TOKEN_SECONDS;
use super::model::Subject;

/// The claims of a token that is made at `now`.
pub(super) fn claims(issuer: &str, subject: &Subject, audience: &str, id: &str, now: Timestamp) -> Json {
    let at = now.millis().div_euclid(1_000);
    let mut claims = json!({
        "iss": issuer,
        "sub": Principal::Instance(subject.instance).to_string(),
        "aud": audience,
        "iat": at,
        "nbf": at,
        "exp": at + i64::from(TOKEN_SECONDS),
        "jti": id,
        "account": subject.account,
        "instance": subject.instance,
        "host": subject.host,
        "zone": subject.zone,
    });
    if let Some(image) = &subject.image {
        claims["image"] = json!(image);
    }
    claims
}

/// A token with these claims, signed with the key of this id; `None` if it can't be signed.
pub(super) fn signed(
    key: &str,
    claims: &Json,
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<String> {
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": key });
    let part = |json: &Json| URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!("{}.{}", part(&header), part(claims));
    let signature = sign(text.as_bytes())?;
    Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
