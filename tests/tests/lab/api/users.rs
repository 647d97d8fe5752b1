//! Users, tokens and groups as the README has them, and what is refused to whom.

use crate::alone::Alone;
use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use moorline_lab::deployment::Programs;
use moorline_lab::process::{finish, tied};
use moorline_shared::InstanceId;
use tempfile::TempDir;
use tokio::process::Command;

/// Where the README keeps the control plane's state.
const STATE: &str = "/tmp/moor/control";

/// Whoever follows the README, with a home of their own.
struct Reader {
    alone: Alone,
    instance: InstanceId,
    programs: Programs,
    home: TempDir,
    /// What was unset and exported, which holds for all that follows.
    environment: String,
    /// The README's way to log in, with the password that it made the user with.
    login: String,
}

impl Reader {
    async fn new() -> Result<Self> {
        let alone = Alone::start().await?;
        alone.host("h").await?;
        let instance = alone.instance("h", "web").await?;
        alone.put(instance, "config/greeting", "hello").await?;
        Ok(Self {
            alone,
            instance,
            programs: Programs::build().await?,
            home: tempfile::tempdir()?,
            environment: String::new(),
            login: String::new(),
        })
    }

    /// A shell that runs a line as it stands there, in this deployment.
    fn shell(&self, line: &str) -> Result<Command> {
        let state = self.alone.control.ca_file();
        let state = state.parent().context("the certificate is in a folder")?;
        let line = format!("{}{line}", self.environment)
            .replace(STATE, &state.display().to_string())
            .replace("instance:i-...", &format!("instance:{}", self.instance));
        let mut path = self.programs.path("").into_os_string();
        path.push(":/usr/bin:/bin");
        let mut shell = tied("bash");
        shell
            .args(["-ec", &line])
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("MOORLINE_URL", self.alone.control.url())
            .env("MOORLINE_TOKEN_FILE", self.alone.control.token_file());
        Ok(shell)
    }

    async fn runs(&self, line: &str) -> Result<String> {
        finish(&mut self.shell(line)?).await
    }

    /// Runs a line that must be refused, and answers with what was said of it.
    async fn is_refused(&self, line: &str) -> Result<String> {
        let output = self.shell(line)?.output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{line} ended with {}: {said}",
            output.status
        );
        Ok(said)
    }

    /// Does as the administrator whose token lies in the control plane's state.
    async fn administers(&self, arguments: &[&str]) -> Result<String> {
        finish(self.alone.control.cli().args(arguments)).await
    }

    /// Makes the user, and is the administrator no more.
    async fn begins(&mut self, create: &str, [unset, trust]: [&str; 2], login: &str) -> Result<()> {
        let (_, password) = create
            .split_once(" --password-stdin")
            .context("the password's place")?;
        self.login = format!("{login} --password-stdin{password}");
        self.runs(create).await?;
        self.environment = format!("{unset}\n{trust}\n");
        Ok(())
    }

    async fn logs_in(&self, whoami: &str) -> Result<()> {
        let wrong = format!("{}' and more'", self.login);
        let told = self.is_refused(&wrong).await?;
        ensure!(told.contains("the user or the password is wrong"), "{told}");
        let nobody = self.is_refused(whoami).await?;
        ensure!(nobody.contains("moorline login"), "{nobody}");

        self.runs(&self.login).await?;
        let who = self.runs(whoami).await?;
        ensure!(who.contains("user:ann") && who.contains("administrator"), "{who}");
        Ok(())
    }

    /// Gives a program a token, and ends it under the login that it was made in.
    async fn has_a_program(&self, create: &str, whoami: &str) -> Result<()> {
        self.runs(&format!("{create} > nightly.token")).await?;
        let by_program = format!("{whoami} --token-file nightly.token");
        let who = self.runs(&by_program).await?;
        ensure!(who.contains("user:ann"), "{who}");

        let list = self.runs("moorline token list").await?;
        let line = list.lines().find(|line| line.contains(" nightly "));
        let session = line.and_then(|line| line.split_whitespace().next());
        let session = session.with_context(|| format!("the token is not listed: {list}"))?;
        self.runs(&format!("moorline token revoke {session}")).await?;
        let told = self.is_refused(&by_program).await?;
        ensure!(told.contains("--token-file"), "{told}");
        self.runs(whoami).await.map(drop)
    }

    /// Logs out, which also ends what somebody copied of the login.
    async fn logs_out(&self, logout: &str, whoami: &str) -> Result<()> {
        self.runs("mkdir copy && cp -r .config copy/").await?;
        let by_copy = format!("HOME=$PWD/copy {whoami}");
        self.runs(&by_copy).await?;
        self.runs(logout).await?;
        for line in [whoami, &by_copy] {
            let told = self.is_refused(line).await?;
            ensure!(told.contains("moorline login"), "{line}: {told}");
        }
        Ok(())
    }

    /// Makes a group, and shares an entry with it.
    async fn shares(&self, commands: &[&str]) -> Result<()> {
        self.runs(&self.login).await?;
        for command in commands {
            self.runs(command).await?;
        }
        let groups = self.runs("moorline group list").await?;
        let members = groups.lines().find(|line| line.starts_with("operators "));
        let members = members.context(groups.clone())?;
        let instance = format!("instance:{}", self.instance);
        ensure!(
            members.contains("user:ann") && members.contains(&instance),
            "{groups}"
        );
        let access = self.runs("moorline data access show web config/greeting").await?;
        ensure!(access.contains("group:operators"), "{access}");
        Ok(())
    }

    /// Is disabled while logged in, and may come back.
    async fn is_disabled(&self, whoami: &str) -> Result<()> {
        self.runs(whoami).await?;
        self.administers(&["user", "disable", "ann"]).await?;
        let told = self.is_refused(whoami).await?;
        ensure!(told.contains("log in again"), "{told}");
        self.is_refused(&self.login).await?;
        self.administers(&["user", "enable", "ann"]).await?;
        self.is_refused(whoami).await?;
        self.runs(&self.login).await?;
        self.runs(whoami).await.map(drop)
    }
}

#[tokio::test]
async fn users_log_in_and_share_by_the_readmes_commands() -> Result<()> {
    let blocks = readme::commands("### Users")?;
    let [users, groups] = &blocks[..] else {
        bail!("the section has other blocks: {blocks:?}")
    };
    let [create, unset, trust, login, whoami, token, logout] = users[..] else {
        bail!("there are other commands: {users:?}")
    };
    let mut reader = Reader::new().await?;
    reader.begins(create, [unset, trust], login).await?;
    reader.logs_in(whoami).await?;
    reader.has_a_program(token, whoami).await?;
    reader.logs_out(logout, whoami).await?;
    reader.shares(groups).await?;
    reader.is_disabled(whoami).await
}
