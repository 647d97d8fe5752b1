//! The second half of the demo: who is trusted with what. A guest gets credentials, changes data in the master copy, its
//! own and another's as far as that one allows, and none of its unprivileged processes can do any of this.

use super::{Actor, Scene, Show, path};
use crate::deployment::PATIENCE;
use crate::guest::Shell;
use crate::wait;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::SetAccess;
use moorline_shared::{InstanceId, Principal};
use std::path::Path;
use std::time::Instant;

/// The role of the demo's instances.
pub(super) const ROLE: &str = "app";
/// The table of the host's configuration that says where its credentials come from.
pub(super) const ROLE_TABLE: &str = "roles.app";

/// Where a role's credentials come from: a program of the operator's on the host. This one makes them up.
const SOURCE: &str = r#"#!/bin/sh
printf '{"Version":1,"AccessKeyId":"AKIADEMO%s","SecretAccessKey":"made-up","SessionToken":"made-up-too","Expiration":"%s"}' \
    "$(date +%s)" "$(date -u -d '+1 hour' +%Y-%m-%dT%H:%M:%SZ)"
"#;

/// Puts the source into the folder, and answers with the line of the host's configuration that names it.
pub(super) fn source(folder: &Path) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join("credentials-of-app");
    std::fs::write(&program, SOURCE).context("write the source of credentials")?;
    let runnable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, runnable).context("make the source of credentials runnable")?;
    Ok(format!(
        "source = \"exec\"\ncommand = [{:?}]",
        program.display().to_string()
    ))
}

impl Scene {
    /// Temporary credentials are in the guest before anybody asks for them.
    pub(super) async fn have_credentials(&self, show: &mut Show) -> Result<()> {
        let begun = Instant::now();
        let given = self
            .a
            .agent(&format!("credentials {ROLE} --format process"))
            .await?;
        let given: serde_json::Value = serde_json::from_str(&given).context("credentials as JSON")?;
        let key = given["AccessKeyId"].as_str().unwrap_or_default();
        ensure!(key.starts_with("AKIADEMO"), "guest A has the key '{key}'");
        let until = given["Expiration"].as_str().unwrap_or_default();
        show.seen(
            format!("guest A has the credentials of its role '{ROLE}': {key}, good until {until}"),
            begun.elapsed(),
        );
        Ok(())
    }

    /// A guest's own change is made in the master copy, in the guest's name.
    pub(super) async fn change_own(&self, show: &mut Show) -> Result<()> {
        let begun = Instant::now();
        self.a.agent("set config/from-inside 'it works'").await?;
        let took = begun.elapsed();
        let entry = self
            .deployment
            .client()
            .get_instance_data(self.a.id, &path("config/from-inside"))
            .await?;
        let by = entry.changed_by;
        ensure!(
            by == Principal::Instance(self.a.id),
            "the change was made by {by}"
        );
        let mirrored = self.a.agent("get config/from-inside").await?;
        ensure!(mirrored == "it works", "guest A reads '{mirrored}'");
        show.seen(
            "guest A changes its own data: signed by the guest, in the master copy, and in its mirror",
            took,
        );
        Ok(())
    }

    /// A guest changes an entry of another's that allows it, and no other.
    pub(super) async fn change_anothers(&self, show: &mut Show) -> Result<()> {
        self.put(self.b.id, "shared/inbox", "empty").await?;
        let granted = SetAccess {
            access: open_to(self.a.id),
        };
        let inbox = path("shared/inbox");
        let client = self.deployment.client();
        client
            .set_entry_access(self.b.id, &inbox, &granted, &Terms::fresh())
            .await?;
        let begun = Instant::now();
        self.a
            .agent(&format!("set --instance {} shared/inbox 'from A'", self.b.id))
            .await?;
        let arrived = async || {
            let inbox = self.b.agent("get shared/inbox").await.ok()?;
            (inbox == "from A").then_some(())
        };
        wait::until("A's change in guest B", PATIENCE, arrived).await?;
        show.seen(
            "guest A changes the entry of guest B whose access list lets it; B has the change",
            begun.elapsed(),
        );
        let begun = Instant::now();
        let command = format!("moorline-agent set --instance {} private/key taken", self.b.id);
        let refused = self.a.control.run(command).await?;
        let said = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
        ensure!(!refused.succeeded(), "guest A changed what it may not");
        let kept = self.b.agent("get private/key").await?;
        ensure!(kept == "not for A", "guest B reads '{kept}'");
        show.seen(
            format!("guest A can't change B's other entry, and nothing has changed: {said}"),
            begun.elapsed(),
        );
        Ok(())
    }

    /// A process of an ordinary user reads, and can neither change anything nor speak for the guest.
    pub(super) async fn refuse_the_unprivileged(&self, show: &mut Show) -> Result<()> {
        let begun = Instant::now();
        let said = refused(&self.a, "moorline-agent set config/greeting mine").await?;
        show.seen(
            format!("an ordinary user's process in guest A can't change anything: {said}"),
            begun.elapsed(),
        );
        let begun = Instant::now();
        let said = refused(&self.a, AN_AGENT_OF_ITS_OWN).await?;
        let greeting = self.a.agent("get config/greeting").await?;
        ensure!(!greeting.is_empty(), "guest A's agent has lost its data");
        show.seen(
            format!("nor does the host take it for the guest: an agent of its own gets nothing: {said}"),
            begun.elapsed(),
        );
        Ok(())
    }
}

/// Runs a second agent until it has said whether it has data.
const AN_AGENT_OF_ITS_OWN: &str = "moorline-agent run --socket /tmp/own.sock 2>/tmp/own.log & agent=$!; \
    until [ -S /tmp/own.sock ]; do :; done; \
    moorline-agent get meta/instance-id --socket /tmp/own.sock; got=$?; kill $agent; exit $got";

/// What an ordinary user of the guest is told who runs this, which must fail.
async fn refused(actor: &Actor, command: &str) -> Result<String> {
    let output = actor.control.run(Shell::ordinary(command)).await?;
    ensure!(!output.succeeded(), "an ordinary user may: {command}");
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The instance itself and the other one read and update.
fn open_to(instance: InstanceId) -> AccessList {
    let rights = [Right::Read, Right::Update];
    let rights: Rights = rights.into_iter().collect();
    let clauses = [Subject::Owner, Subject::Instance(instance)].map(|subject| Clause { subject, rights });
    AccessList::try_from(clauses.to_vec()).expect("two clauses are within the bound")
}
