//! A host behind eth0: a network namespace at the other end of a veth pair. veth devices only send
//! data that the CPU can read (they have no `netmem_tx`), and drop the rest.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};

use super::datagrams::{Counts, Destination, listen, send, take};
use crate::{kit::net, runtime::ports::PEER};

/// The host's namespace.
const NETNS: &str = "far";
/// The near end of the pair.
pub(super) const NEAR: &str = "near";

/// The host, until this is dropped.
pub(super) struct Far {
    address: Ipv4Addr,
}

impl Far {
    /// Makes a host with this address, and the rest of the network on the same link.
    pub(super) fn new(address: Ipv4Addr) -> Result<Self> {
        run(None, &format!("ip netns add {NETNS}"))?;
        let far = Self { address };
        let pair = format!("ip link add {NEAR} type veth peer name far0 netns {NETNS}");
        run(None, &pair)?;
        run(None, &format!("ip link set {NEAR} up"))?;
        far.run(&format!("ip address add {address}/24 dev far0"))?;
        far.run("ip link set far0 up")?;
        Ok(far)
    }

    /// Runs a command on the host.
    pub(super) fn run(&self, command: &str) -> Result<()> {
        run(Some(NETNS), command)
    }

    /// Sends datagrams from eth1 to it. Returns the received ones, and the number dropped on the
    /// way.
    pub(super) fn exchange(&self, port: Destination) -> Result<(Counts, u64)> {
        let socket = listen(Some(NETNS), port)?;
        let before = dropped()?;
        send(self.address, port)?;
        let came = take(&socket)?;
        Ok((came, dropped()? - before))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // The check of the configuration would find it if this failed.
        let _ = run(None, &format!("ip link delete {NEAR}"));
        let _ = run(None, &format!("ip netns delete {NETNS}"));
    }
}

/// Frames that the near end dropped instead of sending them.
fn dropped() -> Result<u64> {
    let path = format!("/sys/class/net/{NEAR}/statistics/tx_dropped");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.trim().parse()?)
}

/// A route of eth1, until this is dropped.
pub(super) struct Route(&'static str);

impl Route {
    /// Adds a route by eth0.
    pub(super) fn new(network: &'static str) -> Result<Self> {
        run(Some(PEER), &format!("ip route add {network} via 192.0.2.1"))?;
        Ok(Self(network))
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let _ = run(Some(PEER), &format!("ip route delete {}", self.0));
    }
}

/// Runs a command of words without spaces.
pub(super) fn run(netns: Option<&str>, command: &str) -> Result<()> {
    net::run(netns, &command.split(' ').collect::<Vec<_>>())?;
    Ok(())
}
