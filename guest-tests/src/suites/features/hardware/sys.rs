//! System calls for timestamps that neither the standard library nor rustix has.
#![allow(unsafe_code, reason = "system calls that take pointers")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::kit::socket::{self, extended_error, messages};

const SIOCSHWTSTAMP: libc::Ioctl = 0x89b0_u32 as libc::Ioctl;
/// Level and type of the control message with times.
const TIMESTAMPING: (u32, u32) = (
    libc::SOL_SOCKET.cast_unsigned(),
    libc::SCM_TIMESTAMPING.cast_unsigned(),
);
/// `HWTSTAMP_TX_ON`, `HWTSTAMP_FILTER_ALL`.
const ON: i32 = 1;

/// `struct ifreq`, with a pointer.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    configuration: *mut Configuration,
    rest: [u64; 2],
}

/// `struct hwtstamp_config`.
#[repr(C)]
struct Configuration {
    flags: i32,
    transmit: i32,
    receive: i32,
}

/// Makes an interface timestamp sent or received frames, by a socket in its namespace.
pub(super) fn set_stamping(
    socket: BorrowedFd<'_>,
    interface: &str,
    transmit: bool,
    receive: bool,
) -> io::Result<()> {
    let mut configuration = Configuration {
        flags: 0,
        transmit: if transmit { ON } else { 0 },
        receive: if receive { ON } else { 0 },
    };
    let mut request = InterfaceRequest {
        name: [0; 16],
        configuration: &raw mut configuration,
        rest: [0; 2],
    };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    // SAFETY: the kernel reads and writes the two structures, which outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCSHWTSTAMP, &raw mut request) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets a clock, in nanoseconds.
pub(super) fn set_clock(clock: BorrowedFd<'_>, nanoseconds: u64) -> io::Result<()> {
    /// `CLOCKFD`: a clock by its file.
    const OF_FILE: i32 = 3;
    let number = !clock.as_raw_fd() << 3 | OF_FILE;
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the kernel reads the structure.
    check(unsafe { libc::clock_settime(number, &raw const time) })
}

/// A received datagram, or a message of the error queue about a sent one.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Its length in bytes.
    pub(super) length: usize,
    /// The hardware's timestamp, in nanoseconds.
    pub(super) time: Option<u64>,
    /// Number of the sent datagram that it is about, from 0.
    pub(super) sent: Option<u32>,
}

/// Receives a datagram, or a message of the error queue about a sent one, if there is one.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    of_sent: bool,
) -> io::Result<Datagram> {
    let flags = if of_sent {
        libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT
    } else {
        0
    };
    let (length, control) = socket::receive(socket, buffer, flags)?;
    let mut message = Datagram {
        length,
        time: None,
        sent: None,
    };
    for one in messages(&control) {
        if let Some(error) = extended_error(one) {
            message.sent = Some(error.data);
        } else if (one.0, one.1) == TIMESTAMPING {
            message.time = hardware_time(one.2).filter(|time| *time != 0);
        }
    }
    Ok(message)
}

/// The third of three `struct timespec` is the hardware's
/// (Documentation/networking/timestamping.rst).
fn hardware_time(times: &[u8]) -> Option<u64> {
    let part = |at: usize| Some(u64::from_ne_bytes(*times.get(at..)?.first_chunk()?));
    Some(part(32)? * 1_000_000_000 + part(40)?)
}
