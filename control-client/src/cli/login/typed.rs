//! Passwords: typed without being shown, or read from the standard input.

use std::fs::File;
use std::io::{self, Read, Write as _};

use clap::Args;
use moorline_shared::secret::Secret;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::cli::failure::{Failure, InputName};
use crate::cli::input::read_stdin;

/// The longest password, in bytes.
const MAX_BYTES: usize = 4_096;

/// Where a password comes from.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct PasswordArgs {
    /// Read the password from the standard input instead of the terminal.
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordArgs {
    /// Reads a password that there is.
    pub(in crate::cli) fn read(self, prompt: &str) -> Result<Secret, Failure> {
        if self.password_stdin {
            of_stdin()
        } else {
            password_of_terminal(prompt)
        }
    }

    /// Reads a password that is to be. It is typed twice, since nobody sees what is typed.
    pub(in crate::cli) fn read_new(self, prompt: &str) -> Result<Secret, Failure> {
        let password = self.read(prompt)?;
        if !self.password_stdin && password_of_terminal(&format!("{prompt}, again"))? != password {
            return Err(Failure::PasswordsDiffer);
        }
        Ok(password)
    }
}

/// The first line of the standard input.
fn of_stdin() -> Result<Secret, Failure> {
    let bytes = Zeroizing::new(read_stdin(MAX_BYTES + 1)?);
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    secret(line.strip_suffix(b"\r").unwrap_or(line), InputName::Stdin)
}

/// A password that is typed at the terminal.
pub(in crate::cli) fn password_of_terminal(prompt: &str) -> Result<Secret, Failure> {
    let failed = |error| Failure::Input(InputName::Terminal, error);
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(failed)?;
    write!(terminal, "{prompt}: ").map_err(failed)?;
    let line = typed(&terminal);
    writeln!(terminal).map_err(failed)?;
    secret(&line.map_err(failed)?, InputName::Terminal)
}

fn secret(line: &[u8], name: InputName) -> Result<Secret, Failure> {
    if line.len() > MAX_BYTES {
        return Err(Failure::PasswordTooLong(MAX_BYTES));
    }
    let text = std::str::from_utf8(line);
    let text =
        text.map_err(|error| Failure::Input(name, io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok(text.to_owned().into())
}

/// A line that is typed and not shown. The terminal is as it was when this returns, also if it is interrupted.
fn typed(mut terminal: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let _silent = Silent::begin(terminal)?;
    // Large enough from the beginning: a copy into a larger one would leave the password where it was.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let mut key = [0];
    while terminal.read(&mut key)? == 1 {
        match press(&mut line, key[0]) {
            Pressed::More => {}
            Pressed::Enter => break,
            Pressed::Interrupt => return Err(io::ErrorKind::Interrupted.into()),
        }
    }
    Ok(line)
}

/// What a key means for the line that is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressed {
    More,
    Enter,
    Interrupt,
}

fn press(line: &mut Vec<u8>, byte: u8) -> Pressed {
    match byte {
        b'\n' | b'\r' => return Pressed::Enter,
        // Control and D, with which an empty line ends too.
        0x04 if line.is_empty() => return Pressed::Enter,
        // Control and C.
        0x03 => return Pressed::Interrupt,
        // Backspace, which takes a whole character: what follows its first byte in UTF-8 begins with the bits 10.
        0x08 | 0x7f => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
        // Control and U.
        0x15 => line.clear(),
        0x00..0x20 => {}
        // One more than allowed is kept, which is refused in the end.
        byte if line.len() <= MAX_BYTES => line.push(byte),
        _ => {}
    }
    Pressed::More
}

/// A terminal that gives each key as it is pressed and doesn't show it, until this is dropped. No key sends a signal, which
/// would end the process before that.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to be put right.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, Read as _, Write as _};
    use std::os::unix::ffi::OsStrExt as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    use super::{MAX_BYTES, press, secret, typed};
    use crate::cli::failure::InputName;

    /// The keyboard's end of a terminal, and the program's.
    fn terminal() -> (File, File) {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let name = std::ffi::OsStr::from_bytes(name.as_bytes());
        let program = File::options().read(true).write(true).open(name).unwrap();
        (File::from(keyboard), program)
    }

    /// What a program reads when these keys are pressed, and what the terminal shows meanwhile.
    fn pressed(keys: &[u8]) -> (io::Result<Vec<u8>>, String) {
        let (mut keyboard, program) = terminal();
        let before = tcgetattr(&program).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO | LocalModes::ISIG));
        let line = std::thread::scope(|threads| {
            let reading = threads.spawn(|| typed(&program));
            // What is pressed before the terminal is silent is thrown away.
            while tcgetattr(&program)
                .unwrap()
                .local_modes
                .contains(LocalModes::ECHO)
            {
                std::thread::yield_now();
            }
            keyboard.write_all(keys).unwrap();
            reading.join().unwrap()
        });
        let after = tcgetattr(&program).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
        (&program).write_all(b"end").unwrap();
        let mut shown = [0; 256];
        let count = keyboard.read(&mut shown).unwrap();
        let shown = String::from_utf8_lossy(&shown[..count]).into_owned();
        (line.map(|line| line.to_vec()), shown)
    }

    #[test]
    fn what_is_typed_is_not_shown_and_can_be_mended() {
        let (line, shown) = pressed("nonsense\u{15}hun\u{e9}\u{7f}ter2\n".as_bytes());
        assert_eq!((line.unwrap(), shown.as_str()), (b"hunter2".to_vec(), "end"));
    }

    #[test]
    fn an_interrupt_leaves_the_terminal_as_it_was() {
        let (line, shown) = pressed(b"hunter2\x03");
        assert_eq!(line.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(shown, "end");
    }

    #[test]
    fn a_password_that_is_too_long_is_refused_and_not_cut() {
        let mut line = Vec::new();
        for _ in 0..2 * MAX_BYTES {
            press(&mut line, b'x');
        }
        assert_eq!(line.len(), MAX_BYTES + 1);
        assert!(secret(&line, InputName::Terminal).is_err());
        assert!(secret(&line[1..], InputName::Terminal).is_ok());
    }
}
