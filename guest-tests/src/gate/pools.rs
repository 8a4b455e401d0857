//! Page pools when everything that a test made is gone: none may be left detached, and a live one
//! may have no more buffers out than its ring takes.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::net::{self, PagePool};

/// A page pool and where it is.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Named network namespace; `None` for the one we are in.
    pub netns: Option<String>,
    /// What a ring of its interface takes, if that is known.
    pub posted: Option<u64>,
    /// The pool.
    #[serde(flatten)]
    pub pool: PagePool,
}

impl Found {
    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let pool = &self.pool;
        let place = self
            .netns
            .as_deref()
            .map_or_else(String::new, |name| format!(" in {name}"));
        if pool.detach_time.is_some() || pool.ifindex.is_none() {
            let PagePool { id, inflight, .. } = pool;
            return Some(format!(
                "page pool {id}{place} was destroyed with {inflight} buffers out"
            ));
        }
        // One page more than buffers: the one that fragments are being cut from.
        let out = pool.outstanding.unwrap_or(pool.inflight);
        let limit = self.posted? + 1;
        (out > limit).then(|| {
            let (id, posted) = (pool.id, limit - 1);
            format!(
                "page pool {id}{place} has {out} pages out, but at most {posted} buffers are posted"
            )
        })
    }
}

/// All pools of our network namespace and the named ones. `posted` replaces what the interfaces say
/// of their rings.
pub fn list(posted: Option<u64>) -> anyhow::Result<Vec<Found>> {
    let mut found = list_here(None, posted)?;
    let names = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for entry in names {
        let name = entry.file_name().to_string_lossy().into_owned();
        // A namespace is a thread's; so its own thread saves going back.
        let there = thread::spawn(move || {
            net::enter_netns(&name)?;
            list_here(Some(&name), posted)
        });
        found.extend(
            there
                .join()
                .map_err(|_| anyhow::anyhow!("listing page pools panicked"))??,
        );
    }
    Ok(found)
}

fn list_here(netns: Option<&str>, posted: Option<u64>) -> anyhow::Result<Vec<Found>> {
    let pools = net::page_pools()?;
    Ok(pools
        .into_iter()
        .map(|pool| {
            let ring = || {
                net::rings_by_index(u32::try_from(pool.ifindex?).ok()?)
                    .ok()?
                    .rx
            };
            Found {
                netns: netns.map(Into::into),
                posted: posted.or_else(ring),
                pool,
            }
        })
        .collect())
}

/// Waits until no pool has a problem, or `limit` is over (pages may still be on their way home:
/// RCU, deferred skb frees and `page_pool_release_retry()`, once a second). Returns the last look.
pub fn settle(posted: Option<u64>, limit: Duration) -> anyhow::Result<Vec<Found>> {
    let started = Instant::now();
    loop {
        let found = list(posted)?;
        if started.elapsed() >= limit || found.iter().all(|found| found.problem().is_none()) {
            return Ok(found);
        }
        // The kernel reports pools that go, but not what is out of one; so look again.
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(change: impl FnOnce(&mut Found)) -> Option<String> {
        let pool = PagePool {
            id: 7,
            ifindex: Some(2),
            napi_id: None,
            inflight: 900,
            detach_time: None,
            io_uring_rx_buf_len: None,
            dmabuf: false,
            outstanding: Some(256),
        };
        let mut found = Found {
            netns: None,
            posted: Some(256),
            pool,
        };
        change(&mut found);
        found.problem()
    }

    #[test]
    fn a_full_ring_and_full_caches_are_fine() {
        assert_eq!(found(|_| ()), None);
        assert_eq!(found(|found| found.pool.outstanding = Some(257)), None);
        assert_eq!(found(|found| found.posted = None), None);
    }

    #[test]
    fn more_out_than_posted_is_not() {
        assert!(found(|found| found.pool.outstanding = Some(258)).is_some());
        assert!(found(|found| found.posted = Some(0)).is_some());
        // Without statistics the caches can not be told from what is out.
        assert!(found(|found| found.pool.outstanding = None).is_some());
    }

    #[test]
    fn a_detached_pool_is_not() {
        let problem = found(|found| {
            found.pool.detach_time = Some(12);
            found.netns = Some("peer".into());
        });
        assert_eq!(
            problem.unwrap(),
            "page pool 7 in peer was destroyed with 900 buffers out"
        );
        assert!(found(|found| found.pool.ifindex = None).is_some());
    }
}
