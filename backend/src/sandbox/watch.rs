//! `--sandbox warn`: the kernel asks a thread about each call outside the list (seccomp_unotify(2)),
//! which logs it and lets it happen.

#![allow(
    unsafe_code,
    reason = "seccomp(2) and its ioctls, for which there is no crate"
)]

use std::{
    collections::BTreeSet,
    fs, io,
    mem::zeroed,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::mpsc::{self, Receiver},
    thread,
};

use libc::{seccomp_notif, seccomp_notif_resp};
use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
    thread::set_no_new_privs,
};
use seccompiler::BpfProgram;
use syscalls::Sysno;

const RECEIVE: Opcode = opcode::read_write::<seccomp_notif>(b'!', 0);
const SEND: Opcode = opcode::read_write::<seccomp_notif_resp>(b'!', 1);

/// Installs `filter` for the calling thread and those that it starts. Calls for which the filter
/// returns [`SECCOMP_RET_LOG`](libc::SECCOMP_RET_LOG) are logged, each name once, and happen.
///
/// # Errors
///
/// The kernel is older than Linux 5.5, or the thread can't be started.
pub(super) fn install(mut filter: BpfProgram) -> io::Result<()> {
    for instruction in &mut filter {
        let is_return = u32::from(instruction.code) == libc::BPF_RET | libc::BPF_K;
        if is_return && instruction.k == libc::SECCOMP_RET_LOG {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr().cast(),
    };
    // The thread is not filtered, because it starts first: it could not answer for itself.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("sandbox".into())
        .spawn(move || watch(&receiver))?;
    set_no_new_privs(true)?;
    // SAFETY: the kernel copies the program, which lives until the call returns. `sock_filter` of
    // seccompiler and of libc have the same layout, which is the kernel's.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = i32::try_from(listener).map_err(io::Error::other)?;
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    sender
        .send(listener)
        .map_err(|_| io::Error::other("the thread that watches calls has ended"))
}

/// Logs and allows calls until the process ends.
fn watch(listener: &Receiver<OwnedFd>) {
    // Without one, the filter could not be installed.
    let Ok(listener) = listener.recv() else {
        return;
    };
    let mut seen = BTreeSet::new();
    loop {
        let notification = match receive(&listener) {
            Ok(notification) => notification,
            // The thread that called was killed meanwhile.
            Err(Errno::INTR | Errno::NOENT) => continue,
            Err(errno) => {
                log::error!("Sandbox: can't watch calls any more: {errno}");
                return;
            }
        };
        if seen.insert(notification.data.nr) {
            let number = notification.data.nr;
            let name = usize::try_from(number).ok().and_then(Sysno::new);
            let thread = notification.pid;
            let thread = fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
            log::warn!(
                "Sandbox: would refuse {}, number {number}, arguments {:x?}, of thread {}",
                name.map_or("a call that is not known", |name| name.name()),
                notification.data.args,
                thread.as_deref().unwrap_or("?").trim_end(),
            );
        }
        // It fails if the caller was killed meanwhile.
        let _ = allow(&listener, notification.id);
    }
}

fn receive(listener: impl AsFd) -> Result<seccomp_notif, Errno> {
    // SAFETY: all-zero bytes are a valid notification; the kernel demands them.
    let mut notification: seccomp_notif = unsafe { zeroed() };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one notification.
    unsafe { ioctl(listener, Updater::<RECEIVE, _>::new(&mut notification))? };
    Ok(notification)
}

fn allow(listener: impl AsFd, id: u64) -> Result<(), Errno> {
    // Nothing depends on it that the caller could change the arguments meanwhile.
    let mut response = seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one response.
    unsafe { ioctl(listener, Updater::<SEND, _>::new(&mut response)) }
}
