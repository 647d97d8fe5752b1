//! Requests signed as a guest signs them that made no key of its own: with the key that came with its token.

use anyhow::{Context, Result};
use hmac::{Hmac, Mac as _};
use moorline_shared::Digest;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::link::body::Session;
use moorline_shared::signature::{
    self, Algorithm, CONTENT_DIGEST, GUEST, Request, Seconds, TOKEN, content_digest, guest_input,
};
use sha2::Sha256;
use std::time::{SystemTime, UNIX_EPOCH};

/// The fields of a request that is signed now, with an idempotency key and a nonce that nobody had before.
///
/// Fails when the target or the authority can't be signed.
pub fn signed(
    session: &Session,
    authority: &str,
    method: &str,
    target: &str,
    body: &[u8],
) -> Result<Vec<(String, String)>> {
    let own = [
        (CONTENT_DIGEST, content_digest::write(&Digest::of(body))),
        (TOKEN, session.token.expose().to_owned()),
        (IDEMPOTENCY_KEY, fresh()?),
    ];
    let fields = own.each_ref().map(|(name, value)| (*name, value.as_str()));
    let request = Request {
        method,
        authority,
        target,
        fields: &fields,
    };
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)?
        .as_secs()
        .cast_signed();
    let nonce = fresh()?;
    let input = guest_input(
        &request,
        Seconds(created),
        &nonce,
        &session.token_id,
        Algorithm::HmacSha256,
    );
    let base = request.base(&input).context("what is signed")?;
    let mut key = Hmac::<Sha256>::new_from_slice(session.key.expose())
        .map_err(|_| anyhow::anyhow!("HMAC takes keys of any length"))?;
    key.update(base.as_bytes());
    let signature = signature::fields(GUEST, &input, &key.finalize().into_bytes());
    let all = own.into_iter().chain(signature);
    Ok(all.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn fresh() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("random bytes")?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
