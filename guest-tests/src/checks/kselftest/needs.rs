//! Requirements of the kernel's selftests that their harness does not meet. Each list has a reason.

use std::{
    fs, io, os::unix::fs::MetadataExt, path::Path, process::Command, thread, time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    kit::net,
    runtime::ports::{self, PEER},
};

/// kselftest's limit for directories that set none, in seconds.
const DEFAULT_TIMEOUT: u64 = 45;
/// Limit for directories with `timeout=0`, for which kselftest would wait for ever.
const HANGS_AFTER: Duration = Duration::from_secs(1800);
/// Tests that look for processors on which no queue interrupts, and for queues that interrupt on
/// one only.
const NEED_FREE_PROCESSORS: [&str; 1] = ["toeplitz.py"];
/// Tests that need the peer's frames in order. Several transmit queues would reorder them, and so
/// would Debian's queueing discipline, which alternates between flows once the peer is faster than
/// its port.
const NEED_ORDER: [&str; 2] = ["gro.py", "gro_hw.py"];
/// Programs that fail when their completion queue overflows, which is smaller than the data that
/// they are sent. The kernel receives as long as more data arrives, up to a receive window each
/// time (docs/findings.md).
const NEED_SMALL_WINDOW: [&str; 2] = ["iou-zcrx.py", "nk_qlease.py"];
/// Programs whose sockets have room for 480 of the 500 aggregates that are sent at once. On the
/// processor that receives a queue's frames, their receivers would not run until all have arrived,
/// and lose the rest.
const NEED_OTHER_PROCESSORS: [&str; 2] = ["gro.py", "gro_hw.py"];
/// Programs with a time limit for the kernel while their own load keeps all processors busy. They
/// get a higher priority than the load.
const NEED_PRIORITY: [&str; 1] = ["rss_ctx.py"];
/// Protocols that tests expect to be built in.
const NEED_MODULE: [(&str, &str); 1] = [("gro.py", "pppoe")];
/// Programs that take longer than their directory allows: `xdp.py` waits for two seconds after each
/// of some 130 datagrams.
const WAITS_LONGER: [(&str, Duration); 1] = [("xdp.py", Duration::from_secs(900))];

/// Loads the modules that a test needs, and configures the ports for it. The host sets the ports up
/// again before the next test.
pub(super) fn prepare(file: &str) -> Result<()> {
    if NEED_FREE_PROCESSORS.contains(&file) || NEED_OTHER_PROCESSORS.contains(&file) {
        pin_interrupts(ports::PORTS[0].name)?;
    }
    for (_, module) in NEED_MODULE.iter().filter(|(test, _)| *test == file) {
        net::run(None, &["modprobe", module])?;
    }
    if NEED_ORDER.contains(&file) {
        let peer = &ports::PORTS[1];
        for command in [
            format!("ethtool -L {} combined 1", peer.name),
            format!("tc qdisc replace dev {} root pfifo limit 10000", peer.name),
        ] {
            net::run(Some(PEER), &command.split(' ').collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Runs `work`, which runs the test, with the settings that the test needs.
pub(super) fn during<T>(file: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if NEED_SMALL_WINDOW.contains(&file) {
        with_small_window(work)
    } else {
        work()
    }
}

/// Keeps receive windows at their initial size while `work` runs.
fn with_small_window<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    const WINDOW: &str = "/proc/sys/net/ipv4/tcp_rmem";
    let set = |value: &str| fs::write(WINDOW, value).context(WINDOW);
    let usual = fs::read_to_string(WINDOW).context(WINDOW)?;
    let words: Vec<_> = usual.split_whitespace().collect();
    let [least, first, _] = *words else {
        bail!("{WINDOW} is {usual:?}");
    };
    set(&format!("{least} {first} {first}"))?;
    let result = work();
    set(&usual)?;
    result
}

/// Starts it as kselftest does: a file that is not executable by its interpreter. All files that
/// need priority or other processors are executable.
pub(super) fn command(path: &Path, file: &str) -> Result<Command> {
    let content = fs::read(path).with_context(|| path.display().to_string())?;
    let program = format!("./{file}");
    if NEED_PRIORITY.contains(&file) {
        let mut command = Command::new("chrt");
        command.args(["--rr", "--reset-on-fork", "1", &program]);
        return Ok(command);
    }
    if NEED_OTHER_PROCESSORS.contains(&file) {
        let processors = thread::available_parallelism()?.get();
        let last = processors - 1;
        let first = interrupted(processors).min(last);
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &format!("{first}-{last}"), &program]);
        return Ok(command);
    }
    if fs::metadata(path)?.mode() & 0o111 != 0 {
        return Ok(Command::new(program));
    }
    let first = content.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    let interpreter = str::from_utf8(first)
        .ok()
        .and_then(|line| line.strip_prefix("#!"))
        .with_context(|| {
            format!(
                "{} is neither executable nor names an interpreter",
                path.display()
            )
        })?;
    let mut words = interpreter.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg(program);
    Ok(command)
}

/// Binds each pair's interrupts to one processor in the lower half, round-robin. The kernel keeps
/// that for the pair when channels are added and removed (`netif_set_affinity_auto()`).
fn pin_interrupts(interface: &str) -> Result<()> {
    let path = format!("/sys/class/net/{interface}/device/../msi_irqs");
    let mut interrupts = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| path.clone())? {
        let name = entry?.file_name();
        let number: Option<u32> = name.to_str().and_then(|name| name.parse().ok());
        interrupts.push(number.with_context(|| format!("{path}/{}", name.display()))?);
    }
    interrupts.sort_unstable();
    let used = interrupted(thread::available_parallelism()?.get());
    // The first vector is the configuration's; then each pair has two.
    for (place, interrupt) in interrupts.iter().skip(1).enumerate() {
        let path = format!("/proc/irq/{interrupt}/smp_affinity_list");
        let processor = place / 2 % used;
        fs::write(&path, processor.to_string()).with_context(|| path)?;
    }
    Ok(())
}

/// The processors that get the pinned interrupts: the first half of `count`.
fn interrupted(processors: usize) -> usize {
    processors.div_ceil(2)
}

/// Time limit of a test: that of its directory's `settings`, unless it is known to take longer.
pub(super) fn time_limit(directory: &Path, file: &str) -> Result<Duration> {
    if let Some((_, limit)) = WAITS_LONGER.iter().find(|(test, _)| *test == file) {
        return Ok(*limit);
    }
    let path = directory.join("settings");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| path.display().to_string())?,
    };
    let seconds = match text.lines().find_map(|line| line.strip_prefix("timeout=")) {
        Some(value) => value
            .trim()
            .parse()
            .with_context(|| format!("{}: timeout={value}", path.display()))?,
        None => DEFAULT_TIMEOUT,
    };
    Ok(match seconds {
        0 => HANGS_AFTER,
        seconds => Duration::from_secs(seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_executable_names_its_interpreter() {
        let path = std::env::temp_dir().join(format!("zcnic-script-{}", std::process::id()));
        fs::write(&path, "#!/usr/bin/env python3\nprint()\n").unwrap();
        let words = |command: Command| format!("{command:?}");
        assert_eq!(
            words(command(&path, "t.py").unwrap()),
            r#""/usr/bin/env" "python3" "./t.py""#
        );
        fs::write(&path, "print()\n").unwrap();
        assert!(command(&path, "t.py").is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn limits_come_from_the_directory() {
        let directory = std::env::temp_dir().join(format!("zcnic-settings-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let limit = |text: &str| {
            fs::write(directory.join("settings"), text).unwrap();
            time_limit(&directory, "t.py")
        };
        assert_eq!(limit("timeout=360\n").unwrap(), Duration::from_secs(360));
        assert_eq!(limit("timeout=0\n").unwrap(), HANGS_AFTER);
        assert_eq!(limit("").unwrap(), Duration::from_secs(DEFAULT_TIMEOUT));
        assert!(limit("timeout=soon\n").is_err());
        let longer = time_limit(&directory, "xdp.py").unwrap();
        assert_eq!(longer, Duration::from_secs(900));
        fs::remove_dir_all(&directory).unwrap();
    }
}
