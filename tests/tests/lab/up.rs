//! `moorline up`, as the first page of the README has it: one process, a guest, and what becomes of both when the process
//! is killed or told to end.

use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use moorline_lab::deployment::{OneHost, PATIENCE, Programs, free_port};
use moorline_lab::guest::{Control, seats};
use moorline_lab::image::{Busybox, Image};
use moorline_lab::process::finish;
use moorline_lab::setup::{self, Tools, tools};
use moorline_lab::wait;
use rustix::process::{Pid, Signal, kill_process};

const SECTION: &str = "## Use it on one machine";
/// What the guest reads its greeting by.
const READ: &str = "moorline-agent get config/greeting";

/// The README's configuration, as the shell makes it of what `cargo lab image` prints.
fn configuration(lines: &[&str], tools: &Tools, image: &Image) -> Result<String> {
    let begin = lines.iter().position(|line| line.ends_with("<<TOML"));
    let end = lines.iter().position(|line| *line == "TOML");
    let (Some(begin), Some(end)) = (begin, end) else {
        bail!("no configuration in {lines:?}")
    };
    Ok(lines[begin + 1..end]
        .join("\n")
        .replace("$VSOCK_DEVICE", &tools.vsock_device.display().to_string())
        .replace("$KERNEL", &image.kernel.display().to_string())
        .replace("$INITRD", &image.initrd.display().to_string())
        .replace("$APPEND", &image.command_line))
}

#[tokio::test]
async fn one_process_is_enough_by_the_readmes_commands() -> Result<()> {
    let blocks = readme::commands(SECTION)?;
    let [begin, on] = &blocks[..] else {
        bail!("the section has other blocks: {blocks:?}")
    };
    ensure!(begin.contains(&"moorline up --config up.toml"), "{begin:?}");
    let tools = setup::ready().await?;
    let agent = tools::guest_program("moorline-agent", "moorline-agent").await?;
    let image = Busybox::new().agent(agent).build(tools).await?;
    let _seats = seats(1).await;
    let config = configuration(begin, tools, &image)?;
    let mut here = Here {
        host: OneHost::new(Programs::build().await?, &config)?,
        listen: format!("127.0.0.1:{}", free_port()?),
    };
    here.start().await?;
    let guest = here.begin(on).await?;
    here.outlives_a_kill(&guest).await?;
    here.outlives_an_end().await
}

/// The machine, and where its control plane listens.
struct Here {
    host: OneHost,
    listen: String,
}

impl Here {
    async fn start(&mut self) -> Result<()> {
        self.host.start(&["--listen", &self.listen]).await
    }

    /// The `moorline` command, told this.
    async fn moorline(&self, line: &[&str]) -> Result<String> {
        finish(self.host.command("moorline").args(line)).await
    }

    /// The README's commands in another terminal, and the guest that they begin.
    async fn begin(&self, lines: &[&str]) -> Result<Control> {
        let script = lines.join("\n");
        let said = finish(self.host.command("bash").args(["-ec", &script])).await;
        let said = said.with_context(|| self.host.last_words())?;
        ensure!(said.contains("hello again"), "{said}");
        let listed = self.moorline(&["instance", "list", "-o", "json"]).await?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let id = listed["instances"][0]["id"].as_str().context("an instance")?;
        let guest = self.host.guest(id.parse()?).await?;
        reads(&guest, "hello again").await?;
        Ok(guest)
    }

    /// Killed at once, both of them: the guest reads on, and its VM is found again.
    async fn outlives_a_kill(&mut self, guest: &Control) -> Result<()> {
        self.host.kill().await?;
        let read = guest.run(READ).await?.text()?;
        ensure!(read == "hello again", "while it is away the guest reads {read}");
        self.start().await?;
        self.moorline(&["data", "set", "web", "config/greeting", "and again"])
            .await?;
        reads(guest, "and again").await
    }

    /// Told to end, it ends well, and the VM runs on until it is to end itself.
    async fn outlives_an_end(&mut self) -> Result<()> {
        let machines = self.host.vm_processes();
        let process = self.host.process()?;
        let pid = process.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.context("its process")?, Signal::INT)?;
        let ended = process.ended().await?;
        ensure!(
            ended.success(),
            "it ended with {ended}: {}",
            self.host.last_words()
        );
        let left = self.host.vm_processes();
        ensure!(left == machines, "the VM is another one, or none: {left:?}");
        self.start().await?;
        self.moorline(&["instance", "terminate", "web"]).await?;
        let gone = async || self.host.vm_processes().is_empty().then_some(());
        wait::until("the VM's end", PATIENCE, gone).await
    }
}

/// Waits until the guest reads this greeting.
async fn reads(guest: &Control, greeting: &str) -> Result<()> {
    let read = format!("{READ} | grep -x '{greeting}'");
    guest.wait_for(read, PATIENCE).await.map(drop)
}
