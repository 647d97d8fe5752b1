//! What `moorline-control` does beside serving: backups.

use std::fs::File;
use std::io::{IsTerminal as _, Read, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use moorline_control::backup::{KeyCheck, Terms, restore, take};
use moorline_control::config::Config;
use moorline_shared::Timestamp;

const BACKUP_HELP: &str = "\
The control plane may run meanwhile. The backup has the store as it is at one moment, and not the master key, without \
which no secret in it opens: keep a copy of master.key elsewhere. While it is taken, the disk holds another copy of the \
store beside FILE, or in the folder of the state for the standard output.

Examples:
  moorline-control backup /var/backups/moorline.backup
  moorline-control backup - | ssh elsewhere 'cat > moorline.backup'";

const RESTORE_HELP: &str = "\
The control plane must not run, and its folder must be empty but for master.key, which has to be put back first. What was \
committed after the backup is lost. That includes instances that were begun after it: their hosts end their VMs. Hosts and \
guests come to the restored state by themselves when the control plane is started; what clients had seen before, cursors \
and ETags, fits no more, and they read again.

Examples:
  systemctl stop moorline-control
  mv /var/lib/moorline/control /var/lib/moorline/control.lost
  install -d -o moorline-control -g moorline-control -m 700 /var/lib/moorline/control
  install -o moorline-control -m 600 master.key /var/lib/moorline/control/
  moorline-control restore /var/backups/moorline.backup
  systemctl start moorline-control";

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes a backup of the control plane's store.
    #[command(after_help = BACKUP_HELP)]
    Backup {
        /// The file to write, which is replaced once the backup is whole; - for the standard output.
        file: PathBuf,
    },
    /// Makes the folder of the state of a backup.
    #[command(after_help = RESTORE_HELP)]
    Restore {
        /// The file that `backup` wrote; - for the standard input.
        file: PathBuf,
        /// Does not look for the master key: systemd gives it to the service at its start.
        #[arg(long)]
        key_at_start: bool,
        /// The highest epoch that a host has seen, where the clock can't be trusted to be later: the number before the dot
        /// of the cursor in its log.
        #[arg(long, value_name = "EPOCH")]
        epoch_after: Option<u64>,
    },
}

impl Command {
    /// Does it. Blocks.
    pub(crate) fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Backup { file } => backup(config, &file),
            Self::Restore {
                file,
                key_at_start,
                epoch_after,
            } => {
                let key = if key_at_start {
                    KeyCheck::AtStart
                } else {
                    KeyCheck::Now
                };
                let terms = Terms {
                    key,
                    epoch_after,
                    now: now()?,
                };
                bring_back(config, &file, &terms)
            }
        }
    }
}

fn backup(config: &Config, file: &Path) -> anyhow::Result<()> {
    let to = (file.as_os_str() != "-").then_some(file);
    ensure!(
        to.is_some() || !stdout().is_terminal(),
        "a backup is no text: name a file, or send the standard output somewhere else"
    );
    let header = take(config, to, stdout().lock(), now()?)?;
    eprintln!(
        "backed up revision {} of '{}', {} bytes; master.key is not in it",
        header.revision, header.deployment, header.bytes
    );
    Ok(())
}

fn now() -> anyhow::Result<Timestamp> {
    let age = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = i64::try_from(age).ok().and_then(Timestamp::from_millis);
    now.context("the system's clock is out of range")
}

fn bring_back(config: &Config, file: &Path, terms: &Terms) -> anyhow::Result<()> {
    let from: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("{}: it can't be opened", file.display()))?;
        Box::new(std::io::BufReader::new(opened))
    };
    let restored = restore(config, from, terms)?;
    let header = restored.header;
    eprintln!(
        "restored '{}' as of {}: its revision {} is {} now; start moorline-control",
        header.deployment, header.taken_at, header.revision, restored.revision
    );
    Ok(())
}
