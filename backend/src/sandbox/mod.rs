//! The sandbox of a running backend (docs/security.md#sandbox).
//!
//! Sockets, wires and captures are opened first, then the sandbox begins, then threads are started:
//! filters and rules are those of a thread and of the threads that it starts. In it the process
//! opens no file, starts no program, makes no socket but those of its own wires, and gains no
//! rights.
//!
//! Two layers say so. seccomp compares system calls with a [list](calls) but can't see paths;
//! Landlock sees paths and addresses.

mod calls;
mod files;
mod filter;
mod handler;
mod watch;

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf};

use rustix::{
    process::{Resource, Rlimit, getpid, getrlimit, setrlimit},
    thread::gettid,
};
use seccompiler::{BackendError, apply_filter, apply_filter_all_threads};
use thiserror::Error;

pub use self::files::FilesError;

/// What happens to system calls that a running backend does not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SandboxMode {
    /// End the process and name the call
    #[default]
    Enforce,
    /// Log the call, once for each name, and allow it
    Warn,
    /// No sandbox
    Off,
}

/// Why the sandbox can't begin.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The list can't be written as a filter, or not for this architecture.
    #[error("Can't make the filter of system calls (--sandbox off runs without one)")]
    Compile(#[from] BackendError),
    /// The kernel refuses the filter.
    #[error("Can't filter system calls (--sandbox off runs without a filter)")]
    Filter(#[from] seccompiler::Error),
    /// The kernel can't report the calls of `--sandbox warn`.
    #[error("Can't watch system calls, which takes Linux 5.5")]
    Watch(#[source] io::Error),
    /// Files can't be confined.
    #[error("Can't confine access to files (--sandbox off runs without)")]
    Files(#[from] FilesError),
    /// A limit can't be lowered, or the handler of refused calls not be installed.
    #[error("Can't prepare the sandbox")]
    Prepare(#[source] io::Error),
}

/// What a running backend needs of the world besides its open descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Directories with the files of its sockets, which it removes at the end.
    pub(crate) removes_in: BTreeSet<PathBuf>,
    /// Unix sockets that wires connect to.
    pub(crate) unix: Vec<PathBuf>,
    /// TCP peers that wires connect to.
    pub(crate) tcp: Vec<SocketAddr>,
    /// There are TCP connections.
    pub(crate) has_tcp: bool,
}

/// Names of the system calls that a running backend may make, at least with some arguments. With
/// `--sandbox enforce` others end it, but for those of [`refused_calls`].
pub fn allowed_calls() -> impl Iterator<Item = &'static str> {
    calls::CALLS.iter().map(|call| call.name)
}

/// Names of the system calls that fail and are not worth ending a process for.
pub fn refused_calls() -> impl Iterator<Item = &'static str> {
    calls::REFUSED.iter().map(|call| call.name)
}

/// Confines the calling thread, and the threads that it starts from now on, to `reach`. The main
/// thread's calls are those of the process: the filter then holds for threads that run already, too.
///
/// A kernel without Landlock is reported and accepted: the filter alone refuses to open anything.
///
/// # Errors
///
/// The kernel can't do what `mode` asks for.
pub(crate) fn confine(mode: SandboxMode, reach: &Reach) -> Result<(), SandboxError> {
    match mode {
        SandboxMode::Off => Ok(()),
        SandboxMode::Warn => {
            let filter = filter::logging(reach)?;
            watch::install(filter).map_err(SandboxError::Watch)
        }
        SandboxMode::Enforce => {
            limit().map_err(SandboxError::Prepare)?;
            handler::install().map_err(SandboxError::Prepare)?;
            let is_main = gettid() == getpid();
            let has_rules = files::confine(reach, is_main)?;
            if !has_rules {
                log::warn!(
                    "Sandbox: this kernel has no Landlock (Linux 5.13, lsm=landlock); system calls \
                     are filtered all the same, and sockets are left behind at the end"
                );
            }
            let removes = has_rules && !reach.removes_in.is_empty();
            let apply = if is_main {
                apply_filter_all_threads
            } else {
                apply_filter
            };
            // The strictest last: it does not allow to add filters.
            for filter in filter::refusing(removes)? {
                apply(&filter)?;
            }
            apply(&filter::allowing(reach)?)?;
            Ok(())
        }
    }
}

/// Lowers limits of the process for good: a core file would have frames of all guests in it, and
/// the number of descriptors stays as it is.
fn limit() -> io::Result<()> {
    let descriptors = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            maximum: descriptors.current,
            ..descriptors
        },
    )?;
    Ok(())
}
