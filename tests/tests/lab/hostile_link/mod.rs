//! Guests that don't behave, at the real host daemon's sockets. The tests are named by the rows of the design's table
//! of what a hostile guest does. Some rows are shown elsewhere:
//!
//! | row | what the guest does | the tests that show it |
//! |---|---|---|
//! | 9 | watches what it can't read | `row_9_an_entry_that_was_never_shown_is_never_named`, `row_9_a_foreign_reader_hears_of_a_change_and_then_of_the_withdrawal` (`api/feed`); `anothers_entries_are_read_and_changed_as_their_lists_say` (`access`) |
//! | 12 | asks for the root and the empty path | `row_11_paths_are_compared_byte_by_byte_and_never_mended`; `row_12_what_a_guest_may_not_have_of_its_own_is_not_in_its_mirror`, `anothers_entries_are_read_and_changed_as_their_lists_say` (`access`) |
//! | 15 | has a clock that is years off | `row_15_a_guest_whose_calendar_is_years_off_signs_at_the_control_planes_time` (`guest-agent`); `what_is_signed_badly_is_refused` (`control-plane`); `row_15_an_entry_ends_by_the_clock_that_nobody_sets` (`host-daemon`) |
//! | 19 | is one of N, each at its quota | `row_19_a_vm_that_there_is_no_room_for_does_not_begin`, `row_19_a_guest_that_there_is_no_room_for_is_not_taken_in` (`host-daemon`); `row_17_a_guest_that_knows_nothing_again_and_again_is_written_of_seldom`; `one_instance_has_its_last_sessions_here_and_takes_nobodys_room` (`host-daemon`) |
//! | 20 | names files | `row_11_paths_are_compared_byte_by_byte_and_never_mended`; `row_20_a_file_in_the_way_stays_and_a_link_is_not_followed`, `row_20_paths_that_name_no_device_are_refused` (`host-daemon`); `marks_are_there_for_the_next_process_until_they_are_removed` (`guest-agent`) |
//!
//! Row 21 is about triggers, which there are none of yet.
//!
//! In every one an honest guest goes on asking on its own connection, and must be answered promptly the whole time
//! ([`Trial`]). A hostile guest is a socket on which a test writes what it wants ([`Raw`]). [`frames`] breaks the
//! protocol, [`reading`] is slow or doesn't read, [`greed`] wants too much, [`ledger`] would have others pay, [`names`]
//! pretends, and [`crowd`] attacks among fifty guests as fast as it can.

mod crowd;
mod frames;
mod greed;
mod ledger;
mod names;
mod reading;

use super::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::process::memory;
use moorline_lab::wait;
use moorline_shared::link::Kind;
use moorline_shared::link::frame::HEADER_BYTES;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A fault that shows at once ends its connection well within this.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Longer than any deadline of the protocol.
const LONGEST: Duration = Duration::from_secs(50);

/// An attack under way; attacks are long, so they lie on the heap.
type Attempt<'t> = Pin<Box<dyn Future<Output = Result<()>> + 't>>;

/// A deployment with an honest guest.
struct Trial {
    deployment: Deployment,
    honest: External,
}

impl Trial {
    /// One whose guests may connect as often as the daemon lets them by default.
    async fn begin() -> Result<Self> {
        Self::with(Plan::new(Programs::build().await?)).await
    }

    /// One whose guests may connect as often as tests do.
    async fn with_many_connections() -> Result<Self> {
        let plan = Plan::new(Programs::build().await?);
        let plan = plan.host("link", "connect_burst = 1000\nconnect_interval_ms = 10");
        Self::with(plan).await
    }

    async fn with(plan: Plan) -> Result<Self> {
        let deployment = plan.start().await?;
        let honest = deployment.attach("honest", &[("name", "honest")]).await?;
        Ok(Self { deployment, honest })
    }

    /// A guest that won't behave, with an entry `name` of 4 bytes.
    async fn guest(&self, name: &str) -> Result<External> {
        self.deployment.attach(name, &[("name", "evil")]).await
    }

    /// Attacks while the honest guest asks. It must be answered promptly, on the same connection, by the same daemon.
    fn withstands<'t>(&'t self, attack: impl Future<Output = Result<()>> + 't) -> Attempt<'t> {
        Box::pin(self.withstand(attack))
    }

    async fn withstand(&self, attack: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.deployment.admin_socket()?.status().await?;
        let mut honest = Talker::begin(&self.honest.socket()).await?;
        let session = self.session_of(&self.honest).await?;
        let done = CancellationToken::new();
        let attack = async {
            let _done = done.clone().drop_guard();
            attack.await
        };
        let asking = honest.keep_asking("name", "honest", &done);
        let asking = async { asking.await.context("the honest guest") };
        let (answers, ()) = tokio::try_join!(asking, attack).with_context(|| self.deployment.last_words())?;
        ensure!(answers > 0, "the honest guest asked for nothing");
        ensure!(
            self.session_of(&self.honest).await? == session,
            "the honest guest was cut off"
        );
        let after = self.deployment.admin_socket()?.status().await?;
        ensure!(
            (after.pid, after.started_at) == (before.pid, before.started_at),
            "the daemon is another one"
        );
        let said = self.deployment.host_said();
        ensure!(
            !said.contains("panicked"),
            "a part of the daemon panicked:\n{said}"
        );
        Ok(())
    }

    async fn session_of(&self, guest: &External) -> Result<u64> {
        let status = self.deployment.guest_status(guest.id).await;
        let connection = status.and_then(|status| status.connection);
        Ok(connection.context("a guest has no connection")?.session)
    }

    /// How many connections of the guest ended by its own fault.
    async fn faults(&self, guest: &External) -> Result<u64> {
        let status = self.deployment.guest_status(guest.id).await;
        Ok(status.context("the daemon knows the guest")?.requests.faults)
    }

    /// A guest that behaves again is served, as soon as it may connect.
    async fn forgives(&self, guest: &External) -> Result<()> {
        let served = async || {
            let mut talker = Talker::begin(&guest.socket()).await.ok()?;
            talker.get("name").await.ok()?.ok()
        };
        let found = wait::until("the guest to be served again", PATIENCE, served).await?;
        ensure!(&*found.value == b"evil", "another value came");
        Ok(())
    }

    /// What the daemon takes of memory that no file stands behind, in bytes.
    fn memory(&self) -> Result<u64> {
        let pid = self.deployment.host_pid().context("the daemon has ended")?;
        memory(pid, "Anonymous:")
    }

    /// How many unix sockets the daemon has: those that it listens on, and those of who is connected.
    fn sockets(&self) -> Result<usize> {
        let pid = self.deployment.host_pid().context("the daemon has ended")?;
        let table = std::fs::read_to_string("/proc/net/unix")?;
        let inodes: HashSet<_> = table
            .lines()
            .filter_map(|line| line.split_whitespace().nth(6))
            .collect();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let targets = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()?.to_str().map(str::to_owned));
        let inode = |target: &String| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
        Ok(targets
            .filter_map(|target| inode(&target))
            .filter(|inode| inodes.contains(&**inode))
            .count())
    }

    /// Waits until the daemon has no more unix sockets than that.
    async fn closes_down_to(&self, sockets: usize) -> Result<()> {
        let closed = async || (self.sockets().ok()? <= sockets).then_some(());
        wait::until("the daemon to close what nobody is at any more", PATIENCE, closed).await
    }
}

/// A connection on which a test writes what no guest should.
struct Raw(UnixStream);

impl Raw {
    /// Connected, and nothing said.
    async fn dial(guest: &External) -> Result<Self> {
        Self::at(&guest.socket()).await
    }

    async fn at(socket: &Path) -> Result<Self> {
        Ok(Self(
            UnixStream::connect(socket).await.context("connect as a guest")?,
        ))
    }

    /// After HELLO and the first snapshot.
    async fn welcomed(guest: &External) -> Result<Self> {
        Self::of(Talker::begin(&guest.socket()).await?)
    }

    /// A guest that was honest up to here.
    fn of(talker: Talker) -> Result<Self> {
        Ok(Self(talker.into_socket()?))
    }

    /// Connected, and greeted with a CHALLENGE, which means that the daemon has taken the connection.
    async fn greeted(guest: &External) -> Result<Self> {
        Ok(Self::challenged(guest).await?.0)
    }

    /// The same, with the challenge's nonce.
    async fn challenged(guest: &External) -> Result<(Self, [u8; 16])> {
        let mut raw = Self::dial(guest).await?;
        let (_, kind, body) = raw.next_whole_frame().await?;
        ensure!(
            kind == Kind::Challenge as u8,
            "kind {kind:#x} came instead of CHALLENGE"
        );
        let nonce = <[u8; 16]>::try_from(body).ok().context("a nonce has 16 bytes")?;
        Ok((raw, nonce))
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await.context("write to the host")
    }

    /// Reads to the end that the host makes, and answers with how long that took.
    async fn ended(mut self) -> Result<Duration> {
        let begun = Instant::now();
        let end = async {
            let mut sink = Vec::new();
            loop {
                sink.clear();
                match self.0.read_buf(&mut sink).await {
                    Ok(0) => return Ok(()),
                    Ok(_) => (),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        timeout(LONGEST, end)
            .await
            .context("the host doesn't hang up")??;
        Ok(begun.elapsed())
    }

    /// The stream and the kind of the next frame.
    async fn next_frame(&mut self) -> Result<(u32, u8)> {
        let (stream, kind, _) = self.next_whole_frame().await?;
        Ok((stream, kind))
    }

    /// The stream, the kind and the body of the next frame.
    async fn next_whole_frame(&mut self) -> Result<(u32, u8, Vec<u8>)> {
        let frame = async {
            let mut header = [0; HEADER_BYTES];
            self.0.read_exact(&mut header).await?;
            let [l0, l1, l2, l3, kind, _, s0, s1, s2, s3] = header;
            let mut body = vec![0; u32::from_le_bytes([l0, l1, l2, l3]) as usize];
            self.0.read_exact(&mut body).await?;
            Ok::<_, std::io::Error>((u32::from_le_bytes([s0, s1, s2, s3]), kind, body))
        };
        let frame = timeout(LONGEST, frame).await.context("the host says nothing")?;
        frame.context("the host hung up")
    }

    /// The kind of the next frame of any stream but the session's own.
    async fn first_answer(&mut self) -> Result<u8> {
        loop {
            if let (1.., kind) = self.next_frame().await? {
                return Ok(kind);
            }
        }
    }

    async fn ends_at_once(self) -> Result<()> {
        let took = self.ended().await?;
        ensure!(took < AT_ONCE, "the host hung up after {took:?} only");
        Ok(())
    }
}
