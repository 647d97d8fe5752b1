//! The Debian packages in the lives of a host and of a guest: installed by the README's lines, upgraded while guests run,
//! removed and purged. The host is [`crate::nested`]'s and the guest [`crate::debian`]'s.

use crate::readme;
use anyhow::{Context, Result, bail, ensure};
use moorline_lab::cache::Cache;
use moorline_lab::guest::Control;
use moorline_lab::image::Debian;
use moorline_lab::package::{self, Packages, Purpose};
use std::path::PathBuf;
use std::time::Duration;

/// Where the packages of a revision are, in a guest that they are put beside.
const FOLDER: &str = "root/packages";
/// Emulated, apt and the restarts take their time.
const PATIENCE: Duration = Duration::from_mins(5);

/// Up to which exposure `systemd-analyze security` is content. The host daemon makes processes other users, looks after
/// their files and devices, and lets QEMU be what it is.
const EXPOSURES: [(&str, f64); 3] = [
    ("moorline-control", 1.5),
    ("moorline-host", 3.6),
    ("moorline-agent", 3.0),
];

/// The packages of a host with its own control plane.
pub(crate) async fn host(revision: u32) -> Result<[PathBuf; 3]> {
    let Packages {
        control,
        host,
        command,
    } = Packages::make(&Cache::open()?, Purpose::Test { revision }).await?;
    Ok([control, host, command])
}

/// The package of a guest.
pub(crate) async fn agent(revision: u32) -> Result<PathBuf> {
    package::agent(&Cache::open()?, Purpose::Test { revision }).await
}

/// Puts packages into an image, for the guest to install. It waits for no disk meanwhile.
pub(crate) fn beside(image: Debian, revision: u32, packages: &[PathBuf]) -> Result<Debian> {
    let image = image.file("etc/dpkg/dpkg.cfg.d/lab", "force-unsafe-io\n");
    packages.iter().try_fold(image, |image, package| {
        let name = package.file_name().and_then(|name| name.to_str());
        let name = name.context("a package's file has a name")?;
        Ok(image.program(format!("{FOLDER}/{revision}/{name}"), package))
    })
}

/// Runs a line where the packages of a revision are, to its end however long it takes.
async fn run(guest: &Control, revision: u32, line: &str) -> Result<String> {
    let script =
        format!("cd /{FOLDER}/{revision} && export LC_ALL=C DEBIAN_FRONTEND=noninteractive && {line}");
    let mut lines = guest.lines(format!("({script}) 2>&1; echo \"ended with $?\""))?;
    let mut said = String::new();
    let end = lines.wait_for("its end", PATIENCE, |line| {
        said += line;
        said += "\n";
        line.starts_with("ended with ")
    });
    let end = end.await;
    let end = end.with_context(|| format!("`{line}` has said: {said}"))?;
    ensure!(end == "ended with 0", "`{line}`: {said}");
    Ok(said)
}

/// The README's lines for a host: those that install, and those that begin.
pub(crate) fn lines_of_host() -> Result<(&'static str, Vec<&'static str>)> {
    let [host, _] = blocks()?;
    let (install, begin) = host.split_first().context("the README installs a host")?;
    Ok((install, begin.to_vec()))
}

fn blocks() -> Result<[Vec<&'static str>; 2]> {
    let blocks = readme::commands("## Install it")?;
    let blocks: Result<[_; 2], _> = blocks.try_into();
    let Ok(blocks) = blocks else {
        bail!("the README installs a host, then a guest")
    };
    Ok(blocks)
}

/// Installs a host, or upgrades it, by the README's line.
pub(crate) async fn install_host(guest: &Control, revision: u32) -> Result<()> {
    run(guest, revision, lines_of_host()?.0).await?;
    for package in ["moorline-control", "moorline-host", "moorline"] {
        has(guest, package, revision).await?;
    }
    Ok(())
}

/// Makes sure that a package is there, in this revision.
async fn has(guest: &Control, package: &str, revision: u32) -> Result<()> {
    let query = format!("dpkg-query --show --showformat '${{Version}} ${{db:Status-Abbrev}}' {package}");
    let told = guest.run(query).await?.text()?;
    let wanted = format!("-{revision} ii");
    ensure!(told.trim_end().ends_with(&wanted), "{package} is {told}");
    Ok(())
}

/// Makes sure that a unit can do no more than it must.
pub(crate) async fn is_confined(guest: &Control, unit: &str) -> Result<()> {
    let told = format!("systemd-analyze security --no-pager {unit} | tail -n 1");
    let told = guest.run(told).await?.text()?;
    let (_, exposure) = told.split_once(": ").context("the exposure of a unit")?;
    let exposure: f64 = exposure.split(' ').next().unwrap_or_default().parse()?;
    let known = EXPOSURES.iter().find(|(known, _)| *known == unit);
    let (_, bound) = known.context("a unit of ours")?;
    println!("{unit} is exposed by {exposure}");
    ensure!(exposure <= *bound, "{told}");
    Ok(())
}

/// Removes the packages of a host, which VMs outlive, and then all that there was.
pub(crate) async fn remove_and_purge_host(guest: &Control, vm: u64) -> Result<()> {
    const ALL: &str = "moorline moorline-host moorline-control";
    run(guest, 1, &format!("apt-get remove --yes {ALL}")).await?;
    let ended = "! systemctl is-active moorline-host moorline-control";
    guest.run(ended).await?.text()?;
    let kept = format!(
        "test -d /proc/{vm} && test -e /var/lib/moorline/control/store.db && test -e /etc/moorline/host.toml"
    );
    guest.run(kept).await?.text()?;
    // What somebody else has in the VMs' slice, as root's `moorline up` does, is nobody's to end.
    let other = "systemd-run --quiet --slice=moorline --unit=other sleep infinity";
    guest.run(other).await?.text()?;
    let said = run(guest, 1, &format!("apt-get purge --yes {ALL}")).await?;
    guest
        .run("systemctl is-active other && systemctl stop other moorline.slice")
        .await?
        .text()?;
    for deleted in ["/var/lib/moorline/control", "/var/lib/moorline/host"] {
        ensure!(
            said.contains(&format!("deleting {deleted}")),
            "purging said {said}"
        );
    }
    guest.run(format!("! test -d /proc/{vm}")).await?.text()?;
    leave_nothing(guest).await
}

/// Upgrades the agent, purges it, and installs it anew, in a guest whose greeting the agent tells.
pub(crate) async fn agent_comes_and_goes(guest: &Control) -> Result<()> {
    const GREETED: &str = "test \"$(moorline-agent get config/greeting)\" = hello";
    let [_, lines] = blocks()?;
    let &[install, enable] = &lines[..] else {
        bail!("the README installs a guest by other lines: {lines:?}")
    };
    let pid = "systemctl show --property=MainPID moorline-agent";
    let before = guest.run(pid).await?.text()?;
    run(guest, 2, install).await?;
    has(guest, "moorline-agent", 2).await?;
    guest.wait_for(GREETED, PATIENCE).await?;
    ensure!(
        guest.run(pid).await?.text()? != before,
        "the upgrade left the old agent running"
    );
    is_confined(guest, "moorline-agent").await?;

    let said = run(guest, 2, "apt-get purge --yes moorline-agent").await?;
    ensure!(
        said.contains("deleting /var/lib/moorline/agent"),
        "purging said {said}"
    );
    leave_nothing(guest).await?;
    run(guest, 2, install).await?;
    run(guest, 2, enable).await?;
    guest.wait_for(GREETED, PATIENCE).await.map(drop)
}

/// Makes sure that there is nothing of ours but what the lab itself put there.
async fn leave_nothing(guest: &Control) -> Result<()> {
    let found = [
        format!("find / -xdev -path /{FOLDER} -prune -o -path /proc -prune -o -iname '*moorline*' -print"),
        "find /run -iname '*moorline*' -not -iname '*org.moorline.lab*' -not -path '/run/systemd/*'"
            .to_owned(),
        "getent passwd moorline-control; getent group moorline-control".to_owned(),
        "systemctl list-units --all --plain --no-legend 'moorline*'".to_owned(),
        "systemctl list-unit-files --no-legend 'moorline*'".to_owned(),
        "dpkg-query --show --showformat '${Package}\\n' 'moorline*' 2>/dev/null".to_owned(),
    ];
    for find in found {
        let left = guest.run(format!("{find} || true")).await?.text()?;
        ensure!(left.is_empty(), "`{find}` finds: {left}");
    }
    Ok(())
}
