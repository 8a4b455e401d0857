//! One zero-copy receive instance, bound to a receive queue: its ring, its memory, and its refill
//! ring.
#![allow(unsafe_code, reason = "lending memory to the kernel")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use super::{
    error::{Error, kernel, refusal},
    options::{Buffer, Memory, Options, Target},
    refill::RefillRing,
    ring::{NOTIFICATION, Ring},
    sys,
};
use crate::kit::{
    dmabuf::Dmabuf,
    memory::{Area, HUGE_PAGE},
    net,
};

/// Memory of an area.
enum Pages {
    Anonymous(Area),
    Dmabuf(Dmabuf),
}

impl Pages {
    fn new(options: &Options) -> Result<Self, Error> {
        let (bytes, huge) = (options.area_bytes, options.huge());
        let made = match options.memory {
            Memory::Dmabuf => Dmabuf::new(bytes, huge).map(Self::Dmabuf),
            Memory::Anonymous | Memory::HugePages => Area::new(bytes, huge).map(Self::Anonymous),
        };
        made.map_err(|source| no_memory(bytes, huge, source))
    }

    fn area(&self) -> &Area {
        match self {
            Self::Anonymous(area) => area,
            Self::Dmabuf(dmabuf) => dmabuf.memory(),
        }
    }

    /// Describes it to the kernel.
    fn registration(&self) -> sys::AreaReg {
        let len = self.area().len() as u64;
        match self {
            Self::Anonymous(area) => sys::AreaReg {
                addr: area.as_ptr().expose_provenance().get() as u64,
                len,
                ..Default::default()
            },
            Self::Dmabuf(dmabuf) => sys::AreaReg {
                len,
                flags: sys::AREA_DMABUF,
                dmabuf_fd: dmabuf.as_fd().as_raw_fd().cast_unsigned(),
                ..Default::default()
            },
        }
    }
}

fn no_memory(bytes: usize, huge: bool, source: io::Error) -> Error {
    let hint = if huge {
        let pages = bytes.div_ceil(HUGE_PAGE);
        format!(" (it takes {pages} free huge pages: sysctl vm.nr_hugepages={pages})")
    } else {
        String::new()
    };
    Error::Memory {
        bytes,
        source,
        hint,
    }
}

/// A zero-copy receive instance with the ring that it was made for. Dropping it gives the queue
/// back.
pub struct Zcrx {
    /// Where requests are made.
    pub ring: Ring,
    refill: RefillRing,
    /// By their numbers.
    areas: Vec<Pages>,
    options: Options,
    buf_len: u32,
}

impl AsFd for Zcrx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Zcrx {
    /// Binds to `target`.
    pub fn new(target: &Target, options: &Options) -> Result<Self, Error> {
        if let Some(len) = options.buf_len
            && !(len.is_power_of_two() && (4096..=HUGE_PAGE as u32).contains(&len))
        {
            return Err(Error::BufLen(len));
        }
        let pages = Pages::new(options)?;
        // A page for the header, then the entries, then the statistics.
        let stats_offset = 4096 + options.refill_entries as usize * size_of::<sys::Rqe>();
        let region_bytes = stats_offset + size_of::<sys::Stats>();
        let region = Area::new(region_bytes, false);
        let region = region.map_err(|source| no_memory(region_bytes, false, source))?;

        let mut area_reg = pages.registration();
        let mut region_desc = sys::RegionDesc {
            user_addr: region.as_ptr().expose_provenance().get() as u64,
            size: region.len() as u64,
            flags: sys::REGION_TYPE_USER,
            ..Default::default()
        };
        let mut reg = sys::IfqReg {
            rq_entries: options.refill_entries,
            rx_buf_len: options.buf_len.filter(|_| options.large()).unwrap_or(0),
            ..Default::default()
        };
        match target {
            Target::Queue { interface, queue } => {
                reg.if_idx = net::ifindex(interface)?;
                reg.if_rxq = *queue;
            }
            Target::NoDevice => reg.flags = sys::REG_NODEV,
        }
        let mut has_stats = false;
        let ring = Ring::new(options.completions, |ring| {
            has_stats = sys::query(ring.as_raw_fd()).features & sys::FEATURE_EVENT != 0;
            if options.notifications && !has_stats {
                return Err(Error::NoNotifications { kernel: kernel() });
            }
            let wanted = 1 << sys::EVENT_ALLOC_FAIL | 1 << sys::EVENT_COPY;
            let event = sys::EventDesc {
                user_data: NOTIFICATION,
                type_mask: if options.notifications { wanted } else { 0 },
                flags: sys::EVENT_DESC_STATS,
                stats_offset: stats_offset as u64,
                ..Default::default()
            };
            let event = has_stats.then_some(&event);
            // SAFETY: area and region are mappings that live as long as the instance, and `bytes`
            // lends pieces of the area that the caller has not returned.
            let registered = unsafe {
                sys::register_ifq(
                    ring.as_raw_fd(),
                    &mut reg,
                    &mut area_reg,
                    &mut region_desc,
                    event,
                )
            };
            registered.map_err(|source| refusal(target, reg.rx_buf_len, source))?;
            Ok(reg.zcrx_id)
        })?;

        let stats_offset = has_stats.then_some(stats_offset);
        let refill = RefillRing::new(region, &reg.offsets, reg.rq_entries, stats_offset)
            .ok_or_else(|| Error::Refused {
                text: format!("refill ring outside its region: {reg:?}"),
                errno: 0,
            })?;
        Ok(Self {
            ring,
            refill,
            areas: vec![pages],
            options: options.clone(),
            // Kernels that do not know the field leave it zero, and use pages.
            buf_len: if reg.rx_buf_len == 0 {
                4096
            } else {
                reg.rx_buf_len
            },
        })
    }

    /// Adds an area of this kind, which the kernel uses when the other areas have no buffer left.
    pub fn add_area(&mut self, memory: Memory, bytes: usize) -> Result<(), Error> {
        let pages = Pages::new(&Options {
            memory,
            area_bytes: bytes,
            ..self.options.clone()
        })?;
        self.ring.add_area(&mut pages.registration())?;
        self.areas.push(pages);
        Ok(())
    }

    /// Bytes per buffer.
    #[must_use]
    pub fn buf_len(&self) -> u32 {
        self.buf_len
    }

    /// The bytes of a buffer, or `None` if the kernel named a place outside the areas.
    #[must_use]
    pub fn bytes(&self, buffer: Buffer) -> Option<&[u8]> {
        let pages = self.areas.get(usize::from(buffer.area))?;
        pages.area().bytes(buffer.offset, buffer.len as usize)
    }

    /// Bytes of the area that it was made with.
    #[must_use]
    pub fn area_bytes(&self) -> u64 {
        self.areas[0].area().len() as u64
    }

    /// Queues a buffer for return; [`Zcrx::publish`] returns it.
    pub fn recycle(&mut self, buffer: Buffer) {
        self.refill.push(sys::Rqe {
            off: buffer.offset | u64::from(buffer.area) << sys::AREA_SHIFT,
            len: buffer.len,
            pad: 0,
        });
    }

    /// Publishes the queued buffers to the kernel.
    pub fn publish(&mut self) {
        self.refill.publish();
    }

    /// Makes the kernel take returned buffers at once, which it otherwise does when the queue's
    /// page pool is empty. Needed when copies ran out of buffers.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.refill.publish();
        self.ring.flush()?;
        self.refill.publish();
        Ok(())
    }

    /// Number of returned buffers that the kernel has not taken yet.
    #[must_use]
    pub fn pending_returns(&self) -> usize {
        self.refill.pending()
    }

    /// Pending returns that are in the refill ring; the others wait for a place in it.
    #[must_use]
    pub fn in_refill_ring(&self) -> u32 {
        self.refill.in_ring()
    }

    /// Data that the kernel copied; `None` on kernels without these statistics (7.2.12 and 7.3 have
    /// them).
    #[must_use]
    pub fn stats(&self) -> Option<sys::Stats> {
        self.refill.stats()
    }
}
