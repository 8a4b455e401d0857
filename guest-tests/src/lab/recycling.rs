//! What the page pools of a receive queue count. A queue that splits has two: one for header fragments, which the
//! driver copies and gives back at once, and one for payload, whose pages go to the stack. Others have one.

use anyhow::{Context, Result, bail, ensure};

use crate::net::{self, PagePoolStats};

/// What a pool takes from the page allocator at once (`PP_ALLOC_CACHE_REFILL`, include/net/page_pool/types.h).
pub(crate) const BULK: u64 = 64;

/// The pools of a queue, and what they had counted.
pub(crate) struct Before {
    queue: u32,
    /// The pool of headers, or of whole frames; that of payload.
    pools: Vec<(u64, PagePoolStats)>,
    packets: u64,
}

/// What happened to a queue's pools.
pub(crate) struct Seen {
    /// Frames that came.
    pub(crate) frames: u64,
    /// The pool of headers, or of whole frames.
    pub(crate) headers: PagePoolStats,
    /// That of payload.
    pub(crate) payload: PagePoolStats,
}

impl Before {
    /// As of now, of a queue of eth0.
    pub(crate) fn now(queue: u32) -> Result<Self> {
        let napi = net::rx_queue_napi("eth0", queue)?;
        ensure!(napi.is_some(), "queue {queue} has no NAPI");
        let stats = net::page_pool_stats()?;
        let mut pools = Vec::new();
        for pool in net::page_pools()? {
            if pool.napi_id == napi && pool.detach_time.is_none() {
                let stats = stats.get(&pool.id);
                pools.push((pool.id, *stats.context("a page pool without statistics")?));
            }
        }
        // The driver makes that of headers first.
        pools.sort_by_key(|pool| pool.0);
        Ok(Self {
            queue,
            pools,
            packets: packets(queue)?,
        })
    }

    /// What happened since.
    pub(crate) fn since(&self) -> Result<Seen> {
        let now = Self::now(self.queue)?;
        let of = |index: usize| {
            let [before, after] = [self, &now].map(|side| side.pools.get(index));
            match (before, after) {
                (Some(before), Some(after)) if before.0 == after.0 => Ok(after.1.since(&before.1)),
                (None, None) => Ok(PagePoolStats::default()),
                _ => bail!("the queue has other page pools than before"),
            }
        };
        Ok(Seen {
            frames: now.packets - self.packets,
            headers: of(0)?,
            payload: of(1)?,
        })
    }
}

/// Frames that came on the queue.
fn packets(queue: u32) -> Result<u64> {
    let mut queues = net::queue_stats("eth0")?.into_iter();
    let found = queues.find(|stats| stats.rx && stats.queue == u64::from(queue));
    found.and_then(|stats| stats.packets).context("no packets")
}
