//! XDP programs of a few instructions, assembled here, so that neither the build nor the guest
//! needs a compiler.
#![allow(unsafe_code, reason = "the bpf system call takes pointers in integers")]

mod btf;

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

pub(crate) use self::btf::functions;

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const PROG_LOAD: i64 = 5;
const LINK_CREATE: i64 = 28;

/// An array of values (`BPF_MAP_TYPE_ARRAY`).
pub(crate) const MAP_ARRAY: u32 = 2;
/// Sockets by receive queue (`BPF_MAP_TYPE_XSKMAP`).
pub(crate) const MAP_SOCKETS: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
const PROG_HAS_FRAGS: u32 = 1 << 5;
const PROG_DEVICE_BOUND: u32 = 1 << 6;
/// Run by the driver, not by the stack.
const DRIVER_MODE: u32 = 1 << 2;

/// `bpf_map_update_elem()`.
pub(crate) const HELPER_MAP_UPDATE: i32 = 2;
/// `bpf_redirect()`.
pub(crate) const HELPER_REDIRECT: i32 = 23;
/// `bpf_xdp_adjust_head()`.
pub(crate) const HELPER_ADJUST_HEAD: i32 = 44;
/// `bpf_redirect_map()`.
pub(crate) const HELPER_REDIRECT_MAP: i32 = 51;
/// `bpf_xdp_adjust_tail()`.
pub(crate) const HELPER_ADJUST_TAIL: i32 = 65;

pub(crate) const XDP_DROP: i32 = 1;
pub(crate) const XDP_PASS: i32 = 2;
pub(crate) const XDP_TX: i32 = 3;

/// Offsets in `struct xdp_md`.
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
pub(crate) const MD_QUEUE: i16 = 16;

/// The register with the frame pointer.
pub(crate) const FRAME: u8 = 10;

/// Widths of loads and stores (`BPF_W`, `BPF_H`, `BPF_B`, `BPF_DW`).
#[derive(Clone, Copy)]
pub(crate) enum Width {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    pub(crate) opcode: u8,
    /// Source register in the high half, destination in the low one.
    registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const fn instruction(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        opcode,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

pub(crate) fn load(width: Width, to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61 | width as u8, to, from, offset, 0)
}

pub(crate) fn store(width: Width, to: u8, offset: i16, from: u8) -> Instruction {
    instruction(0x63 | width as u8, to, from, offset, 0)
}

pub(crate) const fn set(to: u8, immediate: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, immediate)
}

pub(crate) fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

pub(crate) fn add(to: u8, immediate: i32) -> Instruction {
    instruction(0x07, to, 0, 0, immediate)
}

/// Calls a helper function of the kernel.
pub(crate) fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

/// Calls a kernel function by its number in the kernel's types (`BPF_PSEUDO_KFUNC_CALL`).
pub(crate) fn call_function(number: i32) -> Instruction {
    instruction(0x85, 0, 2, 0, number)
}

/// Loads a map into a register.
pub(crate) fn set_map(to: u8, map: &Map) -> [Instruction; 2] {
    [
        // BPF_PSEUDO_MAP_FD
        instruction(0x18, to, 1, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
    ]
}

pub(crate) const EXIT: Instruction = Instruction {
    opcode: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

/// A field of a frame and its wanted value, in the order of its bytes.
#[derive(Clone, Copy)]
pub(crate) enum Field {
    Byte(i16, u8),
    Half(i16, u16),
}

/// The fields of UDP over IPv4 to a port.
pub(crate) fn udp_to(port: u16) -> [Field; 3] {
    [
        Field::Half(12, 0x0800),
        Field::Byte(23, 17),
        Field::Half(36, port),
    ]
}

/// Loads the frame's start and end into registers 2 and 3, again after a change of the frame.
pub(crate) fn reload() -> [Instruction; 2] {
    [
        load(Width::Word, 2, 6, MD_DATA),
        load(Width::Word, 3, 6, MD_DATA_END),
    ]
}

/// Skips instructions if the frame has fewer bytes in its first buffer.
pub(crate) fn jump_if_less(bytes: i32, over: i16) -> [Instruction; 3] {
    [copy(4, 2), add(4, bytes), instruction(0x2d, 4, 3, over, 0)]
}

/// Runs `found` on frames whose first `header_bytes` bytes contain these fields; all others pass.
/// In `found`, register 6 is the context, 2 the frame's start and 3 its end.
pub(crate) fn only_if(
    header_bytes: i32,
    fields: &[Field],
    found: &[Instruction],
) -> Vec<Instruction> {
    let mut all = vec![copy(6, 1)];
    all.extend(reload());
    // A frame that fails a check continues behind `found`.
    all.extend(jump_if_less(header_bytes, 0));
    for field in fields {
        let (load, wanted) = match *field {
            Field::Byte(at, wanted) => (load(Width::Byte, 4, 2, at), wanted.into()),
            Field::Half(at, wanted) => (load(Width::Half, 4, 2, at), wanted.to_be().into()),
        };
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
    // SAFETY: the kernel reads and writes `size` bytes there, and memory that the pointers in them
    // name, which the callers borrow meanwhile.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made the descriptor for this call alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>().expose_provenance() as u64
}

/// A map from 32-bit keys to values.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    value_size: usize,
}

/// Attributes of the commands on elements.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Map {
    /// Makes a map with keys below `entries`.
    pub(crate) fn new(kind: u32, value_size: usize, entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct MapCreate {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
        }
        let mut attributes = MapCreate {
            map_type: kind,
            key_size: 4,
            value_size: value_size as u32,
            max_entries: entries,
        };
        let fd = owned(bpf(MAP_CREATE, &mut attributes)?);
        Ok(Self { fd, value_size })
    }

    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn element(&self, key: &u32, value: u64) -> Element {
        Element {
            map: self.as_raw_fd() as u32,
            padding: 0,
            key: address(key),
            value,
            flags: 0,
        }
    }

    /// Sets a value of the right size.
    pub(crate) fn insert(&self, key: u32, value: &[u8]) -> io::Result<()> {
        if value.len() != self.value_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut element = self.element(&key, address(value));
        bpf(MAP_UPDATE_ELEM, &mut element).map(drop)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: u32) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.value_size];
        let into = value.as_mut_ptr().expose_provenance() as u64;
        let mut element = self.element(&key, into);
        bpf(MAP_LOOKUP_ELEM, &mut element)?;
        Ok(value)
    }
}

/// A program that is attached as long as this lives.
#[derive(Debug)]
pub(crate) struct Attached(#[expect(dead_code, reason = "closing it detaches")] OwnedFd);

/// Features of the driver that a program needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    /// It also runs on frames of several buffers.
    pub(crate) fragments: bool,
    /// It asks the driver for metadata, and is bound to this device.
    pub(crate) metadata: bool,
}

impl Attached {
    /// Loads a program and has the driver of `interface` run it.
    pub(crate) fn new(
        interface: u32,
        instructions: &[Instruction],
        abilities: Abilities,
    ) -> io::Result<Self> {
        #[repr(C)]
        struct ProgramLoad {
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
        struct LinkCreate {
            program: u32,
            interface: u32,
            attach_type: u32,
            flags: u32,
        }
        const LICENSE: &CStr = c"GPL";
        let flag = |wanted: bool, flag| if wanted { flag } else { 0 };
        let mut load = ProgramLoad {
            prog_type: PROG_TYPE_XDP,
            count: instructions.len() as u32,
            instructions: address(instructions),
            license: address(LICENSE),
            log_level: 0,
            log_size: 0,
            log: 0,
            kern_version: 0,
            flags: flag(abilities.fragments, PROG_HAS_FRAGS)
                | flag(abilities.metadata, PROG_DEVICE_BOUND),
            name: *b"zcnic\0\0\0\0\0\0\0\0\0\0\0",
            interface: flag(abilities.metadata, interface),
            expected_attach_type: ATTACH_XDP,
        };
        let program = owned(bpf(PROG_LOAD, &mut load)?);
        let mut link = LinkCreate {
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
    fn every_failed_check_jumps_to_the_pass() {
        for found in [
            &[set(0, XDP_TX), EXIT][..],
            &[set(0, XDP_DROP), copy(1, 2), EXIT],
        ] {
            let all = only_if(42, &udp_to(7777), found);
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
