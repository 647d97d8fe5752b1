//! Credentials of a cloud, given for an instance's identity token by a security token service of other people's, and used
//! by programs of other people's.

use super::{issuer, python};
use crate::agent::Agent;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs, free_port};
use moorline_lab::process::{Running, finish, tied};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::host::CredentialStatus;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio::net::TcpStream;
use tokio::process::Command;

const SERVICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/identity_token/sts.py");
const CALLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/identity_token/caller.py");
/// Whom the service takes identity tokens for.
const AUDIENCE: &str = "sts.amazonaws.com";

/// Roles of the service at this port: one for whose credentials the host shows it the right token, and one for whose it
/// shows a token that is for somebody else.
fn with_roles(plan: Plan, port: u16) -> Plan {
    let role = |name: &str, audience: &str| {
        format!(
            "source = 'web-identity'\nurl = 'http://127.0.0.1:{port}/'\naudience = '{audience}'\n\
             role_arn = 'arn:aws:iam::123456789012:role/{name}'"
        )
    };
    plan.host("roles.storage", role("storage", AUDIENCE))
        .host("roles.elsewhere", role("elsewhere", "https://other.example"))
}

/// Starts the service, which knows the control plane by its address alone, and waits until it listens.
async fn service(deployment: &Deployment, python: &Path, port: u16) -> Result<Running> {
    let mut command = tied(python);
    command
        .args([SERVICE, &port.to_string(), &issuer(deployment), AUDIENCE])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("REQUESTS_CA_BUNDLE", deployment.control().ca_file());
    let log = deployment.folder().join("sts.log");
    let service = Running::start("the security token service", &mut command, log)?;
    let listens = async || TcpStream::connect(("127.0.0.1", port)).await.ok();
    wait::until("the security token service", PATIENCE, listens)
        .await
        .with_context(|| service.last_words())?;
    Ok(service)
}

/// Why the host has no credentials of a role for an instance, once it has tried.
async fn refusal(deployment: &Deployment, instance: InstanceId, role: &str) -> Result<String> {
    let admin = deployment.admin_socket()?;
    let look = async || {
        let status = admin.instance_status(instance).await.ok()?;
        let of = |held: &CredentialStatus| held.role.as_ref().is_some_and(|name| name.as_str() == role);
        status.credentials.into_iter().find(of)?.error
    };
    wait::until("the service's refusal", PATIENCE, look).await
}

/// Credentials as a `credential_process` prints them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
}

/// Whom the service takes the caller for, by botocore.
fn caller(python: &Path, port: u16) -> Command {
    let mut command = Command::new(python);
    command.args([CALLER, &format!("http://127.0.0.1:{port}")]);
    command
}

/// The configuration of the AWS SDKs that has them ask the agent.
fn aws_config(deployment: &Deployment, agent: &Agent) -> Result<PathBuf> {
    let file = deployment.folder().join("aws-config");
    let process = agent.line("credentials storage --format process");
    std::fs::write(&file, format!("[default]\ncredential_process = {process}\n"))
        .context("write the configuration of the SDKs")?;
    Ok(file)
}

#[tokio::test]
async fn a_cloud_gives_credentials_for_an_instances_identity_token() -> Result<()> {
    let python = python().await?;
    let port = free_port()?;
    let deployment = with_roles(Plan::new(Programs::build().await?), port)
        .start()
        .await?;
    let service = service(&deployment, &python, port).await?;
    let guest = deployment
        .attach_with_roles("web", &["storage", "elsewhere"])
        .await?;
    let agent = Agent::start(&deployment, "web", guest.socket()).await?;
    let process = ["credentials", "storage", "--format", "process"];
    let printed = agent.until("credentials", &process, |_| true).await;
    let printed =
        printed.with_context(|| format!("{}\n{}", deployment.last_words(), service.last_words()))?;

    let config = aws_config(&deployment, &agent)?;
    let arn = finish(caller(&python, port).env("AWS_CONFIG_FILE", config)).await?;
    let expected = format!("arn:aws:sts::123456789012:assumed-role/storage/{}", guest.id);
    ensure!(arn.trim() == expected, "the service takes the guest for {arn}");

    // The service does look: at signatures, and at tokens.
    let printed: Printed = serde_json::from_str(&printed).context("what the agent prints")?;
    let mut forger = caller(&python, port);
    forger
        .env("AWS_ACCESS_KEY_ID", &printed.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", printed.secret_access_key.to_lowercase())
        .env("AWS_SESSION_TOKEN", &printed.session_token);
    let refused = finish(&mut forger).await;
    let said = refused
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(
        said.contains("SignatureDoesNotMatch"),
        "another key is taken: {said}"
    );
    let refused = refusal(&deployment, guest.id, "elsewhere").await?;
    ensure!(refused.contains("InvalidIdentityToken"), "{refused}");
    ensure!(agent.ask(&["credentials", "elsewhere"]).await.is_err());
    Ok(())
}
