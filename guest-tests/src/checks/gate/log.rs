//! The kernel log since a mark, searched for a fixed list of lines that no good run has.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use zcnic_guest_protocol::check::{LogFindings, LogHit};

/// A class of lines, with one line as the kernel writes it (7.3), which [`inject`] writes.
pub struct BadLine {
    /// Name of the class.
    pub name: &'static str,
    /// Such a line.
    pub sample: &'static str,
    matches: fn(&str) -> bool,
}

/// `word` not preceded by a letter ("BUG:" but not "DEBUG:").
fn word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric()))
}

/// The list. One line may match several.
pub const BAD_LINES: &[BadLine] = &[
    BadLine {
        name: "warning",
        sample: "WARNING: net/core/page_pool.c:1101 at page_pool_release_retry+0x1f/0x30, CPU#1: kworker/1:2/77",
        // "Spectre V2 : WARNING: …" is advice, not WARN().
        matches: |line| line.starts_with("WARNING: "),
    },
    BadLine {
        name: "bug",
        sample: "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        matches: |line| {
            word(line, "BUG:") || line.starts_with("BUG ") || line.contains("kernel BUG at")
        },
    },
    BadLine {
        name: "oops",
        sample: "Oops: Oops: 0002 [#1] SMP NOPTI",
        matches: |line| word(line, "Oops:"),
    },
    BadLine {
        name: "panic",
        sample: "Kernel panic - not syncing: Fatal exception in interrupt",
        matches: |line| line.contains("Kernel panic - not syncing"),
    },
    BadLine {
        name: "general-protection",
        sample: "Oops: general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1]",
        matches: |line| line.contains("general protection fault"),
    },
    BadLine {
        name: "call-trace",
        sample: "Call Trace:",
        matches: |line| line.starts_with("Call Trace:"),
    },
    BadLine {
        name: "ubsan",
        sample: "UBSAN: array-index-out-of-bounds in drivers/net/zcnic.c:12:3",
        matches: |line| line.starts_with("UBSAN:"),
    },
    BadLine {
        name: "kasan",
        sample: "BUG: KASAN: slab-use-after-free in skb_release_data+0x10/0x20",
        matches: |line| {
            word(line, "KASAN:") && !line.contains("KernelAddressSanitizer initialized")
        },
    },
    BadLine {
        name: "kfence",
        sample: "BUG: KFENCE: use-after-free read in napi_poll+0x10/0x20",
        matches: |line| word(line, "KFENCE:"),
    },
    BadLine {
        name: "refcount",
        sample: "refcount_t: underflow; use-after-free.",
        matches: |line| line.contains("refcount_t:"),
    },
    BadLine {
        name: "list-corruption",
        sample: "list_del corruption. prev->next should be ffff888100000000, but was 0000000000000000.",
        matches: |line| {
            line.contains("list_add corruption") || line.contains("list_del corruption")
        },
    },
    BadLine {
        name: "dma-api",
        sample: "DMA-API: virtio-pci 0000:00:02.0: device driver frees DMA memory with different size",
        // Its messages at boot are no complaints.
        matches: |line| {
            line.starts_with("DMA-API:")
                && !line.contains("debug entries")
                && !line.contains("debugging enabled")
                && !line.contains("enable driver filter")
        },
    },
    BadLine {
        name: "hung-task",
        sample: "INFO: task ethtool:312 blocked for more than 120 seconds.",
        matches: |line| line.contains(" blocked ") && line.contains(" for more than "),
    },
    BadLine {
        name: "rcu-stall",
        sample: "rcu: INFO: rcu_preempt self-detected stall on CPU",
        matches: |line| line.contains("detected stall") || line.contains("kthread starved for"),
    },
    BadLine {
        name: "lockup",
        sample: "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [napi/eth0-1:88]",
        matches: |line| line.contains("soft lockup") || line.contains("hard LOCKUP"),
    },
    BadLine {
        name: "workqueue-lockup",
        sample: "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
        matches: |line| line.contains("workqueue lockup"),
    },
    BadLine {
        name: "page-pool-stalled",
        sample: "page_pool_release_retry() stalled pool shutdown: id 7, 3 inflight 60 sec",
        matches: |line| line.contains("page_pool_release_retry() stalled"),
    },
    BadLine {
        name: "tx-timeout",
        sample: "zcnic virtio1 eth0: NETDEV WATCHDOG: CPU: 0: transmit queue 2 timed out 5120 ms",
        matches: |line| line.contains("NETDEV WATCHDOG"),
    },
    BadLine {
        name: "netdev-reference",
        sample: "unregister_netdevice: waiting for eth0 to become free. Usage count = 2",
        matches: |line| line.contains("unregister_netdevice: waiting for"),
    },
    BadLine {
        name: "memory-leak",
        sample: "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        matches: |line| line.contains("new suspected memory leaks"),
    },
    BadLine {
        name: "out-of-memory",
        sample: "Out of memory: Killed process 99 (zcnic-guest) total-vm:70000kB",
        matches: |line| line.contains("Out of memory: Killed process"),
    },
];

/// Names of the classes that a line belongs to.
#[must_use]
pub fn classify(line: &str) -> Vec<&'static str> {
    BAD_LINES
        .iter()
        .filter(|class| (class.matches)(line))
        .map(|class| class.name)
        .collect()
}

/// Lines shown from the first hit on: enough for a trace with its registers.
const CONTEXT: usize = 120;

/// Takes one record as `/dev/kmsg` gives it: "prio,seq,usec,flags[,…];text", newlines in the
/// text escaped, then lines with a dictionary.
fn take(findings: &mut LogFindings, since: u64, record: &str) {
    let line = record.lines().next().unwrap_or_default();
    let Some((fields, text)) = line.split_once(';') else {
        return;
    };
    let mut fields = fields.split(',').skip(1).map(str::parse::<u64>);
    let (Some(Ok(seq)), Some(Ok(usec))) = (fields.next(), fields.next()) else {
        return;
    };
    let expected = findings.next_seq.max(since);
    findings.lost += seq.saturating_sub(expected);
    findings.next_seq = findings.next_seq.max(seq + 1);
    if seq < since {
        return;
    }
    for line in text.split("\\x0a").map(str::trim) {
        let classes = classify(line);
        if !classes.is_empty() {
            findings.hits.push(LogHit {
                seq,
                usec,
                classes: classes.into_iter().map(str::to_owned).collect(),
                line: line.into(),
            });
        }
        if !findings.hits.is_empty() && findings.context.len() < CONTEXT {
            findings.context.push(line.into());
        }
    }
}
/// Reads the kernel log from record `since` on.
pub fn read(since: u64) -> io::Result<LogFindings> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut findings = LogFindings::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match log.read(&mut buffer) {
            Ok(len) => take(
                &mut findings,
                since,
                &String::from_utf8_lossy(&buffer[..len]),
            ),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Overwritten while we were reading; gaps in the sequence numbers show how many.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    findings.next_seq = findings.next_seq.max(since);
    Ok(findings)
}

/// Writes the sample line of a class to the kernel log, as a warning.
pub fn inject(class: &BadLine) -> io::Result<()> {
    File::options()
        .write(true)
        .open("/dev/kmsg")?
        .write_all(format!("<4>{}\n", class.sample).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_of_its_own_class() {
        for class in BAD_LINES {
            assert!(
                classify(class.sample).contains(&class.name),
                "{}",
                class.name
            );
        }
    }

    #[test]
    fn other_forms_of_the_same() {
        for (line, class) in [
            (
                "WARNING: possible circular locking dependency detected",
                "warning",
            ),
            ("WARNING: suspicious RCU usage", "warning"),
            (
                "WARNING: CPU: 1 PID: 77 at net/core/dev.c:11000 x+0x1/0x2",
                "warning",
            ),
            ("BUG: scheduling while atomic: ip/300/0x00000002", "bug"),
            (
                "BUG kmalloc-64 (Tainted: G           O     ): Poison overwritten",
                "bug",
            ),
            ("kernel BUG at drivers/virtio/virtio_ring.c:670!", "bug"),
            ("Internal error: Oops: 96000004 [#1] PREEMPT SMP", "oops"),
            (
                "INFO: task rmmod:9 blocked in I/O wait for more than 120 seconds.",
                "hung-task",
            ),
            (
                "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
                "rcu-stall",
            ),
            (
                "rcu: rcu_preempt kthread starved for 5250 jiffies! g1 f0x0",
                "rcu-stall",
            ),
            (
                "watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1",
                "lockup",
            ),
            (
                "traps: socat[88] general protection fault ip:7f sp:7f error:0",
                "general-protection",
            ),
        ] {
            assert!(classify(line).contains(&class), "{line}");
        }
    }

    /// From boots of Debian kernels under QEMU, and lines that look worse than they are.
    #[test]
    fn harmless_lines_are_of_no_class() {
        for line in [
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
            "DMA-API: preallocated 65536 debug entries",
            "DMA-API: debugging enabled by kernel config",
            "DMA-API: enable driver filter for driver [virtio-pci]",
            "kasan: KernelAddressSanitizer initialized",
            "kfence: initialized - using 2097152 bytes for 255 objects",
            "rcu: Hierarchical RCU implementation.",
            "rcu: RCU CPU stall timeout set to 21 seconds",
            "NMI watchdog: Perf NMI watchdog permanently disabled",
            "watchdog: NMI not fully supported",
            "zcnic: loading out-of-tree module taints kernel.",
            "zcnic: module verification failed: signature and/or required key missing - tainting kernel",
            "workqueue: zcnic_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
            "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
            "VFS: DEBUG: nothing",
            "zcnic virtio1: DEBUG: session 3",
            "virtio_net virtio0 eth0: renamed from enp0s2",
            "Command line: console=ttyS0 panic=-1 oops=panic",
            "pcieport: PANICs are configured",
            "hung_task: tasks blocked longer are reported",
            "page_pool: recycle stats enabled",
            "kmemleak: Kernel memory leak detector initialized (mem pool available: 15679)",
        ] {
            assert_eq!(classify(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn records_before_the_mark_do_not_count_and_gaps_do() {
        let mut findings = LogFindings::default();
        take(&mut findings, 2, "4,0,10,-;WARNING: old\n");
        take(&mut findings, 2, "4,1,11,-;fine\n");
        take(
            &mut findings,
            2,
            "4,2,12,-,caller=T1;fine\\x0aWARNING: new\n SUBSYSTEM=pci\n",
        );
        assert_eq!(
            (findings.hits.len(), findings.lost, findings.next_seq),
            (1, 0, 3)
        );
        assert_eq!(findings.hits[0].seq, 2);
        take(&mut findings, 2, "6,7,13,-;after a gap\n");
        assert_eq!((findings.lost, findings.next_seq), (4, 8));
        assert_eq!(findings.context, ["WARNING: new", "after a gap"]);
        assert!(!findings.is_good());
    }

    #[test]
    fn a_log_that_starts_after_the_mark_has_lost_records() {
        let mut findings = LogFindings::default();
        take(&mut findings, 5, "6,9,13,-;first that is left\n");
        assert_eq!(findings.lost, 4);
    }
}
