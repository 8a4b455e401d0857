//! Tap interfaces: the ioctls of `/dev/net/tun` (Linux, `Documentation/networking/tuntap.rst` and
//! `include/uapi/linux/if_tun.h`).

#![allow(unsafe_code, reason = "ioctls of /dev/net/tun")]

use std::{
    ffi::{c_int, c_short},
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use rustix::{
    fs::OFlags,
    io::Errno,
    ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode},
};

use super::WireError;

const SET_INTERFACE: Opcode = opcode::write::<c_int>(b'T', 202);
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const SET_HEADER_LENGTH: Opcode = opcode::write::<c_int>(b'T', 216);

const IFF_TAP: c_short = 0x0002;
const IFF_MULTI_QUEUE: c_short = 0x0100;
const IFF_NO_PI: c_short = 0x1000;
const IFF_VNET_HDR: c_short = 0x4000;

const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_TSO_ECN: usize = 0x08;
const TUN_F_USO4: usize = 0x20;
const TUN_F_USO6: usize = 0x40;

/// Bytes of the virtio-net header in front of each frame (`struct virtio_net_hdr_mrg_rxbuf`).
pub(super) const HEADER: usize = 12;

/// `struct ifreq` with the flags of an interface.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// Opens `queues` queues of the tap `name`, which is made if it does not exist. Each sends and
/// receives virtio-net headers with checksum and segmentation offload. Also returns whether the
/// kernel takes UDP segmentation (since Linux 6.2).
///
/// # Errors
///
/// The user may not, or the interface is of another kind.
pub(super) fn open(name: &str, queues: usize) -> Result<(Vec<OwnedFd>, bool), WireError> {
    let failed = |error: io::Error| WireError::Tap {
        name: name.to_owned(),
        hint: hint(&error),
        error,
    };
    let mut uso = true;
    let mut opened = Vec::new();
    for _ in 0..queues {
        let (queue, takes_uso) = open_queue(name, queues > 1).map_err(failed)?;
        uso &= takes_uso;
        opened.push(queue);
    }
    Ok((opened, uso))
}

fn hint(error: &io::Error) -> &'static str {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::PERM | Errno::ACCESS) => {
            ": run zcnic with CAP_NET_ADMIN, or make the tap for its user (ip tuntap add dev NAME \
             mode tap vnet_hdr user USER, and multi_queue for several queues)"
        }
        Some(Errno::INVAL) => {
            ": the interface exists and is no tap, or has other flags (vnet_hdr, and multi_queue \
             for several queues)"
        }
        Some(Errno::BUSY) => ": another process has its queues",
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => ": the host has no /dev/net/tun",
        _ => "",
    }
}

fn open_queue(name: &str, multi_queue: bool) -> io::Result<(OwnedFd, bool)> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed())
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if multi_queue { IFF_MULTI_QUEUE } else { 0 },
        rest: [0; 22],
    };
    // The last byte stays zero.
    let bytes = name.as_bytes();
    let length = bytes.len().min(15);
    request.name[..length].copy_from_slice(&bytes[..length]);
    let fd = file.as_fd();
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, of 40 bytes on 64-bit machines, which
    // `InterfaceRequest` has.
    unsafe { ioctl(fd, Updater::<SET_INTERFACE, _>::new(&mut request))? };
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(fd, Setter::<SET_HEADER_LENGTH, _>::new(HEADER as c_int))? };
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let udp = TUN_F_USO4 | TUN_F_USO6;
    let set_offload = |flags: usize| {
        // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself and accesses no memory.
        unsafe { ioctl(fd, IntegerSetter::<SET_OFFLOAD>::new_usize(flags)) }
    };
    let uso = match set_offload(tcp | udp) {
        Ok(()) => true,
        // A kernel refuses flags that it does not know.
        Err(_) => {
            set_offload(tcp)?;
            false
        }
    };
    Ok((file.into(), uso))
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
