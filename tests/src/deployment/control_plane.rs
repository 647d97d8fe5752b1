//! A control plane as a process, which a test can kill, start again on the same state and port, and freeze.

use super::{PATIENCE, Programs, enrolment, next_log};
use crate::process::{Frozen, Running, finish, tied};
use crate::wait;
use anyhow::{Context, Result, bail};
use moorline_client::{Authority, BaseUrl, Client, Endpoint, Identity, Token, Trust};
use moorline_shared::HostId;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// A control plane with its state in a folder.
#[derive(Debug)]
pub struct ControlPlane {
    programs: Programs,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    url: String,
    process: Option<Running>,
    client: Client,
}

impl ControlPlane {
    /// Starts one that keeps its state beneath `folder` and listens on a port of its own, and waits until it answers.
    pub async fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        Self::start_at(free_port()?, programs, folder, Vec::new()).await
    }

    /// The same, on this port and with these lines for settings.
    pub async fn start_at(
        port: u16,
        programs: &Programs,
        folder: &Path,
        settings: Vec<String>,
    ) -> Result<Self> {
        let url = format!("https://127.0.0.1:{port}");
        let process = start(programs, folder, port, &settings)?;
        let client = client(&url, folder).await.with_context(|| process.last_words())?;
        Ok(Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            port,
            settings,
            url,
            process: Some(process),
            client,
        })
    }

    /// The API, as its administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Makes a host that the test speaks for, and gives the API as that host.
    pub async fn enrol(&self, host: &HostId) -> Result<Client> {
        enrolment::enrol(&self.client, self.endpoint()?, host).await
    }

    /// Makes a host that the test speaks for, and gives what it is known by.
    pub async fn identity(&self, host: &HostId) -> Result<Identity> {
        enrolment::identity(&self.client, self.endpoint()?, host).await
    }

    /// The API, as whoever is known by this.
    pub fn client_as(&self, identity: Identity) -> Result<Client> {
        Ok(Client::new(self.endpoint()?.identified(identity))?)
    }

    /// The API, as the host whose daemon keeps its state in this folder.
    pub fn client_of_daemon(&self, state: &Path) -> Result<Client> {
        self.client_as(enrolment::of_daemon(state)?)
    }

    /// Makes the daemon that keeps its state in this folder the host, as its operator would.
    pub async fn enrol_daemon(&self, host: &HostId, state: &Path) -> Result<()> {
        let mut command = self.cli();
        command.args(["host", "enroll-token", host.as_str()]);
        let token = crate::process::finish(&mut command).await?;
        let mut command = tied(self.programs.path("moorline-host"));
        command.args(["enroll", token.trim(), "--state"]).arg(state);
        crate::process::finish(&mut command).await.map(drop)
    }

    /// The API by a token.
    pub fn client_by(&self, token: &str) -> Result<Client> {
        let mut endpoint = self.endpoint()?;
        endpoint.token = Some(token.parse()?);
        Ok(Client::new(endpoint)?)
    }

    /// The API, as nobody yet.
    fn endpoint(&self) -> Result<Endpoint> {
        let url: BaseUrl = self.url.parse().context("the control plane's address")?;
        Ok(Endpoint::without_token(url).trusting(trust(&self.folder)?))
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port of loopback that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with its administrator's token.
    pub fn token_file(&self) -> PathBuf {
        token_file(&self.folder)
    }

    /// The file with the certificate that it is known by.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("control/ca.pem")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Running::pid)
    }

    /// A command of the `moorline` command line, as its administrator.
    pub fn cli(&self) -> tokio::process::Command {
        let mut command = tied(self.programs.path("moorline"));
        command.env("MOORLINE_URL", &self.url);
        command.env("MOORLINE_TOKEN_FILE", self.token_file());
        command.env("MOORLINE_CA_FILE", self.ca_file());
        command.env("MOORLINE_CONFIG", self.folder.join("no-profile.toml"));
        command
    }

    /// Kills it, as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => bail!("the control plane doesn't run"),
        }
    }

    /// Ends it as a defect of its own would.
    pub async fn abort(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the control plane doesn't run")?;
        process.abort().await
    }

    /// Starts it again on what it left, and waits until it answers.
    pub async fn restart(&mut self) -> Result<()> {
        let process = start(&self.programs, &self.folder, self.port, &self.settings)?;
        let answers = async || self.client.describe_hosts().await.ok();
        wait::until("the control plane to answer again", PATIENCE, answers)
            .await
            .with_context(|| process.last_words())?;
        self.process = Some(process);
        Ok(())
    }

    /// Writes a backup into this file, while it runs.
    pub async fn back_up(&self, file: &Path) -> Result<()> {
        finish(self.command("backup").arg(file)).await.map(drop)
    }

    /// Makes its state of a backup. It must not run, and there must be no other state.
    pub async fn bring_back(&self, file: &Path) -> Result<()> {
        finish(self.command("restore").arg(file)).await.map(drop)
    }

    /// Loses all that it kept but the master key, as a disk that breaks does, and comes back from a backup as its operator
    /// would bring it back. Its administrator has another token then.
    pub async fn lose_all_and_restore(&mut self, file: &Path) -> Result<()> {
        self.kill().await?;
        let (state, kept) = (self.folder.join("control"), self.folder.join("kept.key"));
        std::fs::copy(state.join("master.key"), &kept).context("keep the master key")?;
        std::fs::remove_dir_all(&state).context("lose the state")?;
        std::fs::create_dir(&state).context("make the folder of the state")?;
        std::fs::copy(&kept, state.join("master.key")).context("put the master key back")?;
        self.bring_back(file).await?;
        let process = start(&self.programs, &self.folder, self.port, &self.settings)?;
        self.client = client(&self.url, &self.folder)
            .await
            .with_context(|| process.last_words())?;
        self.process = Some(process);
        Ok(())
    }

    fn command(&self, name: &str) -> tokio::process::Command {
        let mut command = tied(self.programs.path("moorline-control"));
        command.arg(name).arg("--state").arg(self.folder.join("control"));
        // What it refuses is what it says last.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Has it do nothing until the answer is dropped: its sockets stay open and nobody is at them.
    pub fn freeze(&self) -> Result<Frozen> {
        Frozen::new(self.pid().context("the control plane doesn't run")?)
    }

    /// What it said last.
    pub fn last_words(&self) -> String {
        self.process.as_ref().map(Running::last_words).unwrap_or_default()
    }
}

fn token_file(folder: &Path) -> PathBuf {
    folder.join("control/admin.token")
}

/// A port that nobody listens on now. Another process could take it before it is used; then that start fails and says
/// so.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn start(programs: &Programs, folder: &Path, port: u16, settings: &[String]) -> Result<Running> {
    let config = folder.join("control.toml");
    let text = format!("[settings]\n{}\n", settings.join("\n"));
    std::fs::write(&config, text).context("write the control plane's configuration")?;
    let mut command = tied(programs.path("moorline-control"));
    command
        .arg("--config")
        .arg(config)
        .arg("--state")
        .arg(folder.join("control"))
        .args(["--listen", &format!("127.0.0.1:{port}")]);
    Running::start("moorline-control", &mut command, next_log(folder, "control"))
}

/// What the control plane is known by: the certificate that it wrote for clients of this machine.
fn trust(folder: &Path) -> Result<Trust> {
    Ok(Trust::Authority(Authority::read(&folder.join("control/ca.pem"))?))
}

async fn client(url: &str, folder: &Path) -> Result<Client> {
    let url: BaseUrl = url.parse().context("the control plane's address")?;
    let connect = async || {
        let token = Token::read(&token_file(folder)).ok()?;
        let client = Client::new(Endpoint::new(url.clone(), token).trusting(trust(folder).ok()?)).ok()?;
        client.describe_hosts().await.ok()?;
        Some(client)
    };
    wait::until("the control plane to answer", PATIENCE, connect).await
}
