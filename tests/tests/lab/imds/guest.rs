//! What real clients find in a guest: curl, botocore and the AWS SDK for Rust, told nothing.

use crate::debian::{IMDS, imds, with_agent};
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, IMAGE, Plan, Programs};
use moorline_lab::guest::{Control, Seats, Shell, seats};
use moorline_lab::image::{Debian, Image};
use moorline_lab::setup::{self, Tools, tools};
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::instances::RunInstances;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

const RULES: &str = "user-data root\napp @200\n";

/// Emulated, a system has come so far after a quarter of a minute, and Python takes seconds to start.
const BOOT: Duration = Duration::from_mins(3);
/// For how many seconds the host's command gives credentials.
const VALID_SECONDS: u32 = 40;

/// A guest that is up, with a role, and all that it stands on.
struct Scene {
    guest: Control,
    instance: String,
    _deployment: Deployment,
    _folder: tempfile::TempDir,
    _seats: Seats,
}

impl Scene {
    async fn set() -> Result<Self> {
        let tools = setup::ready().await?;
        let image = image(tools).await?;
        let folder = tempfile::tempdir()?;
        let seats = seats(1).await;
        let deployment = Plan::new(Programs::build().await?)
            .machines(tools, &image)
            .host("roles.backup", "source = 'exec'")
            .host(
                "roles.backup",
                format!("command = ['{}']", source(folder.path())?),
            )
            .start()
            .await?;
        let ids = deployment.run(&seats, &one_with_a_role()?).await?;
        let socket = deployment.vm_folder(ids[0]).join("run/control.sock");
        let guest = Control::connect(&socket, BOOT).await?;
        guest.wait_for("systemctl is-system-running --wait", BOOT).await?;
        Ok(Self {
            guest,
            instance: ids[0].to_string(),
            _deployment: deployment,
            _folder: folder,
            _seats: seats,
        })
    }

    async fn text(&self, shell: impl Into<Shell>) -> Result<String> {
        self.guest.run(shell).await?.text()
    }

    /// What curl gets with a token: the status and the body.
    async fn curl(&self, shell: fn(String) -> Shell, path: &str) -> Result<(String, String)> {
        let script = format!(
            "T=$(curl -sSf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) && \
             curl -sS -w '\\n%{{http_code}}' -H \"X-aws-ec2-metadata-token: $T\" http://169.254.169.254{path}"
        );
        let said = self.text(shell(script)).await?;
        let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
        Ok((status.to_owned(), body.to_owned()))
    }

    /// With which status an ordinary user in these supplementary groups is answered on the native socket.
    async fn native(&self, groups: &str, path: &str) -> Result<String> {
        let script = format!(
            "setpriv --reuid=1000 --regid=1000 --groups={groups} curl -sS -o /dev/null -w '%{{http_code}}' \
             --unix-socket /run/moorline/agent.sock http://agent/v1/data/{path}"
        );
        self.text(Shell::root(script)).await
    }

    /// What a program finds that is the first to ask an agent that has just begun.
    async fn cold(&self, program: &str) -> Result<Found> {
        let said = self
            .text(Shell::root(format!(
                "systemctl restart moorline-agent && {program}"
            )))
            .await?;
        serde_json::from_str(&said).with_context(|| format!("{program} says {said:?}"))
    }
}

/// Credentials as a program found them.
#[derive(Debug, Deserialize)]
struct Found {
    key: String,
    secret: String,
    token: String,
    took_ms: u64,
}

impl Found {
    /// Fails unless all parts are of one making.
    fn check(&self) -> Result<()> {
        let making = self.key.strip_prefix("AKIA").context("it is no key of ours")?;
        let whole = self.secret == format!("secret{making}") && self.token == format!("token{making}");
        ensure!(whole, "these are of several makings: {self:?}");
        Ok(())
    }
}

async fn image(tools: &Tools) -> Result<Image> {
    let image = Debian::new()
        .package("python3-botocore")
        .program("usr/bin/lab-aws", tools::aws_program().await?)
        .file(IMDS, imds("v2"))
        .file("etc/moorline/agent.access", RULES)
        .file("opt/readers.py", include_str!("readers.py"))
        .file("opt/found.py", include_str!("found.py"));
    with_agent(image).await?.build(tools).await
}

/// A command for the host that makes credentials: every part has the number of the making.
fn source(folder: &Path) -> Result<String> {
    let path = folder.join("source");
    let script = format!(
        "#!/bin/sh\nn=$(date +%s%N)\nuntil=$(date -u -d '+{VALID_SECONDS} seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         printf '{{\"Version\":1,\"AccessKeyId\":\"AKIA%s\",\"SecretAccessKey\":\"secret%s\",\"SessionToken\":\"token%s\",\
         \"Expiration\":\"%s\"}}' $n $n $n $until\n"
    );
    fs::write(&path, script).context("write the source of credentials")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("let it be run")?;
    Ok(path.display().to_string())
}

fn one_with_a_role() -> Result<RunInstances> {
    let user_data = ("user-data".parse()?, PutEntry::value("#!/bin/sh\n".into()));
    let grouped = ("app/port".parse()?, PutEntry::value("8080".into()));
    Ok(RunInstances {
        roles: BTreeSet::from(["backup".parse()?]),
        data: BTreeMap::from([user_data, grouped]),
        ..RunInstances::of(IMAGE.parse()?, "small".parse()?)
    })
}

#[tokio::test]
async fn clients_that_were_told_nothing_find_what_they_look_for() -> Result<()> {
    let scene = Scene::set().await?;
    let id = scene
        .curl(Shell::ordinary, "/latest/meta-data/instance-id")
        .await?;
    ensure!(
        id == ("200".to_owned(), scene.instance.clone()),
        "curl gets {id:?}"
    );
    let (root, _) = scene.curl(Shell::root, "/latest/user-data").await?;
    let (ordinary, _) = scene.curl(Shell::ordinary, "/latest/user-data").await?;
    ensure!(
        root == "200" && ordinary == "404",
        "root gets {root}, others get {ordinary}"
    );

    for (groups, expected) in [("27,200,1000", "200"), ("27,1000", "404")] {
        let status = scene.native(groups, "app/port").await?;
        ensure!(status == expected, "a user in the groups {groups} gets {status}");
    }

    for program in ["python3 /opt/found.py", "lab-aws"] {
        let found = scene.cold(program).await?;
        println!("{program} had its credentials after {} ms", found.took_ms);
        found.check()?;
    }
    let readers = scene.text("python3 /opt/readers.py").await?;
    ensure!(readers.contains("\"makings\": 3"), "the readers say {readers}");
    let left = scene
        .text("systemctl show --property=NRestarts moorline-agent")
        .await?;
    ensure!(left.contains("NRestarts=0"), "the agent's unit: {left}");
    Ok(())
}
