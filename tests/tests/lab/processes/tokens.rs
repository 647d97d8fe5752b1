//! What people, programs, hosts and instances prove themselves by, used rightly and wrongly, and then a look at everything
//! that the daemons left: each is where it has to be, and nowhere else.

use super::telltale::{Telltale, search, tells_nothing};
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_client::{Client, fresh_key};
use moorline_lab::deployment::{Deployment, PATIENCE, Plan, Programs};
use moorline_lab::process::finish;
use moorline_lab::wait;
use moorline_lab_load::disk;
use moorline_shared::api::identity::{CreateToken, CreateUser, LogIn, RefreshTokens, TokenForm};
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::secret::Secret;
use std::fs;
use std::path::Path;

const PASSWORD: &str = "lab-password-7d1c2f90";
const WRONG_PASSWORD: &str = "lab-wrong-password-51aa3e";
/// A token that nobody made.
const NO_TOKEN: &str = "mla_bGFiLWJyb2tlbi10b2tlbi0xMmVmNGE";
const ROLE_SECRET: &str = "lab-role-secret-90c4d7";
/// What a guest writes for everybody.
const NO_SECRET: &str = "lab-no-secret-3b7fd1";

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
            let name = format!("/proc/{pid}/{of}");
            let bytes = fs::read(&name)?;
            ensure!(!bytes.is_empty(), "{name} says nothing at all");
            tells_nothing(&name, &bytes, &telltales)?;
        }
    }
    let list = ["operation", "list", "--output", "json"];
    let told = finish(deployment.cli().args(list)).await?;
    for known in [
        "CreateUser",
        "CreateToken",
        "EndSession",
        "CreateEnrolmentToken",
        NO_SECRET,
    ] {
        ensure!(told.contains(known), "the records say nothing of {known}");
    }
    tells_nothing("the records", told.as_bytes(), &telltales)?;
    // Killed, so that the write-ahead log is still there.
    deployment.control_mut().kill().await?;
    deployment.kill_host().await?;
    // What the store may tell is found there.
    telltales.push(Telltale::of("an entry that is no secret", NO_SECRET).in_file(&[
        "store.db",
        "store.db-wal",
        ".view",
    ]));
    search(deployment.folder(), &telltales)
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
    let again = client.refresh_tokens(&body).await?;
    let mut telltales = vec![
        Telltale::of("a password", PASSWORD),
        Telltale::of("a wrong password", WRONG_PASSWORD),
        Telltale::token("an access token", tokens.access_token.expose())?,
        Telltale::token("a refresh token", refresh.expose())?,
        Telltale::token("a later access token", fresh.access_token.expose())?,
        Telltale::token(
            "what a refresh token gives once more",
            again.access_token.expose(),
        )?,
        not_a_token(deployment).await?,
    ];
    let ann = deployment.control().client_by(fresh.access_token.expose())?;
    telltales.extend(programs(deployment, &ann).await?);
    Ok(telltales)
}

/// A token that nobody made is shown.
async fn not_a_token(deployment: &Deployment) -> Result<Telltale> {
    let file = deployment.folder().join("wrong.token");
    fs::write(&file, NO_TOKEN)?;
    let mut command = deployment.cli();
    command.env("MOORLINE_TOKEN_FILE", &file).arg("whoami");
    let refused = finish(&mut command).await;
    ensure!(refused.is_err(), "a token that nobody made is taken");
    Ok(Telltale::of("a token that nobody made", NO_TOKEN).in_file(&["wrong.token"]))
}

/// A user has tokens made for programs, which show them; one is revoked, and shown again.
async fn programs(deployment: &Deployment, user: &Client) -> Result<Vec<Telltale>> {
    let make = async |name: &str| {
        let body = CreateToken {
            name: name.into(),
            ttl: None,
        };
        let made = user.create_token(&body, &fresh_key()).await?;
        let program = deployment.control().client_by(made.token.expose())?;
        program.who_am_i().await?;
        Ok::<_, anyhow::Error>((made, program))
    };
    let (nightly, program) = make("nightly").await?;
    let (lasting, _) = make("lasting").await?;
    user.end_session(&nightly.session, &fresh_key()).await?;
    ensure!(program.who_am_i().await.is_err(), "a revoked token is taken");
    Ok(vec![
        Telltale::token("a program's token", lasting.token.expose())?,
        Telltale::token("a revoked token of a program", nightly.token.expose())?,
    ])
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
        Telltale::of("an enrolment token", text),
        Telltale::of("the secret of an enrolment token", token.secret.expose()),
    ])
}

/// A guest is given its token, its key, and a role's credentials.
async fn a_guest(deployment: &Deployment) -> Result<Vec<Telltale>> {
    deployment.attach("first", &[("name", "first")]).await?;
    let external = deployment.attach_with_roles("with-a-role", &["backup"]).await?;
    let (mut guest, _) = Talker::dial(&external.socket()).await?;
    let admin = deployment.admin_socket()?;
    let held = async || {
        let status = admin.instance_status(external.id).await.ok()?;
        let mut given = status.credentials.iter();
        given
            .any(|given| given.role.is_some() && given.kind.is_some())
            .then_some(())
    };
    wait::until("the role's credentials", PATIENCE, held).await?;
    let session = guest.session().await?;
    let stream = guest.put(external.id, "own", NO_SECRET).await?;
    ensure!(guest.relayed(stream).await?.status == 200);
    let key = disk::link_key(&external.socket())?.context("the link key")?;
    // The guest's own copy, which in a machine would lie on its disk.
    disk::forget_link_key(&external.socket())?;
    Ok(vec![
        Telltale::of("a link key", key.expose()).in_file(&[".key"]),
        Telltale::token("an instance's token", session.token.expose())?,
        Telltale::of("the key that came with it", session.key.expose()),
        Telltale::of("a role's secret", ROLE_SECRET),
    ])
}

/// What the daemons keep for themselves.
fn kept(folder: &Path) -> Result<Vec<Telltale>> {
    let administrator = fs::read_to_string(folder.join("control/admin.token"))?;
    let master = fs::read_to_string(folder.join("control/master.key"))?;
    let cache = fs::read_to_string(folder.join("host/cache.key"))?;
    let identity = fs::read_to_string(folder.join("host/identity/identity.pem"))?;
    let (_, key) = identity
        .split_once("PRIVATE KEY-----\n")
        .context("the host's key")?;
    let line = key.lines().nth(1).context("the key's second line")?;
    Ok(vec![
        Telltale::of("the administrator's token", administrator.trim()).in_file(&["admin.token"]),
        Telltale::of("the master key", master.trim()).in_file(&["master.key"]),
        Telltale::of("the key of the host's cache", cache.trim()).in_file(&["cache.key"]),
        Telltale::of("a host's key", line).in_file(&["identity.pem"]),
        Telltale::of("any key in the clear", "PRIVATE KEY-----").in_file(&["identity.pem", "next-key.pem"]),
    ])
}
