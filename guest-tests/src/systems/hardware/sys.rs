//! What neither the standard library nor rustix has of timestamps, and options of sockets.
#![allow(unsafe_code, reason = "system calls that take pointers")]

use std::{
    io,
    mem::{offset_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd},
};

const SIOCSHWTSTAMP: libc::Ioctl = 0x89b0_u32 as libc::Ioctl;
/// `HWTSTAMP_TX_ON`, `HWTSTAMP_FILTER_ALL`.
const ON: i32 = 1;

/// `struct ifreq`, with a pointer.
#[repr(C)]
struct Request {
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

/// Has an interface stamp sent or received frames, by a socket in its namespace.
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
    let mut request = Request {
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

/// Sets an option of `SOL_SOCKET`.
pub(super) fn set_option(socket: BorrowedFd<'_>, option: i32, value: u32) -> io::Result<()> {
    let size = size_of::<u32>() as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: the kernel reads four bytes there.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, size) })
}

/// Sets a clock, in nanoseconds.
pub(super) fn set_clock(clock: BorrowedFd<'_>, nanoseconds: u64) -> io::Result<()> {
    /// `CLOCKFD`: the clock of a file.
    const OF_FILE: i32 = 3;
    let number = !clock.as_raw_fd() << 3 | OF_FILE;
    let time = libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanoseconds % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the kernel reads the structure.
    check(unsafe { libc::clock_settime(number, &raw const time) })
}

/// What a message came with.
#[derive(Debug)]
pub(super) struct Message {
    /// Bytes of it.
    pub(super) length: usize,
    /// The time of the hardware, in nanoseconds.
    pub(super) time: Option<u64>,
    /// If it is about one that was sent: which, counted from 0.
    pub(super) sent: Option<u32>,
}

/// Receives a message, or what is told of one that was sent, if that is there.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    of_sent: bool,
) -> io::Result<Message> {
    let mut control = [0u64; 64];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all zeroes are a value of this type.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = if of_sent {
        libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT
    } else {
        0
    };
    // SAFETY: the kernel writes to the buffers that the header names, no more than they have room for.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut message = Message {
        length: length as usize,
        time: None,
        sent: None,
    };
    // SAFETY: the kernel has put well-formed control messages there, each with the data that its type says.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(one) = next.as_ref() {
            let data = libc::CMSG_DATA(next);
            match (one.cmsg_level, one.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
                    // The third one is the hardware's (Documentation/networking/timestamping.rst).
                    let time = data.cast::<libc::timespec>().add(2).read_unaligned();
                    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
                    message.time = Some(nanoseconds).filter(|time| *time != 0);
                }
                (libc::SOL_IP, libc::IP_RECVERR) => {
                    let at = offset_of!(libc::sock_extended_err, ee_data);
                    message.sent = Some(data.add(at).cast::<u32>().read_unaligned());
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
    }
    Ok(message)
}
