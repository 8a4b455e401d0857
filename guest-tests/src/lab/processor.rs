//! Which processor does what, and for how long.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Who has which processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processor {
    /// Programs that receive, and interrupts of eth0.
    Receivers = 0,
    /// Programs that send, and interrupts of all other network devices.
    Senders = 1,
}

impl Processor {
    /// Has the calling thread, and those that it starts, run here.
    pub(crate) fn take(self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self as usize);
        Ok(sched_setaffinity(None, &set)?)
    }
}

/// A processor from some moment on.
pub(crate) struct Load {
    processor: Processor,
    since: Instant,
    idle: Duration,
}

impl Load {
    /// Begins to measure.
    pub(crate) fn start(processor: Processor) -> Result<Self> {
        Ok(Self {
            processor,
            since: Instant::now(),
            idle: idle(processor)?,
        })
    }

    /// How long the processor has been busy. Of that the kernel knows nothing but samples, taken when the clock ticks,
    /// which whoever waits for packets never meets; but it measures how long it is idle.
    pub(crate) fn busy(&self) -> Result<Duration> {
        let idle = idle(self.processor)? - self.idle;
        Ok(self.since.elapsed().saturating_sub(idle))
    }
}

/// How long a processor has been idle since the guest started.
fn idle(processor: Processor) -> Result<Duration> {
    /// `USER_HZ` of every architecture that matters.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{} ", processor as usize);
    let line = stat.lines().find_map(|line| line.strip_prefix(&name));
    let line = line.with_context(|| format!("/proc/stat has no {name}"))?;
    // user, nice, system, idle, iowait (Documentation/filesystems/proc.rst)
    let times = line.split_whitespace().skip(3).take(2);
    let ticks = times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// Interrupts of network devices that were given to those who have their packets.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    /// Files, and what they said before.
    before: Vec<(String, String)>,
}

impl Interrupts {
    /// Divides them.
    pub(crate) fn divide() -> Result<Self> {
        let mut divided = Self::default();
        let of_eth0 = fs::canonicalize("/sys/class/net/eth0/device")?;
        for device in fs::read_dir("/sys/bus/pci/devices")? {
            let path = fs::canonicalize(device?.path())?;
            let class = fs::read_to_string(path.join("class"))?;
            let Ok(interrupts) = fs::read_dir(path.join("msi_irqs")) else {
                continue;
            };
            // Network controllers.
            if !class.starts_with("0x02") {
                continue;
            }
            let processor = if of_eth0.starts_with(&path) {
                Processor::Receivers
            } else {
                Processor::Senders
            };
            for interrupt in interrupts {
                let number = interrupt?.file_name();
                let file = format!("/proc/irq/{}/smp_affinity_list", number.display());
                // Vectors that nobody has asked for have none.
                if fs::exists(&file)? {
                    let before = fs::read_to_string(&file)?;
                    fs::write(&file, (processor as usize).to_string())
                        .with_context(|| file.clone())?;
                    divided.before.push((file, before));
                }
            }
        }
        Ok(divided)
    }

    /// Has them as they were before.
    pub(crate) fn restore(self) -> Result<()> {
        let mut before = self.before.into_iter();
        before.try_for_each(|(file, list)| fs::write(&file, list.trim()).with_context(|| file))
    }
}
