//! A zero-copy receiver: accepts one TCP connection, receives it by io_uring zero-copy receive on
//! one receive queue, and writes the stream to standard output.
//!
//! ```text
//! zcnic-guest flow-steer --interface eth0 --queue 3 --port 4433 --channels 4
//! zcrx_receive eth0 3 4433 > stream
//! ```
//!
//! The first command enables header/data split, which the kernel requires, and keeps all other
//! traffic off the queue, because other sockets can't read payload in provided memory. The program
//! needs Linux 6.15 and CAP_NET_ADMIN. `Documentation/networking/iou-zcrx.rst` explains the
//! interface.
//!
//! The program uses three types of this crate that any io_uring program can have: `Area` (an mmap),
//! `RefillRing` (the ring by which buffers go back) and `sys` (the kernel's structures).

#![allow(unsafe_code, reason = "memory and requests for the kernel")]

use std::{
    io::{self, Write},
    net::{Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use zcnic_guest::kit::{
    memory::Area,
    net::ifindex,
    zcrx::{
        RefillRing,
        sys::{self, AreaReg, IfqReg, RegionDesc, Rqe},
    },
};

/// Completions carry the place of the data, so they need entries of 32 bytes.
type Ring = IoUring<squeue::Entry, cqueue::Entry32>;

/// Payload memory: the driver's receive ring is filled from it, and the program holds the rest.
const AREA_BYTES: usize = 32 << 20;
/// A power of two, at least the number of pieces of data that the program holds at once.
const REFILL_ENTRIES: u32 = 16 << 10;
/// Bytes in front of the refill ring's entries.
const REFILL_HEADER: usize = 4096;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, queue, port] = &arguments[..] else {
        bail!("usage: zcrx_receive INTERFACE QUEUE PORT");
    };

    // 1. The ring. The kernel refuses zero-copy receive unless one task submits (SINGLE_ISSUER) and
    //    completions are made when that task waits (DEFER_TASKRUN).
    let mut ring: Ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(4096)
        .build(8)
        .context("io_uring_setup")?;

    // 2. The area: memory that the NIC writes payload into. The kernel pins its pages.
    let area = Area::new(AREA_BYTES, false).context("mapping the area")?;
    let mut area_reg = AreaReg {
        addr: area.as_ptr().expose_provenance().get() as u64,
        len: area.len() as u64,
        ..AreaReg::default()
    };

    // 3. The region: memory for the refill ring, shared with the kernel.
    let region_bytes = REFILL_HEADER + REFILL_ENTRIES as usize * size_of::<Rqe>();
    let region = Area::new(region_bytes, false).context("mapping the refill ring")?;
    let mut region_desc = RegionDesc {
        user_addr: region.as_ptr().expose_provenance().get() as u64,
        size: region.len() as u64,
        flags: sys::REGION_TYPE_USER,
        ..RegionDesc::default()
    };

    // 4. IORING_REGISTER_ZCRX_IFQ restarts the receive queue with buffers from the area. The kernel
    //    writes back the instance's id, the area's token and the layout of the region.
    let mut reg = IfqReg {
        if_idx: ifindex(interface)?,
        if_rxq: queue.parse().context("QUEUE")?,
        rq_entries: REFILL_ENTRIES,
        ..IfqReg::default()
    };
    // SAFETY: the kernel pins the pages of both mappings, and this reads a piece only before it
    // goes back.
    let registered = unsafe {
        let ring = ring.as_raw_fd();
        sys::register_ifq(ring, &mut reg, &mut area_reg, &mut region_desc, None)
    };
    registered.context("registering the queue")?;

    // 5. The refill ring: the program produces at its tail, the kernel consumes at its head.
    let mut refill = RefillRing::new(region, &reg.offsets, reg.rq_entries, None)
        .context("the kernel placed the refill ring outside its region")?;

    // 6. An ordinary TCP connection, whose payload the NIC writes to the area.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port.parse::<u16>().context("PORT")?))?;
    let (socket, peer) = listener.accept()?;

    receive(
        &mut ring,
        &socket,
        reg.zcrx_id,
        &area,
        area_reg.rq_area_token,
        &mut refill,
    )
    .with_context(|| format!("receiving from {peer}"))
}

/// Receives until the end of the stream.
fn receive(
    ring: &mut Ring,
    socket: &TcpStream,
    zcrx_id: u32,
    area: &Area,
    area_token: u64,
    refill: &mut RefillRing,
) -> Result<()> {
    // 7. One multishot request receives the whole stream: length 0 sets no limit.
    let request = opcode::RecvZc::new(types::Fd(socket.as_raw_fd()), 0)
        .ifq(zcrx_id)
        .build();
    let submit = |ring: &mut Ring| {
        // SAFETY: the request refers to no memory but the registered area.
        unsafe { ring.submission().push(&request) }.context("the submission queue is full")
    };
    submit(ring)?;

    let mut output = io::stdout().lock();
    let (mut bytes, mut pieces) = (0, 0_u64);
    'stream: loop {
        ring.submit_and_wait(1).context("io_uring_enter")?;
        let completions: Vec<_> = ring.completion().collect();
        for completion in completions {
            let result = completion.result();
            // 8. The last completion of a request has no F_MORE: 0 at the end of the stream,
            //    -ENOSPC if the completion queue was full, after which a new request continues.
            if !cqueue::more(completion.flags()) {
                match result {
                    0 => break 'stream,
                    error if error == -libc::ENOSPC => submit(ring)?,
                    error => return Err(io::Error::from_raw_os_error(-error)).context("recvzc"),
                }
                continue;
            }
            // 9. The second half of the entry has the place of the data: offset and area token.
            let offset = completion.big_cqe()[0] & !sys::AREA_MASK;
            let length = u32::try_from(result).context("a piece without data")?;
            let data = area.bytes(offset, length as usize);
            output.write_all(data.context("data outside the area")?)?;
            bytes += u64::from(length);
            pieces += 1;
            // 10. Each piece goes back once, when its bytes are no longer needed.
            refill.push(Rqe {
                off: offset | area_token,
                len: length,
                pad: 0,
            });
        }
        // 11. One store of the tail returns all of them.
        refill.publish();
    }
    output.flush()?;
    eprintln!("{bytes} bytes in {pieces} pieces");
    Ok(())
}
