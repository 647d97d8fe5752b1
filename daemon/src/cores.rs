//! What is in a daemon's memory stays there: it holds secrets in the clear, and leaves no core file.
//!
//! Both daemons owe their secrets the same. The guest agent, whose dependencies are few, makes the call by its own.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Why the kernel didn't take the process's memory out of core files.
#[derive(Debug, thiserror::Error)]
#[error(
    "{call} doesn't keep this process's memory out of core files; run it under a system that allows that"
)]
pub struct CoresError {
    /// The system call that failed.
    call: &'static str,
    source: rustix::io::Errno,
}

/// Has the kernel write no core file of this process, nor hand one to a collector, nor let another process of the same
/// user read its memory. Programs that it starts write none either.
///
/// Call it before anything secret is read.
///
/// # Errors
/// [`CoresError`] with what the kernel says, where it allows neither.
pub fn write_none() -> Result<(), CoresError> {
    // A collector behind a pipe is given cores whatever the limit is; who isn't dumpable is given to nobody.
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let failed = |call| move |source| CoresError { call, source };
    setrlimit(Resource::Core, nothing).map_err(failed("setrlimit"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("prctl"))
}

#[cfg(test)]
mod tests {
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn the_kernel_says_that_none_is_written() {
        super::write_none().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
