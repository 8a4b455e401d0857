//! An io_uring with one zero-copy receive instance bound to a receive queue.
#![allow(
    unsafe_code,
    reason = "pushing a submission queue entry, borrowing the ring's descriptor"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::{Area, RefillRing, area::HUGE_PAGE, sys};
use crate::net;

/// The user data of notifications, which no request may have.
pub const NOTIFICATION: u64 = u64::MAX;

/// How much of everything an instance has.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes per buffer (`None`: a page).
    pub buf_len: Option<u32>,
    /// Receive memory.
    pub area_bytes: usize,
    /// Entries of the refill ring. A buffer may be in it once per fragment.
    pub refill_entries: u32,
    /// Completions that may wait before the kernel ends a request with ENOSPC.
    pub completions: u32,
    /// Whether the kernel tells of copies and of buffers that it did not get (7.2.12 and 7.3 do).
    pub notifications: bool,
}

impl Default for Options {
    /// Receive memory for a full 1024-entry ring of 16 KiB buffers twice over, or 8192 pages, and more
    /// entries of the refill ring than that.
    fn default() -> Self {
        Self {
            buf_len: None,
            area_bytes: 32 << 20,
            refill_entries: 16 << 10,
            completions: 4096,
            notifications: false,
        }
    }
}

/// Where packets come from.
#[derive(Debug, Clone)]
pub enum Target {
    /// A receive queue of an interface in our network namespace.
    Queue {
        /// Interface name.
        interface: String,
        /// Receive queue.
        queue: u32,
    },
    /// No device (`ZCRX_REG_NODEV`): everything is copied. Exercises this layer, not a NIC.
    NoDevice,
}

/// Why there is no zero-copy receive here, with what would be needed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No io_uring at all.
    #[error("kernel {kernel} refuses to make an io_uring")]
    Setup {
        /// Running kernel.
        kernel: String,
        /// From `io_uring_setup(2)`.
        source: io::Error,
    },
    /// No zero-copy receive.
    #[error(
        "kernel {kernel} has no IO_URING_ZCRX (io_uring zero-copy receive), 6.15 or later with CONFIG_IO_URING_ZCRX=y is needed"
    )]
    NoZcrx {
        /// Running kernel.
        kernel: String,
    },
    /// No notifications.
    #[error("kernel {kernel} does not notify of copies and missing buffers, 7.3 does")]
    NoNotifications {
        /// Running kernel.
        kernel: String,
    },
    /// The chunk size is not one.
    #[error("rx buffer length {0} is not a power of two from 4096 to 2097152")]
    BufLen(u32),
    /// No memory for the area.
    #[error("no memory for a receive area of {bytes} bytes{hint}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// From `mmap(2)`.
        source: io::Error,
        /// What to do about it.
        hint: String,
    },
    /// The interface can not even be asked.
    #[error(transparent)]
    Device(#[from] net::Error),
    /// The kernel refused the registration, for the reason given.
    #[error("{text}")]
    Refused {
        /// What it means.
        text: String,
        /// What the kernel said.
        errno: i32,
    },
    /// Something else failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

/// A piece of received data, in the area. To be given back with [`Zcrx::recycle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Byte offset in the area.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl Error {
    /// What the kernel said.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Setup { source, .. } | Self::Memory { source, .. } | Self::Io { source, .. } => {
                source.raw_os_error()
            }
            Self::NoZcrx { .. }
            | Self::NoNotifications { .. }
            | Self::BufLen(_)
            | Self::Device(_) => None,
        }
    }
}

/// An entry of the completion queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The request's, or [`NOTIFICATION`].
    pub tag: u64,
    /// Bytes, `-errno`, or a notification's type.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
    /// What that amounts to.
    pub kind: Kind,
}

/// What a completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Data; the request goes on.
    Data(Buffer),
    /// The request is over: 0 (end of stream, or all that a limited request asked for) or `-errno`.
    End,
    /// Something happened (`sys::EVENT_*`); not said again until [`Zcrx::arm`].
    Notification,
}

/// An io_uring with a zero-copy receive instance. Dropping it gives the queue back.
pub struct Zcrx {
    ring: IoUring<squeue::Entry, cqueue::Entry32>,
    refill: RefillRing,
    area: Area,
    area_token: u64,
    id: u32,
    buf_len: u32,
}

impl AsFd for Zcrx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring is open as long as the borrow lasts.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Zcrx {
    /// Binds to `target`.
    pub fn new(target: &Target, options: &Options) -> Result<Self, Error> {
        let buf_len = options.buf_len;
        let kernel = || {
            rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned()
        };
        let huge = match buf_len {
            None | Some(4096) => false,
            Some(len) if len.is_power_of_two() && (4096..=HUGE_PAGE as u32).contains(&len) => true,
            Some(len) => return Err(Error::BufLen(len)),
        };
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(options.completions)
            .build(8)
            .map_err(|source| Error::Setup {
                kernel: kernel(),
                source,
            })?;
        let mut probe = Probe::new();
        if ring.submitter().register_probe(&mut probe).is_err()
            || !probe.is_supported(opcode::RecvZc::CODE)
        {
            return Err(Error::NoZcrx { kernel: kernel() });
        }

        let memory = |bytes: usize, huge: bool| {
            Area::new(bytes, huge).map_err(|source| Error::Memory {
                bytes,
                source,
                hint: if huge {
                    let pages = bytes.div_ceil(HUGE_PAGE);
                    format!(" (buffers larger than a page need {pages} free huge pages: sysctl vm.nr_hugepages={pages})")
                } else {
                    String::new()
                },
            })
        };
        let area = memory(options.area_bytes, huge)?;
        // A page for the header, then the entries, then the statistics.
        let stats_offset = 4096 + options.refill_entries as usize * size_of::<sys::Rqe>();
        let region = memory(stats_offset + size_of::<sys::Stats>(), false)?;

        let mut area_reg = sys::AreaReg {
            addr: area.as_ptr().expose_provenance().get() as u64,
            len: area.len() as u64,
            ..Default::default()
        };
        let mut region_desc = sys::RegionDesc {
            user_addr: region.as_ptr().expose_provenance().get() as u64,
            size: region.len() as u64,
            flags: sys::REGION_TYPE_USER,
            ..Default::default()
        };
        let mut reg = sys::IfqReg {
            rq_entries: options.refill_entries,
            rx_buf_len: if huge { buf_len.unwrap_or_default() } else { 0 },
            ..Default::default()
        };
        match target {
            Target::Queue { interface, queue } => {
                reg.if_idx = net::ifindex(interface)?;
                reg.if_rxq = *queue;
            }
            Target::NoDevice => reg.flags = sys::REG_NODEV,
        }
        let has_stats = sys::query(ring.as_raw_fd()).features & sys::FEATURE_EVENT != 0;
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
        sys::register_ifq(
            ring.as_raw_fd(),
            &mut reg,
            &mut area_reg,
            &mut region_desc,
            event,
        )
        .map_err(|source| refusal(target, reg.rx_buf_len, source))?;

        let stats_offset = has_stats.then_some(stats_offset);
        let refill = RefillRing::new(region, &reg.offsets, reg.rq_entries, stats_offset)
            .ok_or_else(|| Error::Refused {
                text: format!("refill ring outside its region: {reg:?}"),
                errno: 0,
            })?;
        Ok(Self {
            ring,
            refill,
            area,
            area_token: area_reg.rq_area_token,
            id: reg.zcrx_id,
            // Kernels that do not know the field leave it zero, and use pages.
            buf_len: if reg.rx_buf_len == 0 {
                4096
            } else {
                reg.rx_buf_len
            },
        })
    }

    /// Bytes per buffer.
    #[must_use]
    pub fn buf_len(&self) -> u32 {
        self.buf_len
    }

    /// Starts receiving from a TCP socket, `limit` bytes or (0) until the end of the stream, with
    /// completions that have this tag. One request per socket at a time.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, limit: u32, tag: u64) -> Result<(), Error> {
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::RecvZc::new(fd, limit)
            .ifq(self.id)
            .build()
            .user_data(tag);
        if self.ring.submission().is_full() {
            self.ring.submit().map_err(|source| Error::Io {
                what: "io_uring_enter",
                source,
            })?;
        }
        // SAFETY: the entry refers to no memory of ours, only to the registered area.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Error::Io {
            what: "submission queue",
            source: io::ErrorKind::StorageFull.into(),
        })
    }

    /// Submits, and waits until there is a completion or `timeout` is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        let timeout = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
            Err(source) => Err(Error::Io {
                what: "io_uring_enter",
                source,
            }),
        }
    }

    /// The next completion that is already there.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.ring.completion().next().map(|cqe| decode(&cqe))
    }

    /// Completions that are there.
    pub fn waiting(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// Whether the completion queue was full, and the kernel keeps completions until somebody makes
    /// room and enters (`IORING_SQ_CQ_OVERFLOW`).
    pub fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// The bytes of a buffer, or `None` if the kernel named a place outside the area.
    #[must_use]
    pub fn bytes(&self, buffer: Buffer) -> Option<&[u8]> {
        self.area.bytes(buffer.offset, buffer.len as usize)
    }

    /// Bytes of the area.
    #[must_use]
    pub fn area_bytes(&self) -> u64 {
        self.area.len() as u64
    }

    /// Queues a buffer for return; [`Zcrx::publish`] returns it.
    pub fn recycle(&mut self, buffer: Buffer) {
        let off = buffer.offset | self.area_token;
        self.refill.push(sys::Rqe {
            off,
            len: buffer.len,
            pad: 0,
        });
    }

    /// Shows the kernel the queued buffers.
    pub fn publish(&mut self) {
        self.refill.publish();
    }

    /// Makes the kernel take returned buffers at once, which it otherwise does when the queue's page
    /// pool is empty. For when copies ran out of buffers.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.refill.publish();
        sys::flush_refill_ring(self.ring.as_raw_fd(), self.id).map_err(|source| Error::Io {
            what: "flushing the refill ring",
            source,
        })?;
        self.refill.publish();
        Ok(())
    }

    /// Wants a notification of this type again.
    pub fn arm(&self, event: u32) -> Result<(), Error> {
        sys::arm_event(self.ring.as_raw_fd(), self.id, event).map_err(|source| Error::Io {
            what: "arming a notification",
            source,
        })
    }

    /// Buffers on their way back to the kernel.
    #[must_use]
    pub fn pending_returns(&self) -> usize {
        self.refill.pending()
    }

    /// Of these, the ones in the refill ring, from which the kernel takes them; the others wait for
    /// a place in it.
    #[must_use]
    pub fn in_refill_ring(&self) -> u32 {
        self.refill.in_ring()
    }

    /// What the kernel copied; `None` where it does not tell (7.2.12 and 7.3 do).
    #[must_use]
    pub fn stats(&self) -> Option<sys::Stats> {
        self.refill.stats()
    }
}

/// A data completion has F_MORE and, in the second half of its entry, where the data is.
fn decode(cqe: &cqueue::Entry32) -> Completion {
    let (tag, result, flags) = (cqe.user_data(), cqe.result(), cqe.flags());
    let kind = match u32::try_from(result) {
        _ if tag == NOTIFICATION => Kind::Notification,
        Ok(len) if len > 0 && cqueue::more(flags) => {
            let offset = cqe.big_cqe()[0] & !sys::AREA_MASK;
            Kind::Data(Buffer { offset, len })
        }
        _ => Kind::End,
    };
    Completion {
        tag,
        result,
        flags,
        kind,
    }
}

/// The registration reports errno only (`netif_mp_open_rxq()` passes no extack), so look at the
/// device for what the errno can mean.
fn refusal(target: &Target, rx_buf_len: u32, source: io::Error) -> Error {
    let errno = source.raw_os_error().unwrap_or_default();
    let Target::Queue { interface, queue } = target else {
        return match errno {
            libc::EINVAL => Error::Refused {
                text: "this kernel has no ZCRX_REG_NODEV".into(),
                errno,
            },
            _ => Error::Io {
                what: "registering zero-copy receive without a device",
                source,
            },
        };
    };
    // A queue that does not exist may already fail for want of a DMA device.
    let queues = net::rx_queues(interface).unwrap_or(u32::MAX);
    let text = match errno {
        libc::ERANGE | libc::EOPNOTSUPP if *queue >= queues => {
            let last = queues.saturating_sub(1);
            format!("{interface} has no receive queue {queue}: it has {queues} (0 to {last})")
        }
        libc::EPERM => "zero-copy receive needs CAP_NET_ADMIN".into(),
        libc::ENODEV => format!("there is no interface {interface}"),
        libc::ERANGE => {
            format!("the area has no physically contiguous buffers of {rx_buf_len} bytes")
        }
        libc::EINVAL => match net::rings(interface) {
            Ok(rings) if rings.tcp_data_split != Some(true) => format!(
                "header/data split is not enabled on {interface}: ethtool -G {interface} tcp-data-split on"
            ),
            Ok(rings) if rings.hds_thresh.unwrap_or(0) != 0 => {
                format!("hds-thresh of {interface} is not 0: ethtool -G {interface} hds-thresh 0")
            }
            Ok(_) => {
                format!("the kernel or the driver of {interface} refused queue {queue}: {source}")
            }
            Err(error) => format!(
                "{interface} refused queue {queue}: {source} (its rings can not be read: {error})"
            ),
        },
        libc::EOPNOTSUPP if rx_buf_len != 0 => format!(
            "{interface} can not do zero-copy receive with buffers of {rx_buf_len} bytes (queue_mgmt_ops with QCFG_RX_PAGE_SIZE)"
        ),
        libc::EOPNOTSUPP => format!(
            "the driver of {interface} does not support zero-copy receive (no queue_mgmt_ops, or no DMA device)"
        ),
        libc::EEXIST => format!(
            "queue {queue} of {interface} already has a memory provider, or {interface} has an XDP program"
        ),
        libc::EBUSY => format!("queue {queue} of {interface} is in use by AF_XDP or leased"),
        _ => format!("binding queue {queue} of {interface}: {source}"),
    };
    Error::Refused { text, errno }
}
