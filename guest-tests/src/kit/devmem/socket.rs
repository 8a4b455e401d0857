//! System calls of devmem TCP, with flags and structures that the libraries lack.
#![allow(
    unsafe_code,
    reason = "sendmsg with messages and flags that the libraries don't know"
)]

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::control::{PayloadPiece, from_dmabuf, piece};
use crate::kit::socket::{self, messages, set_option};

/// `MSG_SOCK_DEVMEM`.
const MSG_SOCK_DEVMEM: libc::c_int = 0x200_0000;
/// `SO_DEVMEM_DONTNEED`.
const SO_DEVMEM_DONTNEED: libc::c_int = 80;
/// Tokens that one call takes (`MAX_DONTNEED_TOKENS`, net/core/sock.c).
const TOKENS: usize = 128;
/// The result of one receive call.
#[derive(Debug)]
pub struct DevmemMessage {
    /// Bytes of the stream.
    pub bytes: usize,
    /// Places of these bytes. Without any, all bytes are in the program's buffer, because they came
    /// in memory that the kernel can read.
    pub pieces: Vec<PayloadPiece>,
}

/// Receives at most the buffer's length, into dmabufs or into the buffer.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<DevmemMessage> {
    let (bytes, control) = socket::receive(socket, buffer, MSG_SOCK_DEVMEM)?;
    let pieces = messages(&control).filter_map(piece).collect();
    Ok(DevmemMessage { bytes, pieces })
}

/// Returns fragments to the kernel; returns the number that the kernel knew.
pub fn dont_need(socket: BorrowedFd<'_>, tokens: &[u32]) -> io::Result<usize> {
    let mut known = 0;
    for tokens in tokens.chunks(TOKENS) {
        // struct dmabuf_token: the first token, and the count.
        let ranges: Vec<[u32; 2]> = tokens.iter().map(|token| [*token, 1]).collect();
        known += set_option(socket, SO_DEVMEM_DONTNEED, ranges.as_flattened())?;
    }
    Ok(known)
}

/// Sends from a dmabuf, with these flags; returns the number of bytes.
pub fn send(
    socket: &TcpStream,
    dmabuf: u32,
    offset: usize,
    len: usize,
    flags: libc::c_int,
) -> io::Result<usize> {
    let mut control = from_dmabuf(dmabuf);
    let mut piece = libc::iovec {
        // Not a pointer but the offset in the dmabuf.
        iov_base: std::ptr::without_provenance_mut(offset),
        iov_len: len,
    };
    // SAFETY: all of it may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    // SAFETY: the kernel reads the control message. With any flags, it reads none of our memory at
    // the offset: TCP refuses to send by copying if a dmabuf is named (tcp_sendmsg_locked,
    // net/ipv4/tcp.c).
    let bytes = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}
