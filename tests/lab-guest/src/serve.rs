//! The loop that runs the lab's commands.
//!
//! One thread reads requests. Each command has a thread that waits for it and two that pass its output on;
//! all of them write whole lines to the port under one lock.

use anyhow::{Context, Result};
use moorline_lab_guest::{CommandId, Ending, Event, Request};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Serves requests from the virtio-serial port at `device` until the port itself is gone.
pub(crate) fn serve(device: &Path) -> Result<()> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .context("open the lab's port")?;
    let mut lines = BufReader::new(port.try_clone().context("share the lab's port")?);
    let helper = Helper {
        port: Arc::new(Mutex::new(port)),
        running: Arc::default(),
    };
    let mut line = String::new();
    loop {
        line.clear();
        match lines.read_line(&mut line).context("read a request")? {
            // The port reads as ended while nobody holds its other end, and has no way to wait for somebody.
            0 => thread::sleep(Duration::from_millis(20)),
            _ => helper.take(&line),
        }
    }
}

/// Shared by the threads of all commands.
#[derive(Clone)]
struct Helper {
    port: Arc<Mutex<File>>,
    running: Arc<Mutex<HashMap<CommandId, Pid>>>,
}

impl Helper {
    /// A line that is no request is the torn end of an earlier session, and is passed over.
    fn take(&self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Request::Hello { session }) => self.begin(session),
            Ok(Request::Run { id, command, uid }) => self.start(id, &command, uid),
            Ok(Request::Kill { id }) => self.kill(id),
            Err(error) => eprintln!("lab-guest: not a request: {error}"),
        }
    }

    fn begin(&self, session: u64) {
        for (_, group) in lock(&self.running).drain() {
            kill_group(group);
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.send(&Event::Hello {
            session,
            boot_id: boot_id.trim().to_owned(),
        });
    }

    fn start(&self, id: CommandId, command: &str, uid: u32) {
        match spawn(command, uid) {
            Ok(child) => {
                let group = Pid::from_child(&child);
                lock(&self.running).insert(id, group);
                let helper = self.clone();
                thread::spawn(move || helper.follow(id, child));
            }
            Err(error) => self.send(&Event::Ended {
                id,
                ending: Ending::NotStarted(error.to_string()),
            }),
        }
    }

    /// Passes a command's output on, then says how it ended.
    fn follow(&self, id: CommandId, mut child: Child) {
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        thread::scope(|scope| {
            scope.spawn(|| self.pass_on(stdout, |data| Event::Stdout { id, data }));
            scope.spawn(|| self.pass_on(stderr, |data| Event::Stderr { id, data }));
        });
        let status = child.wait();
        lock(&self.running).remove(&id);
        let ending = status.map_or_else(|error| Ending::NotStarted(error.to_string()), ending);
        self.send(&Event::Ended { id, ending });
    }

    fn pass_on(&self, output: Option<impl Read>, event: impl Fn(Vec<u8>) -> Event) {
        let Some(mut output) = output else { return };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = output.read(&mut buffer) {
            self.send(&event(buffer[..read].to_vec()));
        }
    }

    fn kill(&self, id: CommandId) {
        if let Some(&group) = lock(&self.running).get(&id) {
            kill_group(group);
        }
    }

    fn send(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is plain data");
        line.push(b'\n');
        // Nobody to tell: the lab's end is gone, and the next session begins with a clean line.
        let _ = lock(&self.port).write_all(&line);
    }
}

fn spawn(command: &str, uid: u32) -> std::io::Result<Child> {
    let (user, home) = if uid == 0 {
        ("root", "/root")
    } else {
        ("user", "/home/user")
    };
    Command::new("/bin/sh")
        .args(["-c", command])
        .uid(uid)
        .gid(uid)
        .current_dir(home)
        .env("HOME", home)
        .env("USER", user)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// The group may have ended by itself meanwhile, which is as good.
fn kill_group(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, signal) => Ending::Signal(signal.unwrap_or_default()),
    }
}

/// A thread that panicked leaves the map and the port as usable as they were.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
