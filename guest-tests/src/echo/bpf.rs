//! XDP programs made of instructions: few enough that no compiler is needed in the build, and none in the guest.
#![allow(unsafe_code, reason = "the bpf system call takes pointers in integers")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

const MAP_CREATE: i64 = 0;
const MAP_UPDATE_ELEM: i64 = 2;
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;

const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
const PROG_HAS_FRAGS: u32 = 1 << 5;
/// By the driver, not by the stack.
const DRIVER_MODE: u32 = 1 << 2;

const HELPER_REDIRECT: i32 = 23;
const HELPER_REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// Offsets in `struct xdp_md`.
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
const MD_QUEUE: i16 = 16;

/// Widths of loads and stores (`BPF_W`, `BPF_H`, `BPF_B`).
#[derive(Clone, Copy)]
enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
    opcode: u8,
    /// Source register in the high half, destination in the low one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn instruction(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        opcode,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

fn load(width: Width, to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61 | width as u8, to, from, offset, 0)
}

fn store(width: Width, to: u8, offset: i16, from: u8) -> Instruction {
    instruction(0x63 | width as u8, to, from, offset, 0)
}

fn set(to: u8, immediate: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, immediate)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const EXIT: Instruction = Instruction {
    opcode: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

/// What becomes of UDP datagrams over IPv4 to a port; all other frames pass.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action<'a> {
    /// Back to where they came from, from the queue where they are.
    Transmit,
    /// Back, by way of what others redirect to this interface.
    Redirect(u32),
    /// To the socket of their queue.
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

fn program(port: u16, action: Action<'_>) -> Vec<Instruction> {
    let last = match action {
        Action::Transmit => vec![set(0, XDP_TX), EXIT],
        Action::Redirect(interface) => vec![
            set(1, interface as i32),
            set(2, 0),
            call(HELPER_REDIRECT),
            EXIT,
        ],
        Action::Socket(map) => vec![
            load(Width::Word, 2, 6, MD_QUEUE),
            // A descriptor of a map takes two instructions (BPF_PSEUDO_MAP_FD).
            instruction(0x18, 1, 1, 0, map.0.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            set(3, XDP_PASS),
            call(HELPER_REDIRECT_MAP),
            EXIT,
        ],
    };
    let mut found = Vec::new();
    if !matches!(action, Action::Socket(_)) {
        // Addresses of Ethernet and IP, and ports: no checksum changes.
        found.extend(exchange(Width::Word, 0, 6));
        found.extend(exchange(Width::Half, 4, 10));
        found.extend(exchange(Width::Word, 26, 30));
        found.extend(exchange(Width::Half, 34, 36));
    }
    found.extend(last);

    let field = |at: i16, width, wanted: u16| {
        (
            load(width, 4, 2, at),
            i32::from(match width {
                Width::Half => wanted.to_be(),
                _ => wanted,
            }),
        )
    };
    let mut all = vec![
        instruction(0xbf, 6, 1, 0, 0),
        load(Width::Word, 2, 6, MD_DATA),
        load(Width::Word, 3, 6, MD_DATA_END),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, 42),
        // Where each check goes on if the frame is another one: behind all that is found.
        instruction(0x2d, 4, 3, 0, 0),
    ];
    for (load, wanted) in [
        field(12, Width::Half, 0x0800),
        field(23, Width::Byte, 17),
        field(36, Width::Half, port),
    ] {
        all.extend([load, instruction(0x55, 4, 0, 0, wanted)]);
    }
    let pass = all.len() + found.len();
    for (at, jump) in all.iter_mut().enumerate() {
        if matches!(jump.opcode, 0x2d | 0x55) {
            jump.offset = (pass - at - 1) as i16;
        }
    }
    all.extend(found);
    all.extend([set(0, XDP_PASS), EXIT]);
    all
}

/// The bpf system call; `attributes` is the part of `union bpf_attr` that the command looks at.
fn bpf<T>(command: i64, attributes: &mut T) -> io::Result<RawFd> {
    let pointer = std::ptr::from_mut(attributes);
    // SAFETY: the kernel reads and writes `size` bytes there, and memory that the pointers in them name, which the
    // callers borrow meanwhile.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>().expose_provenance() as u64
}

/// Sockets by receive queue (`BPF_MAP_TYPE_XSKMAP`).
#[derive(Debug)]
pub(super) struct SocketMap(OwnedFd);

impl SocketMap {
    /// For queues below `queues`.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Attributes {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        let mut attributes = Attributes {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
        };
        bpf(MAP_CREATE, &mut attributes).map(|fd| Self(owned(fd)))
    }

    /// Gives a queue's frames to a socket.
    pub(super) fn insert(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        #[repr(C)]
        struct Attributes {
            map: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut attributes = Attributes {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: address(&queue),
            value: address(&socket),
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
    }
}

/// A program that is attached as long as this lives.
#[derive(Debug)]
pub(super) struct Attached(#[expect(dead_code, reason = "closing it detaches")] OwnedFd);

impl Attached {
    /// Loads the program and has the driver of `interface` run it; with `fragments` also on frames of several buffers.
    pub(super) fn new(
        interface: u32,
        port: u16,
        action: Action<'_>,
        fragments: bool,
    ) -> io::Result<Self> {
        #[repr(C)]
        struct Load {
            prog_type: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kern_version: u32,
            flags: u32,
            name: [u8; 16],
            interface: u32,
            expected_attach_type: u32,
        }
        #[repr(C)]
        struct Link {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        const LICENSE: &CStr = c"GPL";
        let instructions = program(port, action);
        let mut load = Load {
            prog_type: PROG_TYPE_XDP,
            count: instructions.len() as u32,
            instructions: address(&instructions[..]),
            license: address(LICENSE),
            log_level: 0,
            log_size: 0,
            log: 0,
            kern_version: 0,
            flags: if fragments { PROG_HAS_FRAGS } else { 0 },
            name: *b"zcnic_echo\0\0\0\0\0\0",
            interface: 0,
            expected_attach_type: ATTACH_XDP,
        };
        let program = owned(bpf(PROG_LOAD, &mut load)?);
        let mut link = Link {
            program: program.as_raw_fd() as u32,
            interface,
            attach_type: ATTACH_XDP,
            flags: DRIVER_MODE,
        };
        bpf(LINK_CREATE, &mut link).map(|fd| Self(owned(fd)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_goes_on_at_the_pass() {
        for action in [Action::Transmit, Action::Redirect(7)] {
            let all = program(7777, action);
            let pass = all.len() - 2;
            assert_eq!((all[pass].immediate, all[pass].opcode), (XDP_PASS, 0xb7));
            let jumps: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(_, one)| matches!(one.opcode, 0x2d | 0x55))
                .map(|(at, one)| at + 1 + one.offset as usize)
                .collect();
            assert_eq!(jumps, [pass; 4]);
        }
    }
}
