//! What people, programs, hosts and instances prove themselves by, used rightly and wrongly, and then a look at everything
//! that the daemons left: each is where it has to be, and nowhere else.

use crate::talker::Talker;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_lab_load::disk;
use moorline_shared::api::identity::{CreateToken, CreateUser, LogIn, RefreshTokens, TokenForm};
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::host::{Channel, Register, Supervision};
use moorline_shared::link::PORT;
use moorline_shared::secret::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const PASSWORD: &str = "lab-password-7d1c2f90";
const WRONG_PASSWORD: &str = "lab-wrong-password-51aa3e";
/// A token that nobody made.
const NO_TOKEN: &str = "mla_bGFiLWJyb2tlbi10b2tlbi0xMmVmNGE";
const ROLE_SECRET: &str = "lab-role-secret-90c4d7";

/// Something that tells a secret, and the names of the files that it belongs in.
struct Telltale {
    what: &'static str,
    forms: Vec<Vec<u8>>,
    belongs: &'static [&'static str],
}

impl Telltale {
    fn text(what: &'static str, text: &str) -> Self {
        Self {
            what,
            forms: vec![text.as_bytes().to_vec()],
            belongs: &[],
        }
    }

    /// Bytes, and the texts that they may be written as.
    fn bytes(what: &'static str, bytes: &[u8]) -> Self {
        let mut hex = String::new();
        for byte in bytes {
            let _ = write!(hex, "{byte:02x}");
        }
        let texts = [hex, STANDARD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes)];
        let texts = texts.map(|text| text.trim_end_matches('=').as_bytes().to_vec());
        Self {
            what,
            forms: texts.into_iter().chain([bytes.to_vec()]).collect(),
            belongs: &[],
        }
    }

    fn in_file(self, belongs: &'static [&'static str]) -> Self {
        Self { belongs, ..self }
    }

    fn is_told_by(&self, bytes: &[u8]) -> bool {
        let within = |form: &Vec<u8>| bytes.windows(form.len()).any(|window| window == form);
        self.forms.iter().any(within)
    }
}

#[tokio::test]
async fn no_token_and_no_key_is_where_it_does_not_belong() -> Result<()> {
    let elsewhere = tempfile::tempdir()?;
    let mut deployment = Plan::new(Programs::build().await?)
        .host("roles.backup", source(elsewhere.path())?)
        .start()
        .await?;
    let mut telltales = people(&deployment).await?;
    telltales.extend(a_host(&deployment).await?);
    telltales.extend(a_guest(&deployment).await?);
    telltales.extend(kept(deployment.folder())?);
    for pid in [deployment.control_pid(), deployment.host_pid()] {
        let pid = pid.context("a daemon doesn't run")?;
        for of in ["cmdline", "environ"] {
            let path = PathBuf::from(format!("/proc/{pid}/{of}"));
            tells_nothing(&path, &fs::read(&path)?, &telltales)?;
        }
    }
    let list = ["operation", "list", "--output", "json"];
    let told = finish(deployment.cli().args(list)).await?;
    tells_nothing(Path::new("the records"), told.as_bytes(), &telltales)?;
    // Killed, so that the write-ahead log is still there.
    deployment.control_mut().kill().await?;
    deployment.kill_host().await?;
    let found = look_below(deployment.folder(), &telltales)?;
    for telltale in telltales.iter().filter(|telltale| !telltale.belongs.is_empty()) {
        let there = found.contains(telltale.what);
        ensure!(
            there,
            "{} is not even where it belongs: nothing was looked for",
            telltale.what
        );
    }
    Ok(())
}

/// The key of a role, printed by a program that has it elsewhere.
fn source(folder: &Path) -> Result<String> {
    let file = folder.join("credentials");
    let document = format!(
        "{{\"Version\":1,\"AccessKeyId\":\"AKIA\",\"SecretAccessKey\":\"{ROLE_SECRET}\",\"Expiration\":\"2099-01-31T12:00:00Z\"}}"
    );
    fs::write(&file, document)?;
    Ok(format!(
        "source = 'exec'\ncommand = ['/bin/cat', '{}']",
        file.display()
    ))
}

/// A user logs in and out, with the right password and with a wrong one, and has tokens made.
async fn people(deployment: &Deployment) -> Result<Vec<Telltale>> {
    let client = deployment.client();
    let user = CreateUser {
        user: "ann".parse()?,
        role: Default::default(),
        password: Some(PASSWORD.to_owned().into()),
    };
    client.create_user(&user, &fresh_key()).await?;
    let log_in = |password: &str| -> Result<_> {
        Ok(LogIn {
            user: "ann".parse()?,
            password: Secret::from(password.to_owned()),
            directory: None,
            client: None,
            form: TokenForm::Separate,
        })
    };
    ensure!(client.log_in(&log_in(WRONG_PASSWORD)?).await.is_err());
    let tokens = client.log_in(&log_in(PASSWORD)?).await?;
    let refresh = tokens.refresh_token.context("a refresh token")?;
    let body = RefreshTokens {
        refresh_token: refresh.clone(),
        client: None,
    };
    let fresh = client.refresh_tokens(&body).await?;
    let again = client.refresh_tokens(&body).await;
    let program = CreateToken {
        name: "nightly".into(),
        ttl: None,
    };
    let program = client.create_token(&program, &fresh_key()).await;
    let mut wrong = deployment.cli();
    let file = deployment.folder().join("wrong.token");
    fs::write(&file, NO_TOKEN)?;
    wrong.env("MOORLINE_TOKEN_FILE", &file).arg("whoami");
    ensure!(
        finish(&mut wrong).await.is_err(),
        "a token that nobody made is taken"
    );
    let mut telltales = vec![
        Telltale::text("a password", PASSWORD),
        Telltale::text("a wrong password", WRONG_PASSWORD),
        Telltale::text("a token that nobody made", NO_TOKEN).in_file(&["wrong.token"]),
        Telltale::text("an access token", tokens.access_token.expose()),
        Telltale::text("a refresh token", refresh.expose()),
        Telltale::text("a later access token", fresh.access_token.expose()),
    ];
    let more = [
        (
            "the refresh token's answer",
            again.ok().map(|tokens| tokens.access_token),
        ),
        ("a program's token", program.ok().map(|program| program.token)),
    ];
    let more = more.into_iter().filter_map(|(what, token)| Some((what, token?)));
    telltales.extend(more.map(|(what, token)| Telltale::text(what, token.expose())));
    Ok(telltales)
}

/// A second host is enrolled.
async fn a_host(deployment: &Deployment) -> Result<Vec<Telltale>> {
    let text = finish(deployment.cli().args(["host", "enroll-token", "host-2"])).await?;
    let text = text.trim();
    let token: EnrolmentToken = text.parse()?;
    let host = deployment.further_host(&"host-2".parse()?, "second")?;
    for takes in [true, false] {
        let mut command = host.command();
        command.args(["enroll", text, "--state"]).arg(host.state());
        ensure!(
            finish(&mut command).await.is_ok() == takes,
            "the token is good more than once"
        );
    }
    Ok(vec![
        Telltale::text("an enrolment token", text),
        Telltale::bytes("the secret of an enrolment token", token.secret.expose()),
    ])
}

/// A guest is given its token, its key, and a role's credentials.
async fn a_guest(deployment: &Deployment) -> Result<Vec<Telltale>> {
    deployment.attach("first", &[("name", "first")]).await?;
    let device = deployment.folder().join("external/with-a-role");
    let body = Register {
        key: None,
        instance: None,
        name: Some("with-a-role".into()),
        tags: Vec::new(),
        roles: BTreeSet::from(["backup".parse()?]),
        data: BTreeMap::new(),
        channel: Channel::Hybrid {
            path: device.clone(),
            device: None,
        },
        supervision: Supervision::Unsupervised,
    };
    let registered = deployment.register_socket()?.register(&body).await?;
    let socket = PathBuf::from(format!("{}_{PORT}", device.display()));
    let there = async || deployment.guest_status(registered.instance).await?.revision;
    wait::until("the guest's data", PATIENCE, there).await?;
    let (mut guest, _) = Talker::dial(&socket).await?;
    let admin = deployment.admin_socket()?;
    let held = async || {
        let status = admin.instance_status(registered.instance).await.ok()?;
        let mut given = status.credentials.iter();
        given
            .any(|given| given.role.is_some() && given.kind.is_some())
            .then_some(())
    };
    wait::until("the role's credentials", PATIENCE, held).await?;
    let session = guest.session().await?;
    let stream = guest.put(registered.instance, "own", "changed").await?;
    ensure!(guest.relayed(stream).await?.status == 200);
    let key = disk::link_key(&socket)?.context("the link key")?;
    // The guest's own copy, which in a machine would lie on its disk.
    disk::forget_link_key(&socket)?;
    Ok(vec![
        Telltale::bytes("a link key", key.expose()).in_file(&[".key"]),
        Telltale::text("an instance's token", session.token.expose()),
        Telltale::bytes("the key that came with it", session.key.expose()),
        Telltale::text("a role's secret", ROLE_SECRET),
    ])
}

/// What the daemons keep for themselves.
fn kept(folder: &Path) -> Result<Vec<Telltale>> {
    let administrator = fs::read_to_string(folder.join("control/admin.token"))?;
    let master = fs::read_to_string(folder.join("control/master.key"))?;
    let identity = fs::read_to_string(folder.join("host/identity/identity.pem"))?;
    let (_, key) = identity
        .split_once("PRIVATE KEY-----\n")
        .context("the host's key")?;
    let line = key.lines().nth(1).context("the key's second line")?;
    Ok(vec![
        Telltale::text("the administrator's token", administrator.trim()).in_file(&["admin.token"]),
        Telltale::text("the master key", master.trim()).in_file(&["master.key"]),
        Telltale::text("a host's key", line).in_file(&["identity.pem"]),
        Telltale::text("any key in the clear", "PRIVATE KEY-----").in_file(&["identity.pem", "next-key.pem"]),
    ])
}

/// Looks into every file below the folder, and says which telltales are where they belong.
fn look_below(folder: &Path, telltales: &[Telltale]) -> Result<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(look_below(&entry.path(), telltales)?);
        } else if kind.is_file() {
            let name = entry.file_name();
            let bytes = fs::read(entry.path())?;
            let belongs = |telltale: &&Telltale| {
                telltale
                    .belongs
                    .iter()
                    .any(|own| name.to_string_lossy().ends_with(own))
            };
            let (here, strange): (Vec<_>, Vec<_>) = telltales.iter().partition(belongs);
            found.extend(
                here.iter()
                    .filter(|own| own.is_told_by(&bytes))
                    .map(|own| own.what),
            );
            tells_nothing(&entry.path(), &bytes, strange)?;
        }
    }
    Ok(found)
}

fn tells_nothing<'t>(
    name: &Path,
    bytes: &[u8],
    telltales: impl IntoIterator<Item = &'t Telltale>,
) -> Result<()> {
    for telltale in telltales {
        if telltale.is_told_by(bytes) {
            bail!("{} tells {}", name.display(), telltale.what);
        }
    }
    Ok(())
}
