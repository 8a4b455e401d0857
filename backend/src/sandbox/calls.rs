//! The system calls of a running backend, each with its reason. Calls that only opening and starting
//! need are not among them: the sandbox begins after those, and before the first thread.
//!
//! A new call is one more line here. A name that an architecture lacks is left out there.

use libc::{
    AF_UNIX, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM, EACCES, ENOSYS, F_ADD_SEALS,
    F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FIONBIO, IPPROTO_TCP,
    PR_SET_NAME, PROT_EXEC, SO_KEEPALIVE, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET,
    TCP_KEEPIDLE, TCP_NODELAY,
};

/// What an argument of a call must be. Only its low 32 bits are looked at: all are ints or flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Is(i32),
    /// All these bits are set.
    Has(i32),
    /// None of these bits is set.
    Lacks(i32),
}

/// An argument's number, from 0, and what it must be.
pub(super) type Condition = (u8, Test);

/// When a call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// All conditions of one of these lists hold.
    If(&'static [&'static [Condition]]),
    /// The first argument is this process.
    OfThisProcess,
    /// `socket`: a stream socket of a family that wires connect with.
    MakesSocket,
    /// `connect`: the address is as long as that of a wire, or of a private socket.
    Connects,
    /// `setsockopt`: a time limit, or an option of a TCP wire.
    SetsOption,
    /// If Landlock bounds the directories and there are sockets to remove. It fails otherwise.
    Removes,
}

/// A system call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) when: When,
    /// What needs it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and a test"))]
    pub(super) why: &'static str,
}

/// A system call that fails with an error instead of ending the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) name: &'static str,
    pub(super) errno: i32,
    /// What calls it although it is refused.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and a test"))]
    pub(super) why: &'static str,
}

const fn always(name: &'static str, why: &'static str) -> Call {
    let when = When::Always;
    Call { name, when, why }
}

const fn only(when: When, name: &'static str, why: &'static str) -> Call {
    Call { name, when, why }
}

const fn refused(name: &'static str, errno: i32, why: &'static str) -> Refused {
    Refused { name, errno, why }
}

/// Length of the address of a socket whose abstract name the kernel chose: a family, a zero and five
/// digits (unix(7), "Autobind feature").
pub(super) const CHOSEN_NAME: i32 = 8;

/// Length of an address that asks the kernel to choose a name: only a family.
const CHOOSE_NAME: i32 = 2;

const NAMESPACES: i32 = CLONE_NEWCGROUP
    | CLONE_NEWIPC
    | CLONE_NEWNET
    | CLONE_NEWNS
    | CLONE_NEWPID
    | CLONE_NEWUSER
    | CLONE_NEWUTS;

const FIONBIO_REQUEST: i32 = FIONBIO as i32;

/// Options that every socket may get.
pub(super) const OPTIONS: &[(i32, i32)] = &[
    // How long a control client or a frontend may let a thread wait.
    (SOL_SOCKET, SO_SNDTIMEO),
    (SOL_SOCKET, SO_RCVTIMEO),
];

/// Options of the sockets of TCP wires.
pub(super) const TCP_OPTIONS: &[(i32, i32)] = &[
    (IPPROTO_TCP, TCP_NODELAY),
    // An end if the peer's host is gone.
    (SOL_SOCKET, SO_KEEPALIVE),
    (IPPROTO_TCP, TCP_KEEPIDLE),
];

/// Every system call that a running backend may make.
#[rustfmt::skip] // A line each.
pub(super) const CALLS: &[Call] = &[
    // Bytes, on descriptors that are open.
    always("read", "wires, replies of the daemon's half of a connection"),
    always("readv", "wires"),
    always("write", "interrupts, wake-ups of threads, log lines, answers to control clients"),
    always("writev", "frames to wires"),
    always("io_submit", "interrupts that must not wait for a frontend: eventfds are signalled by AIO"),
    always("io_getevents", "the same"),
    always("io_destroy", "the same, at the end"),
    always("recvfrom", "lines of control clients; whether one gave up"),
    always("recvmsg", "messages of frontends, with descriptors"),
    always("sendto", "answers to control clients"),
    always("sendmsg", "messages to the daemon's half of a connection, with descriptors"),
    always("close", "connections, and descriptors of frontends"),
    always("dup", "kick and call descriptors, which the vhost crates duplicate"),
    only(When::If(&[
        &[(1, Test::Is(F_DUPFD_CLOEXEC))], &[(1, Test::Is(F_GETFD))], &[(1, Test::Is(F_SETFD))],
        &[(1, Test::Is(F_GETFL))], &[(1, Test::Is(F_SETFL))],
        &[(1, Test::Is(F_ADD_SEALS))], &[(1, Test::Is(F_GET_SEALS))],
    ]), "fcntl", "duplicates of sockets, descriptors that must not block, seals of guest memory"),
    only(When::If(&[&[(1, Test::Is(FIONBIO_REQUEST))]]), "ioctl", "sockets that must not block; no other request"),

    // What is known about open descriptors. Paths can be examined, not opened.
    always("fstat", "size and kind of the files that frontends pass"),
    always("newfstatat", "the same; whether a socket's file is still its own at the end"),
    always("fstatat", "newfstatat by the name that it has in aarch64's table"),
    always("statx", "the same"),
    always("lseek", "size of the files of guest memory, in vm-memory"),
    always("fstatfs", "the file system of guest memory: its pages may depend on another process"),

    // Waiting.
    always("poll", "wires, listening sockets, the handler of a refused call"),
    always("ppoll", "the same, on architectures without poll"),
    always("epoll_create1", "the daemon's half of a connection"),
    always("epoll_ctl", "kick descriptors of a new frontend"),
    always("epoll_wait", "kicks"),
    always("epoll_pwait", "the same, on architectures without epoll_wait"),
    always("eventfd2", "the end of a daemon, in vhost-user-backend"),
    always("futex", "locks, condition variables, ends of threads"),
    always("clock_nanosleep", "pauses after a failed accept, and of wires"),
    always("nanosleep", "the same"),
    always("restart_syscall", "a wait that goes on after SIGSTOP and SIGCONT"),
    always("sched_yield", "locks of the standard library"),

    // Time, where the vDSO can't tell it.
    always("clock_gettime", "deadlines, device clock, log lines"),
    always("clock_getres", "the same"),
    always("gettimeofday", "the same"),
    always("time", "the same"),

    // Sockets.
    always("accept4", "frontends, control clients, peers of listening wires"),
    always("shutdown", "the end of a connection"),
    always("getsockname", "the name of a private socket; whether TCP connected a socket to itself"),
    always("getpeername", "whether TCP connected a socket to itself"),
    only(When::If(&[&[(1, Test::Is(SOL_SOCKET))]]), "getsockopt", "the outcome of a connect"),
    only(When::SetsOption, "setsockopt", "time limits, and the options of TCP wires"),
    only(When::MakesSocket, "socket", "private sockets (vhost::private), wires that connect"),
    only(When::If(&[&[(2, Test::Is(CHOOSE_NAME))]]), "bind", "private sockets: a name of the kernel's choice only"),
    always("listen", "private sockets"),
    only(When::Connects, "connect", "private sockets, wires that connect"),

    // Memory. Nothing becomes executable.
    only(When::If(&[&[(2, Test::Lacks(PROT_EXEC))]]), "mmap", "guest memory, stacks, the allocator"),
    only(When::If(&[&[(2, Test::Lacks(PROT_EXEC))]]), "mprotect", "guard pages of stacks, the allocator"),
    always("munmap", "guest memory, stacks, the allocator"),
    always("mremap", "the allocator"),
    always("madvise", "stacks of ended threads, the allocator, guest memory"),
    always("brk", "the allocator"),

    // Threads of this process.
    only(When::If(&[&[(0, Test::Has(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)), (0, Test::Lacks(NAMESPACES))]]),
        "clone", "threads of frontends and clients; never a process"),
    always("set_robust_list", "the start of a thread"),
    always("rseq", "the same"),
    always("sigaltstack", "the start and end of a thread: stacks for overflows"),
    always("rt_sigprocmask", "the start and end of a thread"),
    always("sched_getaffinity", "arenas of the allocator; stack bounds of a thread"),
    only(When::If(&[&[(0, Test::Is(0))]]), "sched_setaffinity", "a worker pins itself (--cpus)"),
    only(When::If(&[&[(0, Test::Is(PR_SET_NAME))]]), "prctl", "names of threads"),
    always("gettid", "the same; abort"),
    always("getpid", "abort"),
    always("exit", "the end of a thread"),
    always("exit_group", "the end of the process"),

    // Signals to this process.
    always("rt_sigaction", "handlers for faults in guest memory; abort"),
    always("rt_sigreturn", "the end of a handler"),
    only(When::OfThisProcess, "tgkill", "abort"),

    always("getrandom", "session numbers, hash tables"),
    only(When::Removes, "unlink", "the files of its sockets, at the end"),
    only(When::Removes, "unlinkat", "the same, on architectures without unlink"),
];

/// System calls that libraries try on their own and do without. The process does not end for them.
#[rustfmt::skip] // A line each.
pub(super) const REFUSED: &[Refused] = &[
    refused("open", EACCES, "libraries, on architectures that have it"),
    refused("openat", EACCES, "backtraces of panics; /proc and /sys, in the allocator"),
    refused("getcwd", EACCES, "backtraces of panics"),
    refused("readlink", EACCES, "backtraces of panics"),
    refused("readlinkat", EACCES, "the same, on architectures without readlink"),
    // Its flags are behind a pointer, which no filter can follow: glibc then calls clone.
    refused("clone3", ENOSYS, "the start of a thread"),
];

/// Families of sockets that are always made.
pub(super) const PRIVATE_FAMILY: i32 = AF_UNIX;

/// The type of all sockets, without flags.
pub(super) const SOCKET_TYPE: i32 = SOCK_STREAM;

/// The bits of a socket's type that are not flags (`SOCK_TYPE_MASK` of the kernel).
pub(super) const SOCKET_TYPE_BITS: i32 = 0xf;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Names that only one of the two architectures has.
    const X86_ONLY: &[&str] = &[
        "poll",
        "epoll_wait",
        "time",
        "unlink",
        "open",
        "readlink",
        "newfstatat",
    ];
    const ARM_ONLY: &[&str] = &["fstatat"];

    #[test]
    fn every_call_exists_once_and_has_a_reason() {
        let mut seen = BTreeSet::new();
        let allowed = CALLS.iter().map(|call| (call.name, call.why));
        let refused = REFUSED.iter().map(|call| (call.name, call.why));
        for (name, why) in allowed.chain(refused) {
            assert!(seen.insert(name), "{name} is listed twice");
            assert!(!why.is_empty(), "{name} has no reason");
            let on_x86 = name.parse::<syscalls::x86_64::Sysno>().is_ok();
            assert_eq!(on_x86, !ARM_ONLY.contains(&name), "{name}");
            let on_arm = name.parse::<syscalls::aarch64::Sysno>().is_ok();
            assert_eq!(on_arm, !X86_ONLY.contains(&name), "{name}");
        }
    }
}
