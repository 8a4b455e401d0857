//! Interrupt moderation and affinity, threaded NAPI, busy polling.

use std::{
    fs,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::flow::{DatagramFlow, HERE, PATIENCE, THERE};
use crate::{
    fixture::{
        lab::{Lab, eventually},
        settings::Setting,
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::{net, socket::set_option},
};

/// A flow rule that steers UDP to a port to a queue of eth0, until this is dropped.
struct Steered(u32);

impl Steered {
    fn new(port: u16, queue: u32) -> Result<Self> {
        Ok(Self(net::add_flow_rule("eth0", "udp4", port, queue)?))
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        // The check of the configuration would find it if this failed.
        let _ = net::delete_flow_rule("eth0", self.0);
    }
}

const PORT: u16 = 5101;
const QUEUE: u32 = ZERO_COPY.0;
/// Number of datagrams, and the time between two: long enough for a processor to go idle.
const COUNT: u64 = 400;
const PAUSE: Duration = Duration::from_micros(300);
const SIZE: usize = 200;

/// Limits of interrupt moderation (`ethtool -C`).
const FRAMES: u64 = 32;
const DELAY: Duration = Duration::from_millis(20);

/// An interrupt vector of the NIC.
struct Vector {
    number: String,
    /// Its interrupts, by processor.
    counts: Vec<u64>,
}

/// The vectors of eth0's rings in one direction: "rx" or "tx" and a number.
fn vectors(rings: &str) -> Result<Vec<Vector>> {
    let device = fs::canonicalize("/sys/class/net/eth0/device")?;
    let device = device.file_name().context("eth0 has no device")?;
    let prefix = format!("{}-{rings}", device.display());
    let text = fs::read_to_string("/proc/interrupts")?;
    let processors = text.lines().next().unwrap_or_default();
    let processors = processors.split_whitespace().count();
    let of_ours = text.lines().filter_map(|line| {
        let name = line.split_whitespace().last()?;
        let number = name.strip_prefix(&prefix)?;
        // All vectors, or only the wanted one.
        let is_it = number.is_empty() || !rings.ends_with(|last: char| last.is_ascii_digit());
        is_it.then_some(line)
    });
    let vectors = of_ours.map(|line| {
        let mut words = line.split_whitespace();
        let number = words.next().unwrap_or_default().trim_end_matches(':');
        let counts = words.take(processors).map(str::parse::<u64>);
        Ok(Vector {
            number: number.to_owned(),
            counts: counts.collect::<Result<_, _>>()?,
        })
    });
    let vectors: Vec<Vector> = vectors.collect::<Result<_>>()?;
    ensure!(!vectors.is_empty(), "no interrupts of {prefix} in {text}");
    Ok(vectors)
}

/// Number of their interrupts.
fn total(rings: &str) -> Result<u64> {
    let vectors = vectors(rings)?;
    Ok(vectors.iter().flat_map(|vector| &vector.counts).sum())
}

fn receive_ring() -> String {
    format!("rx{QUEUE}")
}

/// Number of eth0's interrupts while `work` runs.
fn interrupts_of(rings: &str, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = total(rings)?;
    work()?;
    Ok(total(rings)? - before)
}

fn incoming() -> Result<(DatagramFlow, Steered)> {
    let steered = Steered::new(PORT, QUEUE)?;
    let flow = DatagramFlow::incoming((HERE, PORT).into(), THERE)?;
    Ok((flow, steered))
}

/// Interrupt moderation of eth0 (`ethtool -C`), switched off on drop.
struct Coalescing;

impl Coalescing {
    fn new(direction: &str) -> Result<Self> {
        let [usecs, frames] = ["usecs", "frames"].map(|limit| format!("{direction}-{limit}"));
        let delay = DELAY.as_micros().to_string();
        set_moderation(&[&usecs, &delay, &frames, &FRAMES.to_string()])?;
        Ok(Self)
    }
}

impl Drop for Coalescing {
    fn drop(&mut self) {
        // If this failed, the next case would find it.
        let off = [
            "rx-usecs",
            "0",
            "rx-frames",
            "0",
            "tx-usecs",
            "0",
            "tx-frames",
            "0",
        ];
        let _ = set_moderation(&off);
    }
}

fn set_moderation(how: &[&str]) -> Result<(), net::Error> {
    net::run(None, &[&["ethtool", "-C", "eth0"], how].concat()).map(drop)
}

/// Compares a flow with and without interrupt moderation.
fn moderated(
    transcript: &Transcript,
    direction: &str,
    flow: &DatagramFlow,
    rings: &str,
) -> Result<()> {
    let run = || interrupts_of(rings, || flow.run(COUNT, SIZE, PAUSE));
    transcript.does("Datagrams, one at a time");
    let without = run()?;
    transcript.at_least("interrupts", without, COUNT / 4)?;

    transcript.does("The same, with interrupts after 32 frames or 20 ms");
    let coalescing = Coalescing::new(direction)?;
    let began = Instant::now();
    let with = run()?;
    let delays = began.elapsed().as_nanos() / DELAY.as_nanos();
    // Each interrupt has a reason: enough frames, or the end of the delay on a ring. One more of
    // each may be left from before.
    let most = COUNT / FRAMES + vectors(rings)?.len() as u64 * (delays as u64 + 2);
    transcript.within("interrupts", with, 1..=most)?;
    transcript.holds("that is less than half", with < without / 2)?;
    drop(coalescing);
    transcript.at_least("interrupts without it again", run()?, COUNT / 4)
}

pub(super) fn moderated_receive(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (flow, _steered) = incoming()?;
    moderated(transcript, "rx", &flow, &receive_ring())?;
    transcript.refused(
        "a delay that is too long",
        set_moderation(&["rx-usecs", "65536"]),
        "65535",
    )
}

pub(super) fn moderated_transmit(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    moderated(transcript, "tx", &DatagramFlow::outgoing()?, "tx")
}

pub(super) fn affinity(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (flow, _steered) = incoming()?;
    let vector = || -> Result<Vector> {
        vectors(&receive_ring())?
            .pop()
            .context("the queue has no vector")
    };
    let file = format!("/proc/irq/{}/smp_affinity_list", vector()?.number);
    for processor in [1, 0, 3] {
        transcript.does(&format!("echo {processor} > {file}"));
        let _there = Setting::new(&file, &processor.to_string())?;
        // The interrupt moves with the next one (Documentation/core-api/irq/irq-affinity.rst),
        // which still comes to the former processor.
        flow.run(2, SIZE, PAUSE)?;
        let before = vector()?.counts;
        flow.run(COUNT / 4, SIZE, PAUSE)?;
        let after = vector()?.counts;
        let came: Vec<_> = after
            .iter()
            .zip(&before)
            .map(|(now, then)| now - then)
            .collect();
        transcript.at_least("interrupts there", came[processor], COUNT / 16)?;
        transcript.is(
            "interrupts elsewhere",
            came.iter().sum::<u64>() - came[processor],
            0,
        )?;
    }
    Ok(())
}

/// NAPI threads of eth0: for each, the number of times that it has slept.
fn pollers() -> Result<Vec<u64>> {
    let mut switches = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        // The process may have ended meanwhile, or the entry may be no process.
        let read = |name| fs::read_to_string(process.path().join(name)).unwrap_or_default();
        if !read("comm").starts_with("napi/eth0-") {
            continue;
        }
        let status = read("status");
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches.push(count.context("a thread without a status")?.trim().parse()?);
    }
    Ok(switches)
}

pub(super) fn threaded(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (flow, _steered) = incoming()?;
    transcript.is("threads at first", pollers()?.len(), 0)?;
    let setting = Setting::new("/sys/class/net/eth0/threaded", "1")?;
    let queues = net::rx_queues("eth0")? as usize;
    transcript.is("threads", pollers()?.len(), queues)?;
    let before: u64 = pollers()?.iter().sum();
    let interrupts = interrupts_of(&receive_ring(), || flow.run(COUNT, SIZE, PAUSE))?;
    let switches = pollers()?.iter().sum::<u64>() - before;
    transcript.sees("datagrams received and right", COUNT);
    transcript.sees("interrupts", interrupts);
    transcript.at_least("times that a thread was woken", switches, COUNT / 16)?;
    drop(setting);
    eventually(PATIENCE, || {
        ensure!(pollers()?.is_empty(), "threads are left");
        Ok(())
    })?;
    flow.run(COUNT / 4, SIZE, PAUSE)?;
    transcript.sees("datagrams without threads", COUNT / 4);
    Ok(())
}

pub(super) fn busy_poll(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (flow, _steered) = incoming()?;
    let ring = receive_ring();
    let without = interrupts_of(&ring, || flow.run(COUNT, SIZE, PAUSE))?;
    transcript.at_least("interrupts of a reader that sleeps", without, COUNT / 4)?;

    transcript.does("The reader busy-polls, which defers interrupts");
    let _deferred = Setting::new("/sys/class/net/eth0/napi_defer_hard_irqs", "100")?;
    let _timeout = Setting::new("/sys/class/net/eth0/gro_flush_timeout", "200000000")?;
    let socket = flow.receiver.as_fd();
    set_option(socket, libc::SO_BUSY_POLL, &[1_000_000])?;
    set_option(socket, libc::SO_PREFER_BUSY_POLL, &[1])?;
    set_option(socket, libc::SO_BUSY_POLL_BUDGET, &[16])?;
    // With the first datagrams the socket learns the NAPI instance to poll.
    flow.run(4, SIZE, PAUSE)?;
    let with = interrupts_of(&ring, || flow.run(COUNT, SIZE, PAUSE))?;
    transcript.within("interrupts of a reader that polls", with, 0..=COUNT / 20)
}
