//! Timestamps of frames, by the NIC's PTP clock.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    net::UdpSocket,
    os::fd::AsFd,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::time::{DynamicClockId, clock_gettime_dynamic};

use super::{
    flow::{DatagramFlow, HERE, PATIENCE, THERE},
    sys::{Datagram, receive, set_clock as set, set_stamping},
};
use crate::{
    fixture::{
        lab::{Lab, eventually},
        transcript::Transcript,
    },
    kit::socket::set_option,
    runtime::ports::{PEER, in_netns},
};

const PORT: u16 = 5100;
/// Payload bytes: of frames that fill one buffer, and of longer ones.
const SIZES: [usize; 6] = [1, 8, 100, 700, 1400, 1472];

/// `SOF_TIMESTAMPING_*` (include/uapi/linux/net_tstamp.h).
const TX_HARDWARE: u32 = 1 << 0;
const RX_HARDWARE: u32 = 1 << 2;
const RAW_HARDWARE: u32 = 1 << 6;
const OPT_ID: u32 = 1 << 7;
const OPT_TSONLY: u32 = 1 << 11;

/// eth0's PTP clock.
pub(super) struct Clock(File);

impl Clock {
    pub(super) fn new() -> Result<Self> {
        let clocks = fs::read_dir("/sys/class/net/eth0/device/ptp").context("no PTP clock")?;
        let name = clocks.flatten().next().context("no PTP clock")?.file_name();
        let path = format!("/dev/{}", name.display());
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(Self(file.context(path)?))
    }

    pub(super) fn read(&self) -> Result<u64> {
        let time = clock_gettime_dynamic(DynamicClockId::Dynamic(self.0.as_fd()))?;
        Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// An interface timestamps frames until this is dropped.
pub(super) struct Stamping {
    /// A socket in the interface's namespace.
    socket: UdpSocket,
    interface: &'static str,
}

impl Stamping {
    pub(super) fn new(
        netns: Option<&str>,
        interface: &'static str,
        transmit: bool,
        receive: bool,
    ) -> Result<Self> {
        let socket = in_netns(netns, || Ok(UdpSocket::bind(("127.0.0.1", 0))?))?;
        set_stamping(socket.as_fd(), interface, transmit, receive)
            .with_context(|| format!("timestamps of {interface}"))?;
        Ok(Self { socket, interface })
    }
}

impl Drop for Stamping {
    fn drop(&mut self) {
        // The check of the configuration would find it if this failed.
        let _ = set_stamping(self.socket.as_fd(), self.interface, false, false);
    }
}

/// Makes a socket report the hardware's timestamps.
pub(super) fn tell_times(socket: &UdpSocket) -> Result<()> {
    let flags = TX_HARDWARE | RX_HARDWARE | RAW_HARDWARE | OPT_ID | OPT_TSONLY;
    set_option(socket.as_fd(), libc::SO_TIMESTAMPING, &[flags])?;
    Ok(())
}

fn incoming() -> Result<DatagramFlow> {
    let flow = DatagramFlow::incoming((HERE, PORT).into(), THERE)?;
    tell_times(&flow.receiver)?;
    Ok(flow)
}

/// Sends a datagram and receives it, all of it right.
fn pass(flow: &DatagramFlow, number: u64, size: usize) -> Result<Datagram> {
    flow.send(number, size)?;
    let mut buffer = [0; 2048];
    let message = receive(flow.receiver.as_fd(), &mut buffer, false)?;
    flow.verify(number, size, &buffer[..message.length])?;
    Ok(message)
}

/// The time at which a datagram was sent, as its socket reports it.
fn time_of_sent(flow: &DatagramFlow, number: u64) -> Result<u64> {
    let message = eventually(PATIENCE, || {
        match receive(flow.sender.as_fd(), &mut [0; 64], true) {
            Ok(message) => Ok(message),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("no timestamp of sent datagram {number}")
            }
            Err(error) => bail!("reading the timestamp of a sent datagram: {error}"),
        }
    })?;
    ensure!(
        message.sent == Some(number as u32),
        "that is not datagram {number}: {message:?}"
    );
    message.time.context("a sent datagram has no time")
}

pub(super) fn received(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let clock = Clock::new()?;
    let flow = incoming()?;
    transcript.does("Datagrams arrive while timestamps are off");
    let quiet = pass(&flow, 0, 100)?;
    transcript.holds("they have no time", quiet.time.is_none())?;
    transcript.does("Timestamps of all received frames are switched on");
    let stamping = Stamping::new(None, "eth0", false, true)?;
    let mut last = clock.read()?;
    for (number, size) in (1..).zip(SIZES.into_iter().cycle().take(24)) {
        let time = pass(&flow, number, size)?.time.context("no time")?;
        let after = clock.read()?;
        ensure!(
            last < time && time < after,
            "datagram {number}: {last}, {time}, {after}"
        );
        last = after;
    }
    transcript.sees("datagrams with a time between two readings", 24);
    drop(stamping);
    let quiet = pass(&flow, 25, 100)?;
    transcript.holds("switched off, they have no time", quiet.time.is_none())
}

pub(super) fn sent(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let clock = Clock::new()?;
    let flow = DatagramFlow::outgoing()?;
    tell_times(&flow.sender)?;
    let _stamping = Stamping::new(None, "eth0", true, false)?;
    transcript.does("Datagrams are sent by a socket with timestamps");
    let mut last = clock.read()?;
    for (number, size) in (0..).zip(SIZES.into_iter().cycle().take(24)) {
        pass(&flow, number, size)?;
        let time = time_of_sent(&flow, number)?;
        let after = clock.read()?;
        ensure!(
            last < time && time < after,
            "datagram {number}: {last}, {time}, {after}"
        );
        last = after;
    }
    transcript.sees("datagrams with a time between two readings", 24);

    transcript.does("Several are in flight at once");
    for number in 24..88 {
        flow.send(number, 500)?;
    }
    let mut buffer = [0; 2048];
    for number in 24..88 {
        let length = flow.receiver.recv(&mut buffer)?;
        flow.verify(number, 500, &buffer[..length])?;
        let time = time_of_sent(&flow, number)?;
        ensure!(last <= time, "datagram {number}: {time}, not after {last}");
        last = time;
    }
    transcript.sees("times in order", 64);
    Ok(())
}

pub(super) fn both_ends(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let flow = incoming()?;
    tell_times(&flow.sender)?;
    let _receiving = Stamping::new(None, "eth0", false, true)?;
    let _sending = Stamping::new(Some(PEER), "eth1", true, false)?;
    let mut longest = 0;
    for (number, size) in (0..).zip(SIZES.into_iter().cycle().take(24)) {
        let arrived = pass(&flow, number, size)?.time.context("no time")?;
        let sent = time_of_sent(&flow, number)?;
        ensure!(sent <= arrived, "sent at {sent}, received at {arrived}");
        longest = longest.max(arrived - sent);
    }
    transcript.sees("the longest transit, in nanoseconds", longest);
    transcript.why("Both ports belong to one device, whose clock they share.");
    // Two clocks with different starts would differ by seconds at least.
    transcript.within("seconds of it", longest / 1_000_000_000, 0..=0)
}

pub(super) fn set_clock(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const LATER: u64 = 1_000_000_000_000;
    let clock = Clock::new()?;
    let flow = incoming()?;
    let _stamping = Stamping::new(None, "eth0", false, true)?;
    let before = clock.read()?;
    transcript.does("The clock is set 1000 seconds ahead");
    set(clock.0.as_fd(), before + LATER).context("setting the clock")?;
    let first = clock.read()?;
    let time = pass(&flow, 0, 100)?.time.context("no time");
    let last = clock.read()?;
    // Back to about the former time, whatever the result.
    set(clock.0.as_fd(), last - LATER).context("setting the clock")?;
    let time = time?;
    transcript.sees("seconds ahead", (time - before) / 1_000_000_000);
    transcript.holds(
        "frames have times of the clock as it was set",
        before + LATER <= first && first < time && time < last,
    )?;
    let time = pass(&flow, 1, 100)?.time.context("no time")?;
    transcript.holds("and when it is set back, too", time < before + LATER)
}
