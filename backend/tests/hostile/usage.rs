//! What a process takes of the host.

use std::{fmt, fs, path::PathBuf};

/// What a process takes of the host at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory of its own, in bytes: shared memory, as of guests, is not counted.
    pub(crate) anonymous: u64,
    /// Address space, in bytes.
    pub(crate) address_space: u64,
    /// Open file descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
}

impl Usage {
    /// The usage of process `pid`; `None`: it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let room = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(room.join("status")).ok()?;
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            anonymous: kilobytes("RssAnon:")? << 10,
            address_space: kilobytes("VmSize:")? << 10,
            descriptors: fs::read_dir(room.join("fd")).ok()?.count(),
            threads: kilobytes("Threads:")? as usize,
        })
    }

    /// Whether this is no more than `before`, but for memory that the allocator keeps for later.
    pub(crate) fn is_back_to(&self, before: &Self) -> bool {
        /// Memory that the allocator may keep, in bytes: what fault rules of a port may take, and
        /// some that the backend takes beside that.
        const KEPT: u64 = (64 + 16) << 20;
        /// Address space that the allocator may keep, in bytes: an arena.
        const RESERVED: u64 = 256 << 20;
        self.anonymous <= before.anonymous + KEPT
            && self.address_space <= before.address_space + RESERVED
            && self.descriptors <= before.descriptors
            && self.threads <= before.threads
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            anonymous,
            address_space,
            descriptors,
            threads,
        } = self;
        write!(
            f,
            "{} MiB of its own, {} MiB of addresses, {descriptors} descriptors, {threads} threads",
            anonymous >> 20,
            address_space >> 20
        )
    }
}

/// Whether any thread of process `pid` runs or waits for a processor.
pub(crate) fn wants_processor(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().any(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state follows the name, which may have any characters.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('R'))
    })
}
