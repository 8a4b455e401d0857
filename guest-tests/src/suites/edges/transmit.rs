//! Transmit beyond ordinary frames: short ones, netpoll, deferred completions.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::sockets::{bind, frame};
use crate::{
    fixture::{lab::Lab, packet::PacketSocket, settings::Setting, transcript::Transcript},
    kit::net,
    runtime::ports::PEER,
};

/// The type of [`frame`].
const TYPE: u16 = 0x88b5;
/// The shortest Ethernet frame, without its checksum, and its header.
const MINIMUM: usize = 60;
const HEADER: usize = 14;

pub(super) fn padding(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let peer = PacketSocket::new(Some(PEER), "eth1", TYPE)?;
    let stack = PacketSocket::new(None, "eth0", 0)?;
    let mut socket = bind()?;
    let mut frames = 0;
    for length in [HEADER + 1, 42, 59, 60, 61] {
        let sent = frame(length - HEADER)?;
        let mut wanted = sent.clone();
        wanted.resize(length.max(MINIMUM), 0);
        for by_socket in [false, true] {
            if by_socket {
                socket.send(&sent)?;
            } else {
                stack.send(&sent)?;
            }
            let seen = peer.receive()?;
            ensure!(
                seen == wanted,
                "of {length} bytes, by the socket: {by_socket}, {seen:x?} arrived"
            );
            frames += 1;
        }
    }
    transcript.sees("frames that are right", frames);
    Ok(())
}

/// Probes of the kernel, until this is dropped.
struct Probes(PathBuf);

impl Probes {
    /// One counts how skbs are freed, the other one where bottom halves are enabled with
    /// interrupts off, which no code may do.
    fn new() -> Result<Self> {
        let tracing = Path::new("/sys/kernel/tracing");
        if !tracing.join("kprobe_events").exists() {
            let at = tracing.display().to_string();
            net::run(None, &["mount", "-t", "tracefs", "tracefs", &at])?;
        }
        let this = Self(tracing.to_owned());
        this.write(
            "kprobe_events",
            "p:zcnic_free napi_consume_skb budget=%si:s32\n\
             p:zcnic_enable __local_bh_enable_ip\n",
        )?;
        // TRACE_FLAG_IRQS_OFF
        for probe in ["zcnic_free", "zcnic_enable"] {
            this.write(
                &format!("events/kprobes/{probe}/filter"),
                "common_flags & 1",
            )?;
        }
        this.write("trace", "")?;
        this.write("events/kprobes/enable", "1")?;
        Ok(this)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(file), text).with_context(|| format!("{text:?} to {file}"))
    }

    fn trace(&self) -> Result<String> {
        self.write("events/kprobes/enable", "0")?;
        Ok(fs::read_to_string(self.0.join("trace"))?)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // Probes that are left would only cost time.
        let _ = self.write("events/kprobes/enable", "0");
        let _ = self.write("kprobe_events", "");
    }
}

/// netconsole sends with interrupts off, and polls for itself when the queue is full.
pub(super) fn netpoll(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let before = net::rings("eth0")?.tx.context("no tx ring")?.to_string();
    let set = |count: &str| net::run(None, &["ethtool", "-G", "eth0", "tx", count]);
    set("32")?;
    let result = log_over_the_port(transcript);
    set(&before)?;
    result
}

fn log_over_the_port(transcript: &Transcript) -> Result<()> {
    const LINES: usize = 300;
    let to = net::run(Some(PEER), &["cat", "/sys/class/net/eth1/address"])?;
    let target = format!(
        "netconsole=6665@192.0.2.1/eth0,6666@192.0.2.2/{}",
        to.trim()
    );
    // By default the kernel drops most lines of a program that writes many. It wants a whole line.
    let _all = Setting::new("/proc/sys/kernel/printk_devkmsg", "on\n")?;
    let probes = Probes::new()?;
    net::run(None, &["modprobe", "netconsole", &target])?;
    transcript.does("300 lines are logged over eth0, whose ring has room for six frames");
    for line in 0..LINES {
        fs::write("/dev/kmsg", format!("<2>netconsole, line {line}"))?;
    }
    net::run(None, &["rmmod", "netconsole"])?;
    let trace = probes.trace()?;
    let count = |words: &[&str]| {
        let found = |line: &&str| words.iter().all(|word| line.contains(word));
        trace.lines().filter(found).count() as u64
    };
    let freed = count(&["zcnic_free:"]);
    let right = count(&["zcnic_free:", "budget=0"]);
    transcript.at_least("frames freed with interrupts off", freed, 1)?;
    transcript.is("by NAPI's way, which needs them on", freed - right, 0)?;
    transcript.is(
        "times that bottom halves were enabled",
        count(&["zcnic_enable:"]),
        0,
    )
}

pub(super) fn deferred(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    /// Longer than the driver waits for a completion.
    const DEFERRED: Duration = Duration::from_secs(9);
    let stack = PacketSocket::new(None, "eth0", 0)?;
    let resets = lab.counters("0")?["resets"];
    transcript.does("Polling is deferred for nine seconds, and eight frames are sent");
    let attribute = |name: &str| format!("/sys/class/net/eth0/{name}");
    let _count = Setting::new(attribute("napi_defer_hard_irqs"), "1000")?;
    let nanoseconds = DEFERRED.as_nanos().to_string();
    let _time = Setting::new(attribute("gro_flush_timeout"), &nanoseconds)?;
    // A queue's first completion is polled at once, and begins the deferral; there are four queues.
    for _ in 0..8 {
        stack.send(&frame(100)?)?;
        sleep(Duration::from_millis(100));
    }
    sleep(DEFERRED);
    transcript.is("resets", lab.counters("0")?["resets"] - resets, 0)
}
