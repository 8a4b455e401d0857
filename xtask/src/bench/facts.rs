//! The facts that the numbers depend on.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use zcnic_testbed::{provision::host, step::run};

use super::process::Priority;

/// Returns the processor for the backend's worker, and the one for the frontend.
pub(crate) fn processors() -> Result<[usize; 2]> {
    let count = std::thread::available_parallelism()?.get();
    ensure!(
        count >= 2,
        "a benchmark needs two processors, one for each side of the rings"
    );
    Ok([0, 1])
}

/// Returns the facts of this machine.
pub(crate) fn machine(priority: Priority) -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let read = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        Some(text.trim().to_owned())
    };
    let meminfo = read("/proc/meminfo").unwrap_or_default();
    let memory = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let flags = field("flags").unwrap_or_default();
    let cache = |index: usize| {
        let part = |name| {
            read(&format!(
                "/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"
            ))
        };
        Some(format!(
            "L{} {} {}",
            part("level")?,
            part("type")?,
            part("size")?
        ))
    };
    json!({
        "processor": field("model name"),
        "family_model_stepping": [field("cpu family"), field("model\t"), field("stepping")],
        "processors": std::thread::available_parallelism().map(usize::from).ok(),
        "virtual": flags.split(' ').any(|flag| flag == "hypervisor"),
        "caches": (0..8).map_while(cache).collect::<Vec<_>>(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "memory_kib": memory("MemTotal"),
        "huge_pages_free": memory("HugePages_Free"),
        "load_average_before": read("/proc/loadavg"),
        "scheduling": priority.name(),
        "rustc": rustc(),
    })
}

fn rustc() -> Option<String> {
    let version = run(host::command("rustc").arg("--version")).ok()?;
    Some(version.trim().to_owned())
}
