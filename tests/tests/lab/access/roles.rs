//! What a guest is given to show to others, as the README has it: a role's credentials, in all the ways that programs look
//! for them, and an identity token.

use super::Guest;
use super::credentials::run;
use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorline_lab::deployment::{Deployment, PATIENCE, Programs};
use moorline_lab::guest::{Seats, seats};
use moorline_lab::image::Busybox;
use moorline_lab::process::{finish, tied};
use moorline_lab::setup::{self, tools};
use serde_json::Value as Json;

/// Whoever follows the README, on the host and in its guest `web`.
struct Reader {
    deployment: Deployment,
    guest: Guest,
    _seats: Seats,
}

impl Reader {
    async fn new() -> Result<Self> {
        let tools = setup::ready().await?;
        let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
        let image = Busybox::new().agent(agent).build(tools).await?;
        let seats = seats(1).await;
        let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
        let guest = run(&deployment, &seats, &[]).await?;
        Ok(Self {
            deployment,
            guest,
            _seats: seats,
        })
    }

    /// Runs a line as it stands there, in this deployment.
    async fn runs(&self, line: &str) -> Result<String> {
        let control = self.deployment.control();
        let line = line
            .replace("/tmp/moor", &self.deployment.folder().display().to_string())
            .replace("localhost:8471", &format!("localhost:{}", control.port()))
            .replace(" web ", &format!(" {} ", self.guest.id));
        let mut path = self.deployment.programs().path("").into_os_string();
        path.push(":/usr/bin:/bin");
        let mut shell = tied("bash");
        shell
            .args(["-ec", &line])
            .env("PATH", path)
            .env("MOORLINE_URL", control.url())
            .env("MOORLINE_TOKEN_FILE", control.token_file());
        finish(&mut shell).await
    }

    async fn has_a_role(&mut self, [document, role]: [&str; 2], give: &str, list: &str) -> Result<()> {
        self.runs(document).await?;
        self.runs(role).await?;
        self.deployment.kill_host().await?;
        self.deployment.start_host().await?;
        self.runs(give).await?;
        let listed = format!("{list} | grep '^app aws until 2099-01-31T12:00:00'");
        self.waits_for(&listed).await.map(drop)
    }

    /// Runs a line in the guest again and again until it does what it is to.
    async fn waits_for(&self, line: &str) -> Result<String> {
        let said = self.guest.control.wait_for(line, PATIENCE).await;
        said.with_context(|| self.deployment.last_words())
    }

    async fn has_every_form(&self, process: &str) -> Result<()> {
        let form: Json = serde_json::from_str(&self.guest.shell(process).await?)?;
        ensure!(
            form["AccessKeyId"] == "AKIA1" && form["SecretAccessKey"] == "made-up",
            "{form}"
        );
        let env = process.replace("process", "env");
        let env = format!("eval \"$({env})\" && echo \"$AWS_ACCESS_KEY_ID: $AWS_SECRET_ACCESS_KEY\"");
        let env = self.guest.shell(env).await?;
        ensure!(env == "AKIA1: made-up", "a shell has {env}");
        let json: Json = serde_json::from_str(&self.guest.shell(process.replace("process", "json")).await?)?;
        ensure!(json["role"] == "app", "{json}");
        Ok(())
    }

    async fn finds_the_metadata_service(&self, serve: &str, [token, get]: [&str; 2]) -> Result<()> {
        self.guest.shell(serve).await?;
        let found = format!("{token} && {get} | grep AKIA1");
        self.waits_for(&found).await?;
        let found: Json = serde_json::from_str(&self.guest.shell(format!("{token}\n{get}")).await?)?;
        ensure!(
            found["Code"] == "Success" && found["SecretAccessKey"] == "made-up",
            "{found}"
        );
        Ok(())
    }

    /// Is known by a token whose issuer is where it says, and which names whom it is for.
    async fn is_known(&self, ask: &str, discover: &str) -> Result<()> {
        let token = self.waits_for(ask).await?;
        let claims = token.split('.').nth(1).context("a token has three parts")?;
        let claims: Json = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        let issuer: Json = serde_json::from_str(&self.runs(discover).await?)?;
        ensure!(
            claims["iss"] == issuer["issuer"] && claims["aud"] == "https://vault.example",
            "{claims} of {issuer}"
        );
        ensure!(claims["sub"] == format!("instance:{}", self.guest.id), "{claims}");
        Ok(())
    }
}

#[tokio::test]
async fn a_guest_has_credentials_by_the_readmes_commands() -> Result<()> {
    let blocks = readme::commands("### Credentials in the guest")?;
    let [role, metadata, identity] = &blocks[..] else {
        bail!("the section has other blocks: {blocks:?}")
    };
    let (&[document, source, give, list, process], &[serve, token, get], &[ask, discover]) =
        (&role[..], &metadata[..], &identity[..])
    else {
        bail!("there are other commands: {blocks:?}")
    };
    let mut reader = Reader::new().await?;
    reader.has_a_role([document, source], give, list).await?;
    reader.has_every_form(process).await?;
    reader.finds_the_metadata_service(serve, [token, get]).await?;
    reader.is_known(ask, discover).await
}
