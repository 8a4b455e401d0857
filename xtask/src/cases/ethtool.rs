//! Counters of eth0, as `ethtool -S` prints them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

/// Returns a counter of `ethtool -S eth0`.
pub(super) fn statistic(guest: &mut Machine, name: &str) -> Result<u64> {
    let all = guest.check(&Exec::new(["ethtool", "-S", "eth0"]))?;
    let line = all
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    line.with_context(|| format!("ethtool -S has no {name}"))?
        .parse()
        .with_context(|| format!("ethtool -S: {name}"))
}

/// Returns all counters by their names.
pub(super) fn all_statistics(guest: &mut Machine) -> Result<BTreeMap<String, u64>> {
    let all = guest.check(&Exec::new(["ethtool", "-S", "eth0"]))?;
    let counters = all
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, value)| Ok((name.to_owned(), value.parse()?)));
    counters.collect()
}

/// Returns several counters.
pub(super) fn statistics<const N: usize>(
    guest: &mut Machine,
    names: [&str; N],
) -> Result<[u64; N]> {
    let mut values = [0; N];
    for (value, name) in values.iter_mut().zip(names) {
        *value = statistic(guest, name)?;
    }
    Ok(values)
}
