//! The kernel's refusals, in words.

use std::io;

use super::options::Target;
use crate::kit::net;

/// Why zero-copy receive is not possible, and its requirement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses io_uring.
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
    /// The buffer length is invalid.
    #[error("rx buffer length {0} is not a power of two from 4096 to 2097152")]
    BufLen(u32),
    /// No memory for the area.
    #[error("no memory for a receive area of {bytes} bytes{hint}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// From `mmap(2)`.
        source: io::Error,
        /// The remedy.
        hint: String,
    },
    /// The kernel could not be asked about the interface.
    #[error(transparent)]
    Device(#[from] net::Error),
    /// The kernel refused the registration, for the reason given.
    #[error("{text}")]
    Refused {
        /// The reason, in words.
        text: String,
        /// The kernel's errno.
        errno: i32,
    },
    /// Something else failed.
    #[error("{operation}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl Error {
    /// The kernel's errno.
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

/// The registration reports errno only (`netif_mp_open_rxq()` passes no extack), so this looks
/// at the device for the meaning of the errno.
pub(super) fn refusal(target: &Target, rx_buf_len: u32, source: io::Error) -> Error {
    let errno = source.raw_os_error().unwrap_or_default();
    let Target::Queue { interface, queue } = target else {
        return match errno {
            libc::EINVAL => Error::Refused {
                text: "this kernel has no ZCRX_REG_NODEV".into(),
                errno,
            },
            _ => Error::Io {
                operation: "registering zero-copy receive without a device",
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

/// Release of the running kernel.
pub(super) fn kernel() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}
