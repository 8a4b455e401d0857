//! What the device, over its control socket, and the kernel, over netlink, know of eth0.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use zcnic_ctl::protocol::{
    FlowCounts,
    ledger::{Ledger, QueueLedger},
};
use zcnic_guest_protocol::interface::PagePool;

use super::{HOME, Lab, eventually};
use crate::{gate::pools, net};

/// A counter of the frames of one TCP port that reach eth0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowCounter(u64);

impl Lab {
    /// Begins to count.
    pub(crate) fn count_flow(&mut self, port: u16) -> Result<FlowCounter> {
        let flow = json!({"port": "0", "match": {"protocol": "tcp", "destination-port": port}});
        let added = self.ask("flow-counter-add", &flow)?;
        Ok(FlowCounter(added["id"].as_u64().context("no counter")?))
    }

    /// What was counted, by queue. Ends the counter.
    pub(crate) fn counted(&mut self, counter: FlowCounter) -> Result<FlowCounts> {
        let id = json!({"id": counter.0});
        let counts = serde_json::from_value(self.ask("flow-counter-query", &id)?)?;
        self.ask("flow-counter-remove", &id)?;
        Ok(counts)
    }

    /// Begins a ledger of eth0's receive buffers, or ends it.
    pub(crate) fn keep_ledger(&mut self, keep: bool) -> Result<()> {
        let mode = if keep { "full" } else { "off" };
        let ledger = json!({"port": "0", "mode": mode, "sanitize": keep});
        self.ask("ledger-set", &ledger).map(drop)
    }

    /// The ledger of a receive queue of eth0.
    pub(crate) fn ledger(&mut self, queue: u32) -> Result<QueueLedger> {
        let mut queues = self.ledgers()?.into_iter();
        let found = queues.find(|ledger| u32::from(ledger.queue) == queue);
        found.with_context(|| format!("no ledger of queue {queue}"))
    }

    fn ledgers(&mut self) -> Result<Vec<QueueLedger>> {
        let ledger = self.ask("query-ledger", &json!({"port": "0"}))?;
        Ok(serde_json::from_value::<Ledger>(ledger)?.queues)
    }

    /// Fails if the ledger has something against the driver: ever, or when a queue last stopped.
    pub(crate) fn ledger_is_clean(&mut self) -> Result<()> {
        for ledger in self.ledgers()? {
            let stopped_well = ledger.last_stop.is_none_or(|stop| stop.clean);
            ensure!(
                ledger.violations == 0 && stopped_well,
                "the ledger says {ledger:?}"
            );
        }
        Ok(())
    }
}

/// Page pools of eth0 whose memory io_uring or a dmabuf provides, those included that were destroyed and are not
/// empty.
pub(crate) fn provider_pools() -> Result<Vec<PagePool>> {
    let eth0 = net::ifindex("eth0")?;
    let mut pools = net::page_pools()?;
    pools.retain(|pool| {
        let provided = pool.io_uring_rx_buf_len.is_some() || pool.dmabuf.is_some();
        pool.ifindex == Some(eth0.into()) && provided
    });
    pools.sort_by_key(|pool| pool.id);
    Ok(pools)
}

/// Waits until those are left that should be.
pub(crate) fn await_pools(holds: impl Fn(&[PagePool]) -> bool) -> Result<()> {
    eventually(HOME, || {
        let left = provider_pools()?;
        if !holds(&left) {
            pools::flush_deferred_frees()?;
            bail!("page pools are left: {left:?}");
        }
        Ok(())
    })
}

/// The one that a queue receives into.
pub(crate) fn provider_pool() -> Result<PagePool> {
    let mut pools = provider_pools()?;
    pools.retain(|pool| pool.detach_time.is_none());
    ensure!(
        pools.len() == 1,
        "not one page pool with a provider's memory: {pools:?}"
    );
    Ok(pools.remove(0))
}
