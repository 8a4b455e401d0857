//! What a socket is asked for devmem TCP, by calls that the libraries don't know all of.
#![allow(
    unsafe_code,
    reason = "sendmsg, recvmsg and setsockopt with flags, messages and options that the libraries don't know"
)]

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use super::control::{Piece, from_dmabuf, messages, piece, word};

/// `MSG_SOCK_DEVMEM`.
const MSG_SOCK_DEVMEM: libc::c_int = 0x200_0000;
/// `SO_DEVMEM_DONTNEED`.
const SO_DEVMEM_DONTNEED: libc::c_int = 80;
/// Tokens that one call takes (`MAX_DONTNEED_TOKENS`, net/core/sock.c).
const TOKENS: usize = 128;
/// Bytes for control messages: more than a receive of a MiB in full segments has.
const CONTROL: usize = 64 << 10;

/// What came.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the stream.
    pub bytes: usize,
    /// What they are in. If there are none, all of them are in the program's buffer: they came in memory that
    /// the kernel reads.
    pub pieces: Vec<Piece>,
}

/// Calls that sent from a dmabuf and whose data is not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The first one's number, from 0.
    pub first: u32,
    /// The last one's.
    pub last: u32,
    /// Whether the kernel sent a copy.
    pub copied: bool,
}

/// Receives at most as much as fits the buffer, wherever it is.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let (bytes, control) = receive_message(socket, buffer, MSG_SOCK_DEVMEM)?;
    let pieces = messages(&control).filter_map(piece).collect();
    Ok(Received { bytes, pieces })
}

/// What is sent, if there is news (`MSG_ZEROCOPY`).
pub fn sent(socket: BorrowedFd<'_>) -> io::Result<Option<Sent>> {
    const ORIGIN_ZEROCOPY: u8 = 5;
    const CODE_COPIED: u8 = 1;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let control = match receive_message(socket, &mut [], flags) {
        Ok((_, control)) => control,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    // struct sock_extended_err
    let news = messages(&control).find_map(|(_, _, value)| {
        (value.get(4) == Some(&ORIGIN_ZEROCOPY)).then_some(Sent {
            first: word(value, 8)?,
            last: word(value, 12)?,
            copied: *value.get(6)? == CODE_COPIED,
        })
    });
    news.map(Some)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Bytes, and control messages.
fn receive_message(
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
    // SAFETY: buffer and control are borrowed exclusively and as long as is said.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("more control messages than there is room"));
    }
    control.truncate(message.msg_controllen as usize);
    Ok((bytes, control))
}

/// Gives fragments back; returns how many the kernel knew.
pub fn dont_need(socket: BorrowedFd<'_>, tokens: &[u32]) -> io::Result<usize> {
    let mut known = 0;
    for tokens in tokens.chunks(TOKENS) {
        // struct dmabuf_token: the first one, and how many.
        let ranges: Vec<[u32; 2]> = tokens.iter().map(|token| [*token, 1]).collect();
        known += set_option(socket, SO_DEVMEM_DONTNEED, ranges.as_flattened())?;
    }
    Ok(known)
}

/// Allows `MSG_ZEROCOPY`.
pub fn allow_zerocopy(socket: &TcpStream) -> io::Result<()> {
    const SO_ZEROCOPY: libc::c_int = 60;
    set_option(socket.as_fd(), SO_ZEROCOPY, &[1]).map(drop)
}

/// Sets an option whose value consists of words, and returns what the kernel does.
fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: &[u32]) -> io::Result<usize> {
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

/// Sends from a dmabuf, with these flags; returns how much.
pub fn send(
    socket: &TcpStream,
    dmabuf: u32,
    offset: usize,
    len: usize,
    flags: libc::c_int,
) -> io::Result<usize> {
    let mut control = from_dmabuf(dmabuf);
    let mut piece = libc::iovec {
        // An offset, with the flags and the message that this function is for.
        iov_base: std::ptr::without_provenance_mut(offset),
        iov_len: len,
    };
    // SAFETY: all of it may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    // SAFETY: the kernel reads the control message. Whatever the flags, it reads no memory of ours at the offset: TCP
    // refuses to send by copying if a dmabuf is named (tcp_sendmsg_locked, net/ipv4/tcp.c).
    let bytes = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}
