//! What a program on the AWS SDK for Rust finds in a guest: it asks the SDK's own chain of providers for credentials, as
//! any program does that was told nothing, and prints them as a line of JSON with how long that took.
//!
//! It is for the lab's tests only: credentials that count are never printed.

use std::time::Instant;

use anyhow::{Context as _, Result};
use aws_config::BehaviorVersion;
use aws_credential_types::provider::ProvideCredentials as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let begun = Instant::now();
    // What a guest serves is plain HTTP; the SDK's usual client would bring a second library for cryptography.
    let client = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .load()
        .await;
    let provider = config
        .credentials_provider()
        .context("the SDK has no provider of credentials")?;
    let found = provider
        .provide_credentials()
        .await
        .context("the SDK found no credentials")?;
    let expires = found.expiry().context("these credentials never expire")?;
    println!(
        r#"{{"key":"{}","secret":"{}","token":"{}","expires":{},"region":"{}","took_ms":{}}}"#,
        found.access_key_id(),
        found.secret_access_key(),
        found.session_token().unwrap_or_default(),
        expires.duration_since(std::time::UNIX_EPOCH)?.as_secs(),
        config.region().map(ToString::to_string).unwrap_or_default(),
        begun.elapsed().as_millis(),
    );
    Ok(())
}
