//! The programs that send datagrams back.

use std::{io, os::fd::RawFd};

use crate::kit::bpf::{
    EXIT, HELPER_REDIRECT, HELPER_REDIRECT_MAP, Instruction, MAP_SOCKETS, MD_QUEUE, Map, Width,
    XDP_PASS, XDP_TX, call, load, only_if, set, set_map, store, udp_to,
};

/// Ethernet, IPv4 and UDP.
const HEADERS: i32 = 42;

/// The program's action on UDP datagrams over IPv4 to a port; all other frames pass.
#[derive(Clone, Copy, Debug)]
pub(super) enum EchoAction<'a> {
    /// Sends them back from the queue that received them.
    Transmit,
    /// Redirects them to this interface.
    Redirect(u32),
    /// Redirects them to the socket of their queue.
    Socket(&'a SocketMap),
}

/// Exchanges two fields of the frame, whose start is in register 2.
fn exchange(width: Width, one: i16, other: i16) -> [Instruction; 4] {
    [
        load(width, 4, 2, one),
        load(width, 5, 2, other),
        store(width, 2, one, 5),
        store(width, 2, other, 4),
    ]
}

/// The program.
pub(super) fn program(port: u16, action: EchoAction<'_>) -> Vec<Instruction> {
    let mut found = Vec::new();
    if !matches!(action, EchoAction::Socket(_)) {
        // Addresses of Ethernet and IP, and ports: no checksum changes.
        found.extend(exchange(Width::Word, 0, 6));
        found.extend(exchange(Width::Half, 4, 10));
        found.extend(exchange(Width::Word, 26, 30));
        found.extend(exchange(Width::Half, 34, 36));
    }
    match action {
        EchoAction::Transmit => found.extend([set(0, XDP_TX), EXIT]),
        EchoAction::Redirect(interface) => found.extend([
            set(1, interface as i32),
            set(2, 0),
            call(HELPER_REDIRECT),
            EXIT,
        ]),
        EchoAction::Socket(SocketMap(map)) => {
            found.push(load(Width::Word, 2, 6, MD_QUEUE));
            found.extend(set_map(1, map));
            found.extend([set(3, XDP_PASS), call(HELPER_REDIRECT_MAP), EXIT]);
        }
    }
    only_if(HEADERS, &udp_to(port), &found)
}

/// Sockets by receive queue.
#[derive(Debug)]
pub(super) struct SocketMap(Map);

impl SocketMap {
    /// For queues below `queues`.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        Map::new(MAP_SOCKETS, size_of::<RawFd>(), queues).map(Self)
    }

    /// Gives a queue's frames to a socket.
    pub(super) fn insert(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        self.0.insert(queue, &socket.to_ne_bytes())
    }
}
