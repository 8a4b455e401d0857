//! Features of sockets that the libraries lack: options, control messages, the error queue.
#![allow(
    unsafe_code,
    reason = "recvmsg and setsockopt with flags, messages and options that the libraries don't know"
)]

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// Bytes for control messages: more than a devmem receive of a MiB in full segments has.
const CONTROL: usize = 64 << 10;
/// `struct cmsghdr`: an usize and two words.
pub(crate) const HEADER: usize = 16;

/// A control message: level, type, value.
pub(crate) type ControlMessage<'a> = (u32, u32, &'a [u8]);

/// Sets an option of `SOL_SOCKET` whose value consists of words, and returns the kernel's result.
///
/// # Errors
/// The kernel's.
pub fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: &[u32]) -> io::Result<usize> {
    // SAFETY: the kernel reads that many bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            value.as_ptr().cast(),
            size_of_val(value) as libc::socklen_t,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Receives with these flags: bytes, and control messages.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Vec<u8>)> {
    let mut control = vec![0; CONTROL];
    let mut piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all of it may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    // SAFETY: buffer and control are borrowed exclusively and have these lengths.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("more control messages than there is room"));
    }
    control.truncate(message.msg_controllen as usize);
    Ok((bytes, control))
}

/// All control messages that are whole.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u64::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let value = bytes.get(HEADER..len)?;
        let message = (word(bytes, 8)?, word(bytes, 12)?, value);
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
        Some(message)
    })
}

/// The word at a byte offset.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message of the error queue (`struct sock_extended_err`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) errno: u32,
    pub(crate) origin: u8,
    pub(crate) code: u8,
    pub(crate) info: u32,
    pub(crate) data: u32,
}

/// Decodes a control message of the error queue; `None` for any other.
pub(crate) fn extended_error((level, kind, value): ControlMessage<'_>) -> Option<ExtendedError> {
    const IP_RECVERR: (u32, u32) = (
        libc::SOL_IP.cast_unsigned(),
        libc::IP_RECVERR.cast_unsigned(),
    );
    if (level, kind) != IP_RECVERR {
        return None;
    }
    Some(ExtendedError {
        errno: word(value, 0)?,
        origin: *value.get(4)?,
        code: *value.get(6)?,
        info: word(value, 8)?,
        data: word(value, 12)?,
    })
}

/// Consecutive calls with `MSG_ZEROCOPY` that have completed: the kernel no longer needs their
/// data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentRange {
    /// Number of the first call, from 0.
    pub first: u32,
    /// Number of the last call.
    pub last: u32,
    /// Whether the kernel sent a copy.
    pub copied: bool,
}

/// Allows `MSG_ZEROCOPY`.
///
/// # Errors
/// The kernel's.
pub fn allow_zerocopy(socket: &TcpStream) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SO_ZEROCOPY, &[1]).map(drop)
}

/// Takes a completion of `MSG_ZEROCOPY` off the error queue, if there is one. Any other message
/// there is an error.
///
/// # Errors
/// The kernel's.
pub fn sent(socket: BorrowedFd<'_>) -> io::Result<Option<SentRange>> {
    const ORIGIN_ZEROCOPY: u8 = 5;
    const CODE_COPIED: u8 = 1;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let control = match receive(socket, &mut [], flags) {
        Ok((_, control)) => control,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = messages(&control).find_map(extended_error);
    match found {
        Some(error) if error.origin == ORIGIN_ZEROCOPY && error.errno == 0 => Ok(Some(SentRange {
            first: error.info,
            last: error.data,
            copied: error.code == CODE_COPIED,
        })),
        other => {
            let error = format!("a message that is no completion: {other:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}
