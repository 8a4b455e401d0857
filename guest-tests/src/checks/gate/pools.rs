//! Page pools after a test has closed everything: none may be left detached, and a live one
//! may have no more buffers out than its ring takes.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use zcnic_guest_protocol::{check::FoundPool, interface::PagePool};

use crate::kit::net;

/// A page pool and where it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// The report to the host.
    pub place: FoundPool,
    /// It has no device, but may belong to a virtio_net device: that driver makes its pools at
    /// probe, and after a move to another namespace the kernel no longer reports their device.
    pub moved: bool,
}

impl Found {
    /// Describes its problem, if it has one.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let FoundPool {
            netns,
            posted,
            pool,
        } = &self.place;
        let place = netns
            .as_deref()
            .map_or_else(String::new, |name| format!(" in {name}"));
        let PagePool { id, inflight, .. } = pool;
        if pool.detach_time.is_some() {
            return Some(format!(
                "page pool {id}{place} was destroyed with {inflight} pages out"
            ));
        }
        if pool.ifindex.is_none() && !self.moved {
            return Some(format!(
                "page pool {id}{place} with {inflight} pages has no device"
            ));
        }
        // One page more than buffers: the driver is splitting it into fragments.
        let out = pool.outstanding.unwrap_or(pool.inflight);
        let limit = (*posted)? + 1;
        (out > limit).then(|| {
            let posted = limit - 1;
            format!(
                "page pool {id}{place} has {out} pages out, but at most {posted} buffers are posted"
            )
        })
    }
}

/// All pools of our network namespace and the named ones. `posted` replaces the ring sizes of
/// the interfaces.
pub fn list(posted: Option<u64>) -> anyhow::Result<Vec<Found>> {
    let mut found = list_here(None, posted)?;
    let names = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for entry in names {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Each thread has its own namespace, so a new thread saves going back.
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
    let virtio_net = virtio_net_in_use()?;
    let pools = net::page_pools()?;
    Ok(pools
        .into_iter()
        .map(|pool| {
            let ring = || {
                net::rings_by_index(u32::try_from(pool.ifindex?).ok()?)
                    .ok()?
                    .rx
            };
            let moved = pool.ifindex.is_none() && virtio_net;
            let posted = posted.or_else(ring);
            Found {
                place: FoundPool {
                    netns: netns.map(Into::into),
                    posted,
                    pool,
                },
                moved,
            }
        })
        .collect())
}

/// Whether virtio_net drives any device, in any namespace.
fn virtio_net_in_use() -> io::Result<bool> {
    match std::fs::read_dir("/sys/bus/virtio/drivers/virtio_net") {
        Ok(entries) => Ok(entries.flatten().any(|entry| {
            // Besides the devices, "virtio1", there are files for binding them.
            entry.file_name().as_encoded_bytes().starts_with(b"virtio")
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until no pool has a problem, or `limit` is over (the kernel may return pages late: RCU
/// defers some, and `page_pool_release_retry()` runs once a second). Returns the last list.
pub fn settle(posted: Option<u64>, limit: Duration) -> anyhow::Result<Vec<Found>> {
    let started = Instant::now();
    loop {
        let found = list(posted)?;
        if started.elapsed() >= limit || found.iter().all(|found| found.problem().is_none()) {
            return Ok(found);
        }
        flush_deferred_frees()?;
        // The kernel notifies of pools that end, but not of pages that return; so list them again.
        thread::sleep(Duration::from_millis(100));
    }
}

/// Makes every CPU receive a packet. `skb_attempt_defer_free()` leaves packets to the CPU that
/// allocated them, which frees them when it next receives something: on an idle machine, never.
pub(crate) fn flush_deferred_frees() -> anyhow::Result<()> {
    let flush = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let allowed = sched_getaffinity(None)?;
        for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one)?;
            // To itself: the loopback device receives on the CPU that sent.
            socket.send_to(&[0], socket.local_addr()?)?;
        }
        io::Result::Ok(())
    };
    // On a new thread, because it ends up on the last CPU.
    thread::scope(|scope| scope.spawn(flush).join())
        .map_err(|_| anyhow::anyhow!("flushing deferred frees panicked"))?
        .context("sending over the loopback interface to flush deferred frees")
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
            dmabuf: None,
            outstanding: Some(256),
        };
        let mut found = Found {
            place: FoundPool {
                netns: None,
                posted: Some(256),
                pool,
            },
            moved: false,
        };
        change(&mut found);
        found.problem()
    }

    #[test]
    fn every_cpu_can_be_made_to_receive() {
        flush_deferred_frees().unwrap();
    }

    #[test]
    fn a_full_ring_and_full_caches_are_no_problem() {
        assert_eq!(found(|_| ()), None);
        assert_eq!(
            found(|found| found.place.pool.outstanding = Some(257)),
            None
        );
        assert_eq!(found(|found| found.place.posted = None), None);
    }

    #[test]
    fn more_pages_in_use_than_posted_are_a_problem() {
        assert!(found(|found| found.place.pool.outstanding = Some(258)).is_some());
        assert!(found(|found| found.place.posted = Some(0)).is_some());
        // Without statistics, pages in the caches look like pages in use.
        assert!(found(|found| found.place.pool.outstanding = None).is_some());
    }

    #[test]
    fn a_detached_pool_is_a_problem() {
        let problem = found(|found| {
            found.place.pool.detach_time = Some(12);
            found.place.netns = Some("peer".into());
        });
        assert_eq!(
            problem.unwrap(),
            "page pool 7 in peer was destroyed with 900 pages out"
        );
    }

    #[test]
    fn a_pool_without_a_device_is_a_problem_unless_virtio_net_may_have_it() {
        assert!(found(|found| found.place.pool.ifindex = None).is_some());
        let moved = found(|found| {
            found.place.pool.ifindex = None;
            found.moved = true;
        });
        assert_eq!(moved, None);
    }
}
