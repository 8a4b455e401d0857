//! The zero-copy receive uapi of Linux 7.3 (`include/uapi/linux/io_uring/zcrx.h`) and the system
//! calls that the io-uring crate lacks or takes by shared reference although the kernel writes
//! back.
#![allow(unsafe_code, reason = "system calls with pointers to our own structs")]

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Area id in an offset: the bits from here up (`IORING_ZCRX_AREA_SHIFT`).
pub const AREA_SHIFT: u32 = 48;
/// Mask of the area id in an offset.
pub const AREA_MASK: u64 = !((1 << AREA_SHIFT) - 1);

/// `IORING_ZCRX_AREA_DMABUF`: an area is a dmabuf.
pub const AREA_DMABUF: u32 = 1;
/// `ZCRX_REG_IMPORT`: an instance of another ring's.
pub const REG_IMPORT: u32 = 1;
/// `ZCRX_REG_NODEV`: an instance without a net device, which copies everything.
pub const REG_NODEV: u32 = 2;
/// `IORING_MEM_REGION_TYPE_USER`: the refill ring lies in memory that we provide.
pub const REGION_TYPE_USER: u32 = 1;
/// `ZCRX_FEATURE_EVENT`: the kernel has notifications and statistics.
pub const FEATURE_EVENT: u32 = 1 << 1;
/// `ZCRX_EVENT_ALLOC_FAIL`: the queue's page pool got no buffer.
pub const EVENT_ALLOC_FAIL: u32 = 0;
/// `ZCRX_EVENT_COPY`: data was copied because it was not in a buffer of the area.
pub const EVENT_COPY: u32 = 1;
/// `ZCRX_EVENT_DESC_FLAG_STATS`: `stats_offset` is valid.
pub const EVENT_DESC_STATS: u32 = 1 << 0;

const REGISTER_ZCRX_IFQ: u32 = 32;
const REGISTER_QUERY: u32 = 35;
const REGISTER_ZCRX_CTRL: u32 = 36;
const QUERY_ZCRX: u32 = 1;
const CTRL_FLUSH_RQ: u32 = 0;
const CTRL_EXPORT: u32 = 1;
const CTRL_ARM_EVENT: u32 = 2;
const CTRL_ADD_AREA: u32 = 3;

/// `struct io_uring_zcrx_rqe`: one buffer handed back through the refill ring.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rqe {
    /// Area token and byte offset in the area.
    pub off: u64,
    /// Length; the kernel does not look at it.
    pub len: u32,
    /// Must be zero, else the kernel skips the entry.
    pub pad: u32,
}

/// `struct io_uring_zcrx_offsets`: places of head, tail and entries in the region.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Offsets {
    /// Byte offset of the consumer index, written by the kernel.
    pub head: u32,
    /// Byte offset of the producer index, written by us.
    pub tail: u32,
    /// Byte offset of the entries.
    pub rqes: u32,
    /// Zero.
    pub resv2: u32,
    /// Zero.
    pub resv: [u64; 2],
}

/// `struct io_uring_zcrx_area_reg`: memory that packets are received into.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct AreaReg {
    /// Address, page aligned.
    pub addr: u64,
    /// Bytes, a multiple of the page size.
    pub len: u64,
    /// Filled in by the kernel: the area id, in place for offsets.
    pub rq_area_token: u64,
    /// `IORING_ZCRX_AREA_*`.
    pub flags: u32,
    /// Only with `IORING_ZCRX_AREA_DMABUF`.
    pub dmabuf_fd: u32,
    /// Zero.
    pub resv2: [u64; 2],
}

/// `struct io_uring_region_desc`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct RegionDesc {
    /// Address of our memory, with [`REGION_TYPE_USER`].
    pub user_addr: u64,
    /// Bytes.
    pub size: u64,
    /// [`REGION_TYPE_USER`].
    pub flags: u32,
    /// Zero.
    pub id: u32,
    /// Filled in by the kernel.
    pub mmap_offset: u64,
    /// Zero.
    pub resv: [u64; 4],
}

/// `struct zcrx_stats`: data that the kernel copied, because it was not in a page of the area.
///
/// `io_zcrx_copy_frag()` counts here; `io_zcrx_recv_skb()` does not when it copies the linear part
/// of a packet, so that only the device's counters show an unsplit packet.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Completions that were copies.
    pub copy_count: u64,
    /// Bytes copied.
    pub copy_bytes: u64,
}

/// `struct zcrx_event_desc`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct EventDesc {
    /// User data of the notifications.
    pub user_data: u64,
    /// Which notifications are wanted.
    pub type_mask: u32,
    /// [`EVENT_DESC_STATS`].
    pub flags: u32,
    /// Where in the refill region the kernel keeps [`Stats`].
    pub stats_offset: u64,
    /// Zero.
    pub resv2: [u64; 9],
}

/// `struct io_uring_zcrx_ifq_reg`: the argument of `IORING_REGISTER_ZCRX_IFQ`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct IfqReg {
    /// Interface index.
    pub if_idx: u32,
    /// Receive queue.
    pub if_rxq: u32,
    /// Entries of the refill ring; the kernel rounds up to a power of two.
    pub rq_entries: u32,
    /// `ZCRX_REG_*`.
    pub flags: u32,
    /// Pointer to [`AreaReg`].
    pub area_ptr: u64,
    /// Pointer to [`RegionDesc`].
    pub region_ptr: u64,
    /// Filled in by the kernel.
    pub offsets: Offsets,
    /// Filled in by the kernel: the name of this instance in requests.
    pub zcrx_id: u32,
    /// Bytes per buffer, 0 for a page; the kernel writes back the length that it uses.
    pub rx_buf_len: u32,
    /// Pointer to [`EventDesc`], or 0.
    pub event_desc: u64,
    /// Zero.
    pub resv: [u64; 2],
}

/// `struct zcrx_ctrl`. Its last words depend on the operation; unused ones are zero.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Ctrl {
    zcrx_id: u32,
    op: u32,
    resv: [u64; 2],
    arguments: [u32; 12],
}

/// `struct io_uring_query_hdr`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct QueryHdr {
    next_entry: u64,
    query_data: u64,
    query_op: u32,
    size: u32,
    result: i32,
    resv: [u32; 3],
}

/// `struct io_uring_query_zcrx`: features of the kernel's zero-copy receive.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct QueryZcrx {
    /// Supported `ZCRX_REG_*`.
    pub register_flags: u64,
    /// Supported `IORING_ZCRX_AREA_*`.
    pub area_flags: u64,
    /// Number of `ZCRX_CTRL_*` operations.
    pub nr_ctrl_opcodes: u32,
    /// `ZCRX_FEATURE_*`.
    pub features: u32,
    /// Bytes of the refill ring's header.
    pub rq_hdr_size: u32,
    /// Alignment of that header.
    pub rq_hdr_alignment: u32,
    /// Zero.
    pub resv2: u64,
}

// Sizes and offsets as a C compiler gives them for the 7.3 header.
const _: () = {
    assert!(size_of::<Rqe>() == 16 && offset_of!(Rqe, len) == 8);
    assert!(size_of::<Offsets>() == 32);
    assert!(size_of::<AreaReg>() == 48);
    assert!(offset_of!(AreaReg, rq_area_token) == 16 && offset_of!(AreaReg, dmabuf_fd) == 28);
    assert!(size_of::<RegionDesc>() == 64 && offset_of!(RegionDesc, mmap_offset) == 24);
    assert!(size_of::<Stats>() == 16);
    assert!(size_of::<EventDesc>() == 96 && offset_of!(EventDesc, stats_offset) == 16);
    assert!(offset_of!(EventDesc, type_mask) == 8 && offset_of!(EventDesc, flags) == 12);
    assert!(size_of::<IfqReg>() == 96 && offset_of!(IfqReg, area_ptr) == 16);
    assert!(offset_of!(IfqReg, offsets) == 32 && offset_of!(IfqReg, zcrx_id) == 64);
    assert!(offset_of!(IfqReg, rx_buf_len) == 68 && offset_of!(IfqReg, event_desc) == 72);
    assert!(size_of::<Ctrl>() == 72 && offset_of!(Ctrl, arguments) == 24);
    assert!(size_of::<QueryHdr>() == 40 && offset_of!(QueryHdr, result) == 24);
    assert!(size_of::<QueryZcrx>() == 40 && offset_of!(QueryZcrx, features) == 20);
};

/// `io_uring_register(2)`.
///
/// # Safety
///
/// `arg`, and every pointer in its target, must be valid for the reads and writes of `opcode`.
unsafe fn register<T>(fd: RawFd, opcode: u32, arg: *mut T, nr_args: u32) -> io::Result<()> {
    // SAFETY: the caller vouches for the pointers; the rest are plain integers.
    let ret = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, opcode, arg, nr_args) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Binds a zero-copy receive instance to a queue (`IORING_REGISTER_ZCRX_IFQ`). The kernel writes
/// ids, offsets and the area token back into all of these. Closing the ring ends the instance.
///
/// # Safety
///
/// `area` and `region` describe mappings that the kernel and the device may write from now on,
/// until the ring is closed. The program reads a piece of the area between its completion and its
/// return.
///
/// # Errors
///
/// The kernel's, such as ENODEV without that interface, EINVAL without header/data split,
/// EOPNOTSUPP if the driver has no queue management, EEXIST if the queue has a memory provider
/// already.
pub unsafe fn register_ifq(
    ring: RawFd,
    reg: &mut IfqReg,
    area: &mut AreaReg,
    region: &mut RegionDesc,
    event: Option<&EventDesc>,
) -> io::Result<()> {
    reg.area_ptr = std::ptr::from_mut(area).expose_provenance() as u64;
    reg.region_ptr = std::ptr::from_mut(region).expose_provenance() as u64;
    reg.event_desc = event.map_or(0, |event| {
        std::ptr::from_ref(event).expose_provenance() as u64
    });
    // SAFETY: all pointers are to live, exclusively borrowed structs of the uapi's layout (the
    // event descriptor is only read).
    unsafe { register(ring, REGISTER_ZCRX_IFQ, reg, 1) }
}

/// Imports another ring's instance by a handle of [`export`]. Returns its id in requests.
pub(super) fn import_ifq(ring: RawFd, handle: BorrowedFd<'_>) -> io::Result<u32> {
    let mut reg = IfqReg {
        if_idx: handle.as_raw_fd().cast_unsigned(),
        flags: REG_IMPORT,
        ..Default::default()
    };
    // SAFETY: the pointer is to a live struct of the uapi's layout without pointers.
    unsafe { register(ring, REGISTER_ZCRX_IFQ, &raw mut reg, 1) }?;
    Ok(reg.zcrx_id)
}

/// Makes the kernel take the buffers in the refill ring now (`ZCRX_CTRL_FLUSH_RQ`).
pub(super) fn flush_refill_ring(ring: RawFd, zcrx_id: u32) -> io::Result<()> {
    control(ring, zcrx_id, CTRL_FLUSH_RQ, [0; 12]).map(drop)
}

/// A descriptor by which other rings can import the instance (`ZCRX_CTRL_EXPORT`).
pub(super) fn export(ring: RawFd, zcrx_id: u32) -> io::Result<OwnedFd> {
    let [fd, ..] = control(ring, zcrx_id, CTRL_EXPORT, [0; 12])?;
    // SAFETY: the kernel has made the descriptor for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })
}

/// Asks for the next notification of this type (`ZCRX_CTRL_ARM_EVENT`).
pub(super) fn arm_event(ring: RawFd, zcrx_id: u32, event: u32) -> io::Result<()> {
    let mut arguments = [0; 12];
    arguments[0] = event;
    control(ring, zcrx_id, CTRL_ARM_EVENT, arguments).map(drop)
}

/// Adds an area (`ZCRX_CTRL_ADD_AREA`). The kernel writes its token back.
pub(super) fn add_area(ring: RawFd, zcrx_id: u32, area: &mut AreaReg) -> io::Result<()> {
    let address = std::ptr::from_mut(area).expose_provenance() as u64;
    let mut arguments = [0; 12];
    arguments[0] = address as u32;
    arguments[1] = (address >> 32) as u32;
    control(ring, zcrx_id, CTRL_ADD_AREA, arguments).map(drop)
}

/// Returns the operation's arguments as the kernel leaves them.
fn control(ring: RawFd, zcrx_id: u32, op: u32, arguments: [u32; 12]) -> io::Result<[u32; 12]> {
    let mut ctrl = Ctrl {
        zcrx_id,
        op,
        resv: [0; 2],
        arguments,
    };
    // SAFETY: the pointer is to a live struct of the uapi's layout; an area that the arguments may
    // point to is its caller's, who has it borrowed exclusively.
    unsafe { register(ring, REGISTER_ZCRX_CTRL, &raw mut ctrl, 0) }?;
    Ok(ctrl.arguments)
}

/// Features of this kernel's zero-copy receive; all zero on kernels without the query.
pub(super) fn query(ring: RawFd) -> QueryZcrx {
    let mut data = QueryZcrx::default();
    let mut hdr = QueryHdr {
        query_data: (&raw mut data).expose_provenance() as u64,
        query_op: QUERY_ZCRX,
        size: size_of::<QueryZcrx>() as u32,
        ..Default::default()
    };
    // SAFETY: header and data are live, and the kernel writes at most `size` bytes of data.
    let done = unsafe { register(ring, REGISTER_QUERY, &raw mut hdr, 0) };
    if done.is_ok() && hdr.result == 0 {
        data
    } else {
        QueryZcrx::default()
    }
}
