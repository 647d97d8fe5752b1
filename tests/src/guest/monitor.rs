//! QEMU's monitor, which speaks QMP.

use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long each step may take on a machine that builds meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// QEMU's arguments for it.
pub(super) fn arguments(folder: &Path) -> [String; 2] {
    let monitor = format!("unix:{},server=on,wait=off", socket(folder).display());
    ["-qmp".to_owned(), monitor]
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("monitor.sock")
}

/// A conversation with it, of which there is one at a time.
pub(super) struct Monitor {
    lines: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What was told while an answer was waited for.
    events: Vec<Value>,
}

impl Monitor {
    pub(super) async fn connect(folder: &Path) -> Result<Self> {
        let socket = socket(folder);
        let connect = async || UnixStream::connect(&socket).await.ok();
        let stream = wait::until("QEMU's monitor", PATIENCE, connect).await?;
        let (reader, writer) = stream.into_split();
        let mut monitor = Self {
            lines: BufReader::new(reader),
            writer,
            events: Vec::new(),
        };
        monitor.next().await.context("QEMU's greeting")?;
        monitor.ask("qmp_capabilities", &json!({})).await?;
        Ok(monitor)
    }

    /// What QEMU answers to a command.
    pub(super) async fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).await?;
        loop {
            let told = timeout(PATIENCE, self.next()).await;
            let mut told = told.with_context(|| format!("QEMU answers nothing to {command}"))??;
            match told["return"].take() {
                Value::Null if told["error"].is_object() => bail!("{command}: {}", told["error"]),
                Value::Null => self.events.push(told),
                answer => return Ok(answer),
            }
        }
    }

    /// Waits until QEMU has told what is wanted.
    pub(super) async fn until(&mut self, wanted: impl Fn(&Value) -> bool, patience: Duration) -> Result<()> {
        let told = async {
            while !self.events.iter().any(&wanted) {
                let told = self.next().await?;
                self.events.push(told);
            }
            Ok(())
        };
        let told = timeout(patience, told).await;
        told.context("QEMU doesn't tell what was waited for")?
    }

    async fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).await;
        ensure!(read? > 0, "QEMU is gone");
        Ok(serde_json::from_str(&line)?)
    }
}
