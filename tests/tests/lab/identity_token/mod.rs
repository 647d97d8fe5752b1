//! Identity tokens of instances, as a relying party sees them: with a library of other people's, by discovery.

mod web_identity;

use anyhow::{Context, Result, ensure};
use moorline_lab::cache::Cache;
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::seats;
use moorline_lab::image::Busybox;
use moorline_lab::process::finish;
use moorline_lab::setup::{self, python, tools};
use moorline_shared::api::instances::RunInstances;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use tokio::process::Command;

const VERIFIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/identity_token/verify.py");

/// What both tests stand on: the library that verifies, and the security token service that gives credentials.
const PACKAGES: &[&str] = &[
    "Authlib==1.6.5",
    "requests==2.32.5",
    "moto==5.2.5",
    "Flask==3.1.3",
    "flask-cors==6.0.5",
];

async fn python() -> Result<PathBuf> {
    python::with_packages(&Cache::open()?, PACKAGES).await
}

/// What the control plane calls itself in identity tokens.
fn issuer(deployment: &Deployment) -> String {
    format!("https://localhost:{}", deployment.control().port())
}

#[tokio::test]
async fn a_stock_library_verifies_the_identity_token_of_a_guest() -> Result<()> {
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let python = python().await?;
    let seats = seats(1).await;
    let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
    let request = RunInstances::of(IMAGE.parse()?, "micro".parse()?);
    let ids = deployment.run(&seats, &request).await?;
    let guest = deployment.guest(ids[0]).await?;
    guest
        .wait_for("moorline-agent get meta/instance-id", PATIENCE)
        .await?;

    let ask = "moorline-agent identity-token --audience https://relying.example";
    let token = guest.wait_for(ask, PATIENCE).await?;
    let claims = verified(&deployment, &python, &token, "https://relying.example").await?;
    let claims: Json = serde_json::from_str(&claims).with_context(|| format!("claims: {claims}"))?;
    ensure!(
        claims["sub"] == format!("instance:{}", ids[0]),
        "the claims are {claims}"
    );
    ensure!(
        claims["instance"] == ids[0].to_string(),
        "the claims are {claims}"
    );

    let elsewhere = verified(&deployment, &python, &token, "https://other.example").await;
    ensure!(elsewhere.is_err(), "it is taken by whom it isn't for");
    let (signed, signature) = token.rsplit_once('.').context("it has a signature")?;
    let middle = signature.len() / 2;
    let other = if &signature[middle..=middle] == "A" {
        "B"
    } else {
        "A"
    };
    let forged = format!(
        "{signed}.{}{other}{}",
        &signature[..middle],
        &signature[middle + 1..]
    );
    let forged = verified(&deployment, &python, &forged, "https://relying.example").await;
    ensure!(forged.is_err(), "a changed signature is taken");
    Ok(())
}

/// The token's claims, if the library finds it good for this audience.
async fn verified(deployment: &Deployment, python: &Path, token: &str, audience: &str) -> Result<String> {
    let mut command = Command::new(python);
    command
        .arg(VERIFIER)
        .args([&issuer(deployment), audience, token])
        .env("REQUESTS_CA_BUNDLE", deployment.control().ca_file());
    finish(&mut command).await
}
