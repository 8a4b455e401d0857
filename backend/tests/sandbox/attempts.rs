//! Everything that a process in the sandbox must not do, tried in it.

#![allow(unsafe_code, reason = "system calls as an attacker would make them")]

use std::{
    cell::Cell,
    collections::BTreeSet,
    ffi::{CStr, CString, c_int, c_long, c_void},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    ptr,
};

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, EACCES, ENOSYS, F_SETOWN,
    MAP_ANONYMOUS, MAP_PRIVATE, PR_SET_DUMPABLE, PR_SET_NAME, PROT_EXEC, PROT_READ, PROT_WRITE,
    SIGCHLD, SO_ATTACH_FILTER, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SOL_SOCKET, TIOCSTI,
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
        socket_with,
    },
};
use syscalls::Sysno;
use zcnic_backend::{SandboxMode, allowed_calls, refused_calls};

use super::inside::{enter, in_process, kept, passes_in_process};

thread_local! {
    /// The call that the sandbox stopped last.
    static STOPPED: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Notes which call was stopped, in place of the backend's handler, which ends the process.
fn note_stopped_calls() {
    extern "C" fn note(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel passes a valid `siginfo_t`, and fills in the number for SIGSYS.
        STOPPED.set(Some(unsafe { (*info).si_syscall() }));
    }
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = note;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and only writes to a cell.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0);
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The sandbox stopped the call; outside of this test the process would have ended.
    Stopped,
    /// It failed.
    Failed(i32),
    Succeeded,
}

fn attempt(number: c_long, arguments: [c_long; 6]) -> End {
    STOPPED.set(None);
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: pointers among the arguments are valid; calls that could break the process are the
    // ones that must not happen, and the test ends if they do.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    match STOPPED.get() {
        Some(stopped) => {
            assert_eq!(c_long::from(stopped), number);
            End::Stopped
        }
        None if result < 0 => End::Failed(error),
        None => End::Succeeded,
    }
}

fn text(text: &CStr) -> c_long {
    text.as_ptr() as c_long
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no zero")
}

fn list(arguments: &[c_int]) -> [c_long; 6] {
    let mut six = [0; 6];
    for (place, argument) in six.iter_mut().zip(arguments) {
        *place = (*argument).into();
    }
    six
}

/// Calls that seccomp never sees: the kernel's own code for probes makes them, and the kernel kills
/// a process that makes them elsewhere.
const OF_PROBES: &[&str] = &["uretprobe", "uprobe"];

/// Every call that the kernel has a number for and that is not on the list, without arguments.
fn every_other_call_is_stopped() {
    let known = allowed_calls().chain(refused_calls());
    let known: BTreeSet<_> = known.chain(OF_PROBES.iter().copied()).collect();
    // If not even this is stopped, the others must not be tried.
    assert_eq!(attempt(libc::SYS_execve, [0; 6]), End::Stopped);
    let mut tried = 0;
    for call in Sysno::iter().filter(|call| !known.contains(call.name())) {
        assert_eq!(attempt(call.id().into(), [0; 6]), End::Stopped, "{call}");
        tried += 1;
    }
    assert!(tried > 250, "only {tried} calls were tried");
    for name in [
        "execve",
        "execveat",
        "fork",
        "vfork",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kill",
        "tkill",
        "pidfd_open",
        "pidfd_getfd",
        "pidfd_send_signal",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "fsopen",
        "open_tree",
        "setuid",
        "setgid",
        "setgroups",
        "setresuid",
        "capset",
        "seccomp",
        "prlimit64",
        "setrlimit",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "keyctl",
        "add_key",
        "memfd_create",
        "mkdir",
        "rename",
        "link",
        "symlink",
        "chmod",
        "fchmod",
        "chown",
        "truncate",
        "ftruncate",
        "mknod",
        "open_by_handle_at",
        "chdir",
        "socketpair",
        "init_module",
        "kexec_load",
        "reboot",
        "sethostname",
        "clock_settime",
        "sched_setscheduler",
        "personality",
        "modify_ldt",
    ] {
        assert!(!known.contains(name), "{name} may be called");
    }
}

/// Calls that are on the list, with arguments that are not.
fn other_arguments_are_stopped(far: &OwnedFd) {
    let fd = far.as_raw_fd();
    for arguments in [
        [AF_INET, SOCK_STREAM, 0],
        [AF_INET6, SOCK_STREAM, 0],
        [AF_NETLINK, SOCK_RAW, 0],
        [AF_PACKET, SOCK_RAW, 0],
        [AF_VSOCK, SOCK_STREAM, 0],
        [AF_UNIX, SOCK_DGRAM, 0],
    ] {
        let end = attempt(libc::SYS_socket, list(&arguments));
        assert_eq!(end, End::Stopped, "{arguments:?}");
    }
    for (number, arguments) in [
        // A process in place of a thread.
        (libc::SYS_clone, list(&[SIGCHLD])),
        // Code that was not there at the start.
        (
            libc::SYS_mmap,
            list(&[
                0,
                4096,
                PROT_READ | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS,
                -1,
            ]),
        ),
        (
            libc::SYS_mprotect,
            list(&[0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC]),
        ),
        // Input for the terminal that zcnic was started in.
        (libc::SYS_ioctl, list(&[2, TIOCSTI as c_int])),
        (libc::SYS_fcntl, list(&[fd, F_SETOWN, 1])),
        (
            libc::SYS_setsockopt,
            list(&[fd, SOL_SOCKET, SO_ATTACH_FILTER]),
        ),
        (libc::SYS_prctl, list(&[PR_SET_DUMPABLE, 1])),
        (libc::SYS_tgkill, list(&[1, 1, 9])),
        (libc::SYS_sched_setaffinity, list(&[1, 8])),
        // By a path, or a name of its own choice.
        (libc::SYS_bind, list(&[fd, 0, 30])),
        (libc::SYS_connect, list(&[fd, 0, 30])),
    ] {
        assert_eq!(attempt(number, arguments), End::Stopped, "{arguments:?}");
    }
    // Threads are made by clone, whose flags a filter can see.
    assert_eq!(attempt(libc::SYS_clone3, [0; 6]), End::Failed(ENOSYS));
}

/// Files, which libraries may try to open.
fn no_file_is_opened(own: &Path, foreign: &Path) {
    let open = |path: &CStr, flags: c_int| {
        let arguments = [libc::AT_FDCWD.into(), text(path), flags.into(), 0o600, 0, 0];
        attempt(libc::SYS_openat, arguments)
    };
    for file in [
        c"/etc/passwd",
        c"/proc/self/mem",
        c"/dev/net/tun",
        c"/dev/null",
    ] {
        assert_eq!(open(file, libc::O_RDONLY), End::Failed(EACCES), "{file:?}");
    }
    let made = path(&own.join("new"));
    let create = libc::O_CREAT | libc::O_WRONLY;
    assert_eq!(open(&made, create), End::Failed(EACCES));
    assert!(!own.join("new").exists());

    let remove = |file: &Path| {
        let file = path(file);
        attempt(libc::SYS_unlink, [text(&file), 0, 0, 0, 0, 0])
    };
    assert_eq!(remove(&foreign.join("precious")), End::Failed(EACCES));
    assert!(foreign.join("precious").exists());
    // Landlock knows directories, not files: this one is the price of removing its sockets.
    assert_eq!(remove(&own.join("beside")), End::Succeeded);
}

/// A socket of another program whose name the kernel chose, so that its address has the length that
/// may be connected to.
fn other_programs_are_out_of_reach(listener: &OwnedFd) {
    let address = getsockname(listener).expect("an address");
    let kind = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(kind.0, kind.1, SocketFlags::empty(), None);
    let socket = socket.expect("sockets of this kind are allowed");
    assert_eq!(connect(&socket, &address), Err(Errno::PERM));
}

/// A listening socket with an abstract name of the kernel's choice.
fn with_chosen_name() -> OwnedFd {
    let kind = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = socket_with(kind.0, kind.1, SocketFlags::empty(), None).expect("socket");
    bind(&socket, &SocketAddrUnix::new_unnamed()).expect("bind");
    listen(&socket, 1).expect("listen");
    socket
}

/// The version of Landlock's interface that the kernel has.
fn landlock_version() -> c_long {
    const VERSION: c_long = 1;
    // SAFETY: with this flag the call takes neither a ruleset nor memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) }
}

#[test]
fn nothing_outside_the_list_can_be_done() {
    passes_in_process("attempts::nothing_outside_the_list_can_be_done", || {
        let [own, foreign] = [(); 2].map(|()| kept(tempfile::tempdir().expect("directory")));
        std::fs::write(own.join("beside"), "").expect("write");
        std::fs::write(foreign.join("precious"), "").expect("write");
        let landlock = landlock_version();
        assert!(landlock > 0, "this kernel has no Landlock");
        let outside = with_chosen_name();
        let far: OwnedFd = UnixDatagram::unbound().expect("socket").into();

        let backend = enter(SandboxMode::Enforce, &own).expect("backend starts");
        note_stopped_calls();
        every_other_call_is_stopped();
        other_arguments_are_stopped(&far);
        no_file_is_opened(&own, &foreign);
        // Linux 6.12.
        if landlock >= 6 {
            other_programs_are_out_of_reach(&outside);
        }
        // The same holds for threads that start later.
        let later = std::thread::spawn(|| attempt(libc::SYS_execve, [0; 6]));
        assert_eq!(later.join().expect("no panic"), End::Stopped);
        // What is on the list works.
        let name = [PR_SET_NAME.into(), text(c"renamed"), 0, 0, 0, 0];
        assert_eq!(attempt(libc::SYS_prctl, name), End::Succeeded);
        backend.stop();
        assert!(!own.join("socket").exists(), "it removes its sockets");
    });
}

#[test]
fn a_call_outside_the_list_ends_the_process_and_is_named() {
    let name = "attempts::a_call_outside_the_list_ends_the_process_and_is_named";
    let ended = in_process(name, || {
        let directory = kept(tempfile::tempdir().expect("directory"));
        let _backend = enter(SandboxMode::Enforce, &directory).expect("backend starts");
        attempt(libc::SYS_execve, [text(c"/bin/true"), 0, 0, 0, 0, 0]);
        unreachable!("it was executed");
    });
    let Some(output) = ended else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(128 + libc::SIGSYS), "{error}");
    let line = format!(
        "zcnic: the sandbox ends the process: it called execve, number {}",
        libc::SYS_execve
    );
    assert!(error.contains(&line), "{error}");
}

#[test]
fn a_panic_is_reported_from_inside() {
    let ended = in_process("attempts::a_panic_is_reported_from_inside", || {
        let directory = kept(tempfile::tempdir().expect("directory"));
        let _backend = enter(SandboxMode::Enforce, &directory).expect("backend starts");
        panic!("a bug");
    });
    let Some(output) = ended else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(101), "{error}");
    assert!(error.contains("a bug"), "{error}");
    assert!(error.contains("stack backtrace"), "{error}");
}

#[test]
fn warn_logs_each_call_once_and_lets_it_happen() {
    let name = "attempts::warn_logs_each_call_once_and_lets_it_happen";
    let error = passes_in_process(name, || {
        env_logger::builder()
            .filter_level(log::LevelFilter::Info)
            .init();
        let directory = kept(tempfile::tempdir().expect("directory"));
        let backend = enter(SandboxMode::Warn, &directory).expect("backend starts");
        for _ in 0..3 {
            assert_eq!(attempt(libc::SYS_getppid, [0; 6]), End::Succeeded);
            let socket = attempt(libc::SYS_socket, list(&[AF_INET, SOCK_DGRAM]));
            assert_eq!(socket, End::Succeeded);
            std::fs::read("/proc/self/comm").expect("files can be read");
        }
        backend.stop();
    });
    if !error.is_empty() {
        for call in ["getppid", "socket", "openat"] {
            let line = format!("Sandbox: would refuse {call}, number");
            assert_eq!(error.matches(&line).count(), 1, "{call}: {error}");
        }
    }
}
