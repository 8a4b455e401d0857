//! The settings that a soak changes, and their usual values.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    kit::net,
    runtime::ports::{PORTS, configure, links},
};

/// Queues that frames are spread over; providers and sockets use higher ones.
const SPREAD: u32 = 2;
/// Combined channels of eth0.
const CHANNELS: u32 = 6;
/// The namespace that ports are moved to.
const ASIDE: &str = "aside";
/// Switchable features of eth0 (`ethtool -K`).
const FEATURES: [&str; 11] = [
    "generic-receive-offload",
    "hw-tc-offload",
    "ntuple-filters",
    "receive-hashing",
    "rx-checksumming",
    "rx-gro-hw",
    "rx-vlan-offload",
    "scatter-gather",
    "tcp-segmentation-offload",
    "tx-checksumming",
    "tx-udp-segmentation",
];

/// Their values at first.
#[derive(Debug)]
pub(super) struct Settings {
    features: Vec<(String, bool)>,
    rings: [String; 2],
    coalesce: [String; 2],
    /// RSS contexts that were made, oldest first.
    pub(super) contexts: Vec<String>,
}

fn ethtool(words: &[&str]) -> Result<String, net::Error> {
    net::run(None, &[&["ethtool"], words].concat())
}

impl Settings {
    pub(super) fn read() -> Result<Self> {
        let features = ethtool(&["-k", "eth0"])?;
        let features = features.lines().filter_map(|line| {
            let (name, state) = line.trim().split_once(": ")?;
            let is_ours = FEATURES.contains(&name) && !state.ends_with("[fixed]");
            is_ours.then(|| (name.to_owned(), state.starts_with("on")))
        });
        let coalesce = ethtool(&["-c", "eth0"])?;
        let value = |name: &str| {
            let line = coalesce.lines().find_map(|line| line.strip_prefix(name));
            line.map_or_else(|| "0".to_owned(), |value| value.trim().to_owned())
        };
        let rings = net::rings("eth0")?;
        let size = |size: Option<u64>| size.context("no ring size").map(|size| size.to_string());
        Ok(Self {
            features: features.collect(),
            rings: [size(rings.rx)?, size(rings.tx)?],
            coalesce: [value("rx-usecs:"), value("tx-usecs:")],
            contexts: Vec::new(),
        })
    }

    /// Restores all of them, and removes rules and contexts.
    pub(super) fn restore(&mut self) -> Result<()> {
        for port in &PORTS {
            let set = ["ip", "link", "set", port.name, "mtu", "1500", "up"];
            net::run(port.netns, &set)?;
        }
        for (name, on) in &self.features {
            ethtool(&["-K", "eth0", name, if *on { "on" } else { "off" }])?;
        }
        for rule in rules()? {
            ethtool(&["-N", "eth0", "delete", &rule])?;
        }
        for context in self.contexts.drain(..) {
            ethtool(&["-X", "eth0", "context", &context, "delete"])?;
        }
        let [rx, tx] = &self.rings;
        ethtool(&["-G", "eth0", "rx", rx, "tx", tx, "tcp-data-split", "on"])?;
        net::set_hds_thresh("eth0", 0)?;
        let [rx, tx] = &self.coalesce;
        ethtool(&["-C", "eth0", "rx-usecs", rx, "tx-usecs", tx])?;
        net::set_channels(None, "eth0", CHANNELS)?;
        Ok(net::set_rss_equal("eth0", SPREAD)?)
    }

    /// Makes an RSS context, or deletes the oldest.
    pub(super) fn context(&mut self, new: bool) -> Result<()> {
        if new {
            let made = ethtool(&["-X", "eth0", "context", "new", "equal", "2"])?;
            // "New RSS context is 1"
            let number = made.split_whitespace().last().context("no number")?;
            self.contexts.push(number.to_owned());
        } else if !self.contexts.is_empty() {
            let oldest = self.contexts[0].clone();
            ethtool(&["-X", "eth0", "context", &oldest, "delete"])?;
            self.contexts.remove(0);
        }
        Ok(())
    }
}

/// Locations of eth0's flow rules.
fn rules() -> Result<Vec<String>> {
    let list = ethtool(&["-n", "eth0"])?;
    let locations = list
        .lines()
        .filter_map(|line| line.strip_prefix("Filter: "));
    Ok(locations.map(str::to_owned).collect())
}

/// Takes a port down, and up again.
pub(super) fn flap(port: usize, milliseconds: u64) -> Result<()> {
    let port = &PORTS[port];
    let set = |state| net::run(port.netns, &["ip", "link", "set", port.name, state]);
    set("down")?;
    thread::sleep(Duration::from_millis(milliseconds));
    set("up")?;
    Ok(())
}

/// Moves a port to another namespace and back, where it is configured as before.
pub(super) fn round_trip(port: usize) -> Result<()> {
    let port = &PORTS[port];
    if !fs::exists(Path::new("/run/netns").join(ASIDE))? {
        net::run(None, &["ip", "netns", "add", ASIDE])?;
    }
    let name = port.name;
    net::run(port.netns, &["ip", "link", "set", name, "netns", ASIDE])?;
    let own = std::process::id().to_string();
    let home = port.netns.unwrap_or(&own);
    net::run(Some(ASIDE), &["ip", "link", "set", name, "netns", home])?;
    ensure!(
        links(port.netns)?.iter().any(|link| link.ifname == name),
        "{name} did not come back"
    );
    crate::runtime::ports::in_netns(port.netns, || configure(port))
}

/// Suspends all devices and resumes them, without turning the machine off.
pub(super) fn suspend() -> Result<()> {
    fs::write("/sys/power/pm_test", "devices").context("pm_test")?;
    fs::write("/sys/power/state", "mem").context("suspend")
}
