//! The end of a process that makes a call outside the list: one line that names the call.

#![allow(unsafe_code, reason = "a signal handler, and libc's calls in it")]

use std::{io, mem::zeroed, ptr};

use libc::{SA_SIGINFO, SIGSYS, STDERR_FILENO, c_int, c_void, siginfo_t};
use syscalls::Sysno;

/// The exit status of a process whose call was refused: as a shell reports SIGSYS.
const STATUS: c_int = 128 + SIGSYS;

/// Has a refused call write a line to standard error and end the process.
///
/// # Errors
///
/// The kernel refuses the handler.
pub(super) fn install() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { zeroed() };
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = refuse;
    action.sa_sigaction = handler as usize;
    action.sa_flags = SA_SIGINFO;
    // SAFETY: the action is initialized and its handler has the signature that SA_SIGINFO asks for;
    // `refuse` calls only functions that are safe in signal handlers.
    let result = unsafe { libc::sigaction(SIGSYS, &raw const action, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Allocates and locks nothing, since the thread may have been interrupted anywhere.
extern "C" fn refuse(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, and fills in the number for SIGSYS of seccomp.
    let number = unsafe { (*info).si_syscall() };
    let name = usize::try_from(number).ok().and_then(Sysno::new);
    let mut digits = [0; 10];
    for part in [
        "zcnic: the sandbox ends the process: it called ",
        name.map_or("no system call that is known", |name| name.name()),
        ", number ",
        decimal(number.unsigned_abs(), &mut digits),
        " (docs/security.md)\n",
    ] {
        write(part);
    }
    // SAFETY: it does not return and runs no handlers.
    unsafe { libc::_exit(STATUS) }
}

/// Writes to standard error unless that would wait for its reader.
fn write(text: &str) {
    let mut event = libc::pollfd {
        fd: STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid `pollfd`; the bytes live until the call returns.
    unsafe {
        if libc::poll(&raw mut event, 1, 0) == 1 {
            libc::write(STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
    }
}

/// The number in decimal digits, written to `digits` from its end.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &str {
    let mut start = digits.len();
    while start == digits.len() || number > 0 {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 9, 10, 257, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string());
        }
    }
}
