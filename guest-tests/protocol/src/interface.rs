//! State of network interfaces, as the kernel reports it.

use serde::{Deserialize, Serialize};

/// A page pool (`page-pool-get` and `page-pool-stats-get` of the netdev family).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PagePool {
    /// Pool id.
    pub id: u64,
    /// Interface; None if that no longer exists.
    pub ifindex: Option<u64>,
    /// NAPI instance that it belongs to.
    pub napi_id: Option<u64>,
    /// Pages taken from the page allocator or provider and not given back, those in the pool's own
    /// caches included.
    pub inflight: u64,
    /// When it was destroyed (seconds of uptime) although pages were still out.
    pub detach_time: Option<u64>,
    /// Bytes per buffer if its memory comes from io_uring.
    pub io_uring_rx_buf_len: Option<u64>,
    /// The binding, if its memory comes from a dmabuf.
    pub dmabuf: Option<u64>,
    /// Pages out of the pool, those in its own caches not included; None where the kernel has no
    /// statistics, and for memory providers (the kernel does not count all of their allocations).
    pub outstanding: Option<u64>,
}

/// Ring parameters, as `ethtool -g` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rings {
    /// Descriptors of a receive ring.
    pub rx: Option<u64>,
    /// Descriptors of a transmit ring.
    pub tx: Option<u64>,
    /// Header/data split; None where the driver does not know it.
    pub tcp_data_split: Option<bool>,
    /// Packets up to this size, in bytes, are not split.
    pub hds_thresh: Option<u64>,
    /// Largest value that `hds_thresh` takes.
    pub hds_thresh_max: Option<u64>,
}

/// Statistics of one queue (`qstats-get`); None for a counter that the driver does not have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct QueueStats {
    /// Queue number.
    pub queue: u64,
    /// Receive queue; false for a transmit queue.
    pub rx: bool,
    /// Packets, in wire segments.
    pub packets: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Receive buffers that could not be allocated.
    pub alloc_fail: Option<u64>,
    /// Packets dropped by the device.
    pub hw_drops: Option<u64>,
}

/// The object that `zcnic-guest snapshot` prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Snapshot {
    /// Ring parameters; None where the driver has none.
    pub rings: Option<Rings>,
    /// Statistics of all queues; None where the driver has none.
    pub queues: Option<Vec<QueueStats>>,
    /// The interface's page pools.
    pub page_pools: Vec<PagePool>,
}

/// The object that `zcnic-guest flow-steer` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FlowSteering {
    /// Locations of the IPv4 and of the IPv6 flow rule.
    pub rules: [u32; 2],
}

/// A port for `zcnic-guest ports up --plan`, which takes an array of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortPlan {
    /// MAC address, or its end, of the device.
    pub mac: String,
    /// Network namespace, which is made if there is none of this name; None for the initial one.
    pub netns: Option<String>,
    /// Name that the interface gets.
    pub interface: String,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// MTU; without one it stays.
    pub mtu: Option<u32>,
}

/// A port that `zcnic-guest ports up` has set up; it prints an array of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PortSetup {
    /// Network namespace that the port is in; None for the initial one.
    pub netns: Option<String>,
    /// Interface.
    pub interface: String,
    /// MAC address.
    pub mac: String,
    /// Driver's name; None if the kernel does not report it.
    pub driver: Option<String>,
    /// IPv4 and IPv6 address with their prefix lengths.
    pub addresses: Vec<String>,
}
