//! What scenarios ask of and tell a net device: facts over netlink, settings by `ethtool` and `ip`.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::Path,
    process::{Command, Output},
};

use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use serde::Serialize;

use crate::genl::{Attributes, Family, Reply};

/// Which request failed, and how.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command could not be started.
    #[error("can not start {command}")]
    Start {
        /// The command line.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A command ended with an error.
    #[error("{command}: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// Exit status, `None` for a signal.
        status: Option<i32>,
        /// What it said.
        message: String,
    },
    /// A question to the kernel failed.
    #[error("{what}")]
    Kernel {
        /// The question.
        what: String,
        /// The answer.
        source: io::Error,
    },
}

/// Runs a command in a network namespace (`None`: ours) and returns what it printed. Anything that
/// `ethtool` or `ip` refuses becomes one [`Error::Failed`] with their own words.
pub fn run(netns: Option<&str>, command: &[&str]) -> Result<String, Error> {
    let words: Vec<&str> = match netns {
        Some(name) => [["ip", "netns", "exec", name].as_slice(), command].concat(),
        None => command.to_vec(),
    };
    let line = words.join(" ");
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(words.first().unwrap_or(&""))
        .args(words.iter().skip(1))
        .output()
        .map_err(|source| Error::Start {
            command: line.clone(),
            source,
        })?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    // ethtool says part of its errors on stdout.
    let text = [stderr, stdout]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    let said: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let message = if said.is_empty() {
        status.to_string()
    } else {
        said.join("; ")
    };
    Err(Error::Failed {
        command: line,
        status: status.code(),
        message,
    })
}

/// Interface index in our network namespace.
pub fn ifindex(interface: &str) -> Result<u32, Error> {
    let kernel = |source: rustix::io::Errno| Error::Kernel {
        what: format!("interface {interface}"),
        source: source.into(),
    };
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(kernel)?;
    name_to_index(&any, interface).map_err(kernel)
}

/// Moves the calling thread, and what it starts, into a named network namespace.
pub fn enter_netns(name: &str) -> Result<(), Error> {
    let path = Path::new("/run/netns").join(name);
    let kernel = |source: io::Error| Error::Kernel {
        what: format!("network namespace {name}"),
        source,
    };
    let file = File::open(path).map_err(kernel)?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .map_err(|errno| kernel(errno.into()))
}

/// Number of receive queues in use (`real_num_rx_queues`).
pub fn rx_queues(interface: &str) -> Result<u32, Error> {
    let path = format!("/sys/class/net/{interface}/queues");
    let kernel = |source| Error::Kernel {
        what: path.clone(),
        source,
    };
    let mut queues = 0;
    for entry in std::fs::read_dir(&path).map_err(kernel)? {
        let name = entry.map_err(kernel)?.file_name();
        queues += u32::from(name.as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(queues)
}

/// What `ethtool -g` shows.
#[derive(Debug, Clone, Serialize)]
pub struct Rings {
    /// Descriptors of a receive ring.
    pub rx: Option<u64>,
    /// Descriptors of a transmit ring.
    pub tx: Option<u64>,
    /// Header/data split; `None` where the driver does not know it.
    pub tcp_data_split: Option<bool>,
    /// Packets up to this size, in bytes, are not split.
    pub hds_thresh: Option<u64>,
    /// Largest value that `hds_thresh` takes.
    pub hds_thresh_max: Option<u64>,
}

/// Ring parameters of an interface.
pub fn rings(interface: &str) -> Result<Rings, Error> {
    rings_by_index(ifindex(interface)?)
}

/// Ring parameters of an interface (`ETHTOOL_MSG_RINGS_GET`), by index.
pub fn rings_by_index(ifindex: u32) -> Result<Rings, Error> {
    const RINGS_GET: u8 = 15;
    let header = Attributes::default().with(1, &ifindex.to_ne_bytes());
    let wanted = Attributes::default().with_nest(1, &header);
    let kernel = |source| Error::Kernel {
        what: format!("ring parameters of interface {ifindex}"),
        source,
    };
    let replies = Family::open("ethtool")
        .and_then(|family| family.request(RINGS_GET, false, &wanted))
        .map_err(kernel)?;
    let reply = replies
        .first()
        .ok_or_else(|| kernel(io::ErrorKind::InvalidData.into()))?;
    Ok(Rings {
        rx: reply.uint(6),
        tx: reply.uint(9),
        // ETHTOOL_TCP_DATA_SPLIT_{UNKNOWN,DISABLED,ENABLED}
        tcp_data_split: reply
            .uint(11)
            .filter(|split| *split != 0)
            .map(|split| split == 2),
        hds_thresh: reply.uint(17),
        hds_thresh_max: reply.uint(18),
    })
}

/// Switches header/data split. The threshold is set apart: `netif_mp_open_rxq()` wants both.
pub fn set_tcp_data_split(interface: &str, on: bool) -> Result<(), Error> {
    let value = if on { "on" } else { "off" };
    run(None, &["ethtool", "-G", interface, "tcp-data-split", value]).map(drop)
}

/// Packets up to `bytes` stay whole.
pub fn set_hds_thresh(interface: &str, bytes: u32) -> Result<(), Error> {
    run(
        None,
        &["ethtool", "-G", interface, "hds-thresh", &bytes.to_string()],
    )
    .map(drop)
}

/// Number of combined channels.
pub fn set_channels(netns: Option<&str>, interface: &str, combined: u32) -> Result<(), Error> {
    run(
        netns,
        &[
            "ethtool",
            "-L",
            interface,
            "combined",
            &combined.to_string(),
        ],
    )
    .map(drop)
}

/// Spreads over queues 0 to `queues` - 1 only; what comes to the others was steered there.
pub fn set_rss_equal(interface: &str, queues: u32) -> Result<(), Error> {
    run(
        None,
        &["ethtool", "-X", interface, "equal", &queues.to_string()],
    )
    .map(drop)
}

/// Steers TCP with this destination port to a queue; `flow` is "tcp4" or "tcp6". Returns the rule's
/// location.
pub fn add_flow_rule(interface: &str, flow: &str, port: u16, queue: u32) -> Result<u32, Error> {
    let (port, queue) = (port.to_string(), queue.to_string());
    let command = flow_rule(interface, flow, &port, &queue);
    let said = run(None, &command)?;
    said.split_whitespace()
        .last()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Error::Failed {
            command: command.join(" "),
            status: Some(0),
            message: format!("said no rule ID: {}", said.trim()),
        })
}

/// The same by the rule at `location`, which is replaced if it is there.
pub fn set_flow_rule(
    interface: &str,
    flow: &str,
    port: u16,
    queue: u32,
    location: u32,
) -> Result<(), Error> {
    let (port, queue) = (port.to_string(), queue.to_string());
    let location = location.to_string();
    let rule = flow_rule(interface, flow, &port, &queue);
    // With a location, ethtool prints nothing.
    run(None, &[&rule[..], &["loc", &location]].concat()).map(drop)
}

fn flow_rule<'a>(interface: &'a str, flow: &'a str, port: &'a str, queue: &'a str) -> [&'a str; 9] {
    [
        "ethtool",
        "-N",
        interface,
        "flow-type",
        flow,
        "dst-port",
        port,
        "action",
        queue,
    ]
}

/// Deletes a flow rule.
pub fn delete_flow_rule(interface: &str, location: u32) -> Result<(), Error> {
    run(
        None,
        &["ethtool", "-N", interface, "delete", &location.to_string()],
    )
    .map(drop)
}

/// A page pool (`page-pool-get` and `page-pool-stats-get` of the netdev family).
#[derive(Debug, Clone, Serialize)]
pub struct PagePool {
    /// Pool id.
    pub id: u64,
    /// Interface; `None` if that no longer exists.
    pub ifindex: Option<u64>,
    /// NAPI instance that it belongs to.
    pub napi_id: Option<u64>,
    /// Pages taken from the page allocator or provider and not given back, those in the pool's own
    /// caches included.
    pub inflight: u64,
    /// When it was destroyed (seconds of uptime) although pages are still out.
    pub detach_time: Option<u64>,
    /// Bytes per buffer if its memory comes from io_uring.
    pub io_uring_rx_buf_len: Option<u64>,
    /// The binding, if its memory comes from a dmabuf.
    pub dmabuf: Option<u64>,
    /// Pages out of the pool, those in its own caches not included; `None` where the kernel has no
    /// statistics and for memory providers (their allocations are not all counted).
    pub outstanding: Option<u64>,
}

/// What a page pool has counted (`page-pool-stats-get`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PagePoolStats {
    /// Buffers taken from NAPI's cache.
    pub fast: u64,
    /// Times that 64 pages were taken from the page allocator, or one large page.
    pub slow: u64,
    /// Times that NAPI's cache was filled from the ring.
    pub refill: u64,
    /// Pages given back into NAPI's cache.
    pub cached: u64,
    /// Pages given back into the ring.
    pub ring: u64,
    /// Pages given to the page allocator because the ring was full.
    pub ring_full: u64,
    /// Pages given up because somebody else had them, too.
    pub released: u64,
}

impl PagePoolStats {
    /// Handed out by the pool.
    #[must_use]
    pub fn handed_out(&self) -> u64 {
        self.fast + self.slow + self.refill
    }

    /// Taken back by the pool, to keep or to give away.
    #[must_use]
    pub fn taken_back(&self) -> u64 {
        self.cached + self.ring + self.ring_full + self.released
    }

    /// What was counted since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            fast: self.fast - before.fast,
            slow: self.slow - before.slow,
            refill: self.refill - before.refill,
            cached: self.cached - before.cached,
            ring: self.ring - before.ring,
            ring_full: self.ring_full - before.ring_full,
            released: self.released - before.released,
        }
    }
}

/// All page pools of our network namespace, destroyed ones that are not empty included.
pub fn page_pools() -> Result<Vec<PagePool>, Error> {
    const PAGE_POOL_GET: u8 = 5;
    let kernel = |source| Error::Kernel {
        what: "page pools".into(),
        source,
    };
    let family = Family::open("netdev").map_err(kernel)?;
    let pools = family
        .request(PAGE_POOL_GET, true, &Attributes::default())
        .map_err(kernel)?;
    // EOPNOTSUPP without CONFIG_PAGE_POOL_STATS.
    let stats = page_pool_stats().unwrap_or_default();
    Ok(pools
        .iter()
        .filter_map(|pool| page_pool(pool, &stats))
        .collect())
}

fn page_pool(pool: &Reply, stats: &BTreeMap<u64, PagePoolStats>) -> Option<PagePool> {
    let id = pool.uint(1)?;
    let io_uring = pool.nest(8);
    let dmabuf = pool.uint(7);
    let outstanding = stats
        .get(&id)
        .filter(|_| io_uring.is_none() && dmabuf.is_none())
        .map(|stats| stats.handed_out().saturating_sub(stats.taken_back()));
    Some(PagePool {
        id,
        ifindex: pool.uint(2),
        napi_id: pool.uint(3),
        inflight: pool.uint(4)?,
        detach_time: pool.uint(6),
        io_uring_rx_buf_len: io_uring.map(|nest| nest.uint(1).unwrap_or(0)),
        dmabuf,
        outstanding,
    })
}

/// Statistics of all page pools of our network namespace, by id.
pub fn page_pool_stats() -> Result<BTreeMap<u64, PagePoolStats>, Error> {
    const PAGE_POOL_STATS_GET: u8 = 9;
    let replies = Family::open("netdev")
        .and_then(|family| family.request(PAGE_POOL_STATS_GET, true, &Attributes::default()))
        .map_err(|source| Error::Kernel {
            what: "statistics of page pools".into(),
            source,
        })?;
    let of = |reply: &Reply| {
        let id = reply.nest(1)?.uint(1)?;
        let count = |kind| reply.uint(kind).unwrap_or(0);
        let stats = PagePoolStats {
            fast: count(8),
            slow: count(9) + count(10),
            refill: count(12),
            cached: count(14),
            ring: count(16),
            ring_full: count(17),
            released: count(18),
        };
        Some((id, stats))
    };
    Ok(replies.iter().filter_map(of).collect())
}

/// The NAPI instance of a receive queue (`queue-get`), if it has one.
pub fn rx_queue_napi(interface: &str, queue: u32) -> Result<Option<u64>, Error> {
    const QUEUE_GET: u8 = 10;
    const RX: u32 = 0;
    let wanted = Attributes::default()
        .with(1, &queue.to_ne_bytes())
        .with(2, &ifindex(interface)?.to_ne_bytes())
        .with(3, &RX.to_ne_bytes());
    let replies = Family::open("netdev")
        .and_then(|family| family.request(QUEUE_GET, false, &wanted))
        .map_err(|source| Error::Kernel {
            what: format!("receive queue {queue} of {interface}"),
            source,
        })?;
    Ok(replies.first().and_then(|reply| reply.uint(4)))
}

/// Statistics of one queue (`qstats-get`), the counters that scenarios look at.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStats {
    /// Queue number.
    pub queue: u64,
    /// Receive or else transmit.
    pub rx: bool,
    /// Packets in wire segments.
    pub packets: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Receive buffers that could not be allocated.
    pub alloc_fail: Option<u64>,
    /// Packets dropped by the device.
    pub hw_drops: Option<u64>,
}

/// Statistics of all queues of an interface.
pub fn queue_stats(interface: &str) -> Result<Vec<QueueStats>, Error> {
    const QSTATS_GET: u8 = 12;
    const SCOPE_QUEUE: u64 = 1;
    let wanted = Attributes::default()
        .with(1, &ifindex(interface)?.to_ne_bytes())
        .with(4, &SCOPE_QUEUE.to_ne_bytes());
    let replies = Family::open("netdev")
        .and_then(|family| family.request(QSTATS_GET, true, &wanted))
        .map_err(|source| Error::Kernel {
            what: format!("queue statistics of {interface}"),
            source,
        })?;
    Ok(replies.iter().filter_map(queue_stats_of).collect())
}

fn queue_stats_of(reply: &Reply) -> Option<QueueStats> {
    let rx = reply.uint(2)? == 0;
    let pick = |receive: u16, transmit: u16| reply.uint(if rx { receive } else { transmit });
    Some(QueueStats {
        queue: reply.uint(3)?,
        rx,
        packets: pick(8, 10),
        bytes: pick(9, 11),
        alloc_fail: if rx { reply.uint(12) } else { None },
        hw_drops: pick(13, 22),
    })
}
