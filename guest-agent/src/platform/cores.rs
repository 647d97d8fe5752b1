//! What is in the agent's memory stays there: it holds the instance's token, its key and its secrets in the clear.

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Has the kernel write no core file of this process, nor hand one to a collector, nor let another process of the same
/// user read its memory.
///
/// # Errors
/// What the kernel says, where it allows neither.
pub fn write_no_cores() -> Result<(), Errno> {
    // A collector behind a pipe is given cores whatever the limit is; who isn't dumpable is given to nobody.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use nix::sys::prctl::get_dumpable;
    use nix::sys::resource::{Resource, getrlimit};

    #[test]
    fn the_kernel_says_that_none_is_written() {
        super::write_no_cores().unwrap();
        assert_eq!(get_dumpable(), Ok(false));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
    }
}
