//! What a case needs besides, and takes back.

use anyhow::Result;

use crate::{net, ports::PORTS};

/// Reserves huge pages, 32 MiB of them, while `work` goes on.
pub(crate) fn with_huge_pages<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with("sysctl -qw vm.nr_hugepages=", "16", "0", work)
}

/// Has eth0 join segments while `work` goes on.
pub(crate) fn with_hardware_gro<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with("ethtool -K eth0 rx-gro-hw ", "on", "off", work)
}

/// Has eth0 not split while `work` goes on.
pub(crate) fn without_split<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with("ethtool -G eth0 tcp-data-split ", "off", "on", work)
}

/// Has both ports use another MTU while `work` goes on.
pub(crate) fn with_mtu<T>(mtu: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let set = |mtu| {
        PORTS.iter().try_for_each(|side| {
            net::run(side.netns, &["ip", "link", "set", side.name, "mtu", mtu]).map(drop)
        })
    };
    set(mtu)?;
    let result = work();
    set("1500")?;
    result
}

fn with<T>(command: &str, value: &str, usual: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let set = |value: &str| {
        let line = format!("{command}{value}");
        net::run(None, &line.split_whitespace().collect::<Vec<_>>())
    };
    set(value)?;
    let result = work();
    set(usual)?;
    result
}
