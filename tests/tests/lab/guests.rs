//! What every other test with guests stands on: guests boot, have no NIC, take commands, and reach unix
//! sockets of the host over vsock.

use anyhow::{Context, Result, ensure};
use moorline_lab::guest::{Ending, Guest, GuestOptions, Shell, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup;
use std::time::Duration;
use tokio::io;
use tokio::net::UnixListener;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn two_guests_without_a_nic_reach_the_host_over_vsock() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let seats = seats(2).await;
    let chosen = tempfile::tempdir()?;
    let here = GuestOptions::new(&image);
    let elsewhere = GuestOptions::new(&image).vsock_at(chosen.path().join("vm"));
    let (first, second) = tokio::try_join!(
        Guest::boot(&seats, tools, here),
        Guest::boot(&seats, tools, elsewhere)
    )?;
    println!(
        "two guests at once were up after {:.1?} and {:.1?}",
        first.boot_time(),
        second.boot_time()
    );
    ensure!(
        first.control().boot_id() != second.control().boot_id(),
        "the two guests are one"
    );
    ensure!(
        second.vsock_port(1234) == chosen.path().join("vm_1234"),
        "the vsock is not where it was put"
    );
    for guest in [&first, &second] {
        assert_eq!(guest.run("ls /sys/class/net").await?.text()?, "lo");
        echo_one_mebibyte(guest).await?;
    }
    Ok(())
}

async fn echo_one_mebibyte(guest: &Guest) -> Result<()> {
    let listener = UnixListener::bind(guest.vsock_port(1234)).context("listen for the guest")?;
    let echo = async {
        let (stream, _) = listener.accept().await.context("accept the guest")?;
        let (mut reader, mut writer) = stream.into_split();
        io::copy(&mut reader, &mut writer).await.context("echo")
    };
    let command = format!("lab-guest vsock-echo 1234 {MIB}");
    let (echoed, output) = tokio::try_join!(echo, guest.run(command))?;
    assert_eq!(echoed, MIB as u64);
    assert_eq!(output.text()?, "1048576 bytes came back as they went");
    Ok(())
}

#[tokio::test]
async fn a_guest_runs_commands_side_by_side() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let seats = seats(1).await;
    let guest = Guest::boot(&seats, tools, GuestOptions::new(&image)).await?;

    let failed = guest.run("echo out; echo err >&2; exit 3").await?;
    assert_eq!(
        (&failed.stdout[..], &failed.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(failed.ending, Ending::Code(3));
    assert_eq!(
        guest
            .run(Shell::ordinary("id -u; id -g; cd; pwd"))
            .await?
            .text()?,
        "1000\n1000\n/home/user"
    );
    assert_eq!(guest.run("curl --version | head -c 5").await?.text()?, "curl ");

    // A command that runs on is watched while others run, and dies with the watching.
    let mut watched = guest.lines("mkfifo /tmp/lines; echo $$; cat <>/tmp/lines")?;
    let process = watched.wait_for("the process id", PATIENCE, |_| true).await?;
    guest
        .run("echo one >/tmp/lines; echo two >/tmp/lines")
        .await?
        .text()?;
    assert_eq!(
        watched
            .wait_for("the second line", PATIENCE, |line| line == "two")
            .await?,
        "two"
    );
    guest.run(format!("kill -0 {process}")).await?.text()?;
    drop(watched);
    guest
        .wait_for(format!("! kill -0 {process} 2>/dev/null"), PATIENCE)
        .await?;

    guest.kill().await
}

#[tokio::test]
async fn a_new_session_ends_what_the_one_before_left() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let seats = seats(1).await;
    let guest = Guest::boot(&seats, tools, GuestOptions::new(&image)).await?;
    println!("a guest alone was up after {:.1?}", guest.boot_time());

    let mut left = guest.lines("echo $$; exec sleep 1000")?;
    let process = left.wait_for("the process id", PATIENCE, |_| true).await?;
    let boot_id = guest.control().boot_id().to_owned();
    // Forgotten, not dropped: dropping it would end the command in the old session.
    std::mem::forget(left);
    let guest = guest.reconnect().await?;
    assert_eq!(guest.control().boot_id(), boot_id, "the guest did not reboot");
    guest
        .wait_for(format!("! kill -0 {process} 2>/dev/null"), PATIENCE)
        .await?;
    Ok(())
}
