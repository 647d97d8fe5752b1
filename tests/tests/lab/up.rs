//! `moorline up`, as the first page of the README has it: one process, a guest, and what becomes of both when the process
//! is killed or told to end.

use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use moorline_lab::deployment::{OneHost, PATIENCE, Programs, free_port};
use moorline_lab::guest::seats;
use moorline_lab::image::{Busybox, Image};
use moorline_lab::process::finish;
use moorline_lab::setup::{self, Tools, tools};
use moorline_lab::wait;
use rustix::process::{Pid, Signal, kill_process};

const SECTION: &str = "## Use it on one machine";

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
    let mut host = OneHost::new(Programs::build().await?, &config)?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    host.start(&["--listen", &listen]).await?;

    let script = on.join("\n");
    let said = finish(host.command("bash").args(["-ec", &script])).await;
    let said = said.with_context(|| host.last_words())?;
    ensure!(said.contains("hello again"), "{said}");
    let id = finish(host.command("moorline").args(["instance", "list", "-o", "json"])).await?;
    let id: serde_json::Value = serde_json::from_str(&id)?;
    let id = id["instances"][0]["id"]
        .as_str()
        .context("an instance")?
        .parse()?;
    let guest = host.guest(id).await?;
    let read = "moorline-agent get config/greeting";
    guest
        .wait_for(format!("{read} | grep -x 'hello again'"), PATIENCE)
        .await?;

    // Killed at once, both of them: the guest reads on, and its VM is found again.
    let machines = host.vm_processes();
    host.kill().await?;
    ensure!(
        guest.run(read).await?.text()? == "hello again",
        "while it is away"
    );
    host.start(&["--listen", &listen]).await?;
    let set = ["data", "set", "web", "config/greeting", "and again"];
    finish(host.command("moorline").args(set)).await?;
    guest
        .wait_for(format!("{read} | grep -x 'and again'"), PATIENCE)
        .await?;

    // Told to end, it ends well, and the VM runs on.
    let pid = host
        .process()?
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    kill_process(pid.context("its process")?, Signal::INT)?;
    let ended = host.process()?.ended().await?;
    ensure!(ended.success(), "it ended with {ended}: {}", host.last_words());
    ensure!(host.vm_processes() == machines, "the VM is another one, or none");
    host.start(&["--listen", &listen]).await?;
    finish(host.command("moorline").args(["instance", "terminate", "web"])).await?;
    let gone = async || host.vm_processes().is_empty().then_some(());
    wait::until("the VM's end", PATIENCE, gone).await
}
