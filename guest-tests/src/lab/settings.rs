//! What a case needs besides, and takes back.

use anyhow::Result;

use crate::net;

/// Reserves huge pages, 32 MiB of them, while `work` goes on.
pub(crate) fn with_huge_pages<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with("sysctl -qw vm.nr_hugepages=", "16", "0", work)
}

/// Has eth0 join segments while `work` goes on.
pub(crate) fn with_hardware_gro<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    with("ethtool -K eth0 rx-gro-hw ", "on", "off", work)
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
