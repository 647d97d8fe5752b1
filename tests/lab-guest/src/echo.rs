//! Proves that a vsock connection to the host carries bytes both ways.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use vsock::{VMADDR_CID_HOST, VsockStream};

/// The most that is handed to the guest's kernel at once. Linux from 6.17 on, and Debian 13's, spread a larger
/// write over several buffers, which vsock devices of VM managers older than that take for an error: the
/// connection then stands still.
const AT_ONCE: usize = 32 * 1024;

/// Sends `length` bytes to the host's vsock `port` while reading as many back.
///
/// Fails when the connection can't be made, ends early, or gives back other bytes than it took.
pub(crate) fn check(port: u32, length: usize) -> Result<()> {
    let mut stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, port)
        .with_context(|| format!("connect to the host's vsock port {port}"))?;
    let sent: Vec<u8> = pattern().take(length).collect();
    let received = thread::scope(|scope| -> Result<Vec<u8>> {
        // Written beside the reading: were it written first, both ends' buffers could fill and stay full.
        let writer = scope.spawn(|| {
            sent.chunks(AT_ONCE)
                .try_for_each(|part| (&stream).write_all(part))
        });
        let mut received = vec![0; length];
        (&stream).read_exact(&mut received).context("read the echo")?;
        writer
            .join()
            .expect("the writer does not panic")
            .context("write to the host")?;
        Ok(received)
    })?;
    stream.flush().context("flush")?;
    stream
        .shutdown(Shutdown::Both)
        .context("shut the connection down")?;
    ensure!(received == sent, "the echo differs from what was sent");
    println!("{length} bytes came back as they went");
    Ok(())
}

/// Bytes whose period (251) divides no power of two, so that a lost or repeated block is seen.
fn pattern() -> impl Iterator<Item = u8> {
    (0..=250u8).cycle()
}
