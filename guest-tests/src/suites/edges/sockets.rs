//! AF_XDP sockets that wait: for the driver, for a link, for buffers.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    fixture::{
        lab::{Lab, RECOVERY, eventually},
        packet::address_of,
        transcript::Transcript,
    },
    kit::net,
    runtime::ports::PORTS,
    traffic::echo::socket::{Shape, Socket},
};

/// The queue of the sockets, which no rule and no table names.
const QUEUE: u32 = 1;
/// Buffers that the driver keeps posted.
const POSTED: usize = 64;
/// Chunks of a socket.
const CHUNKS: usize = 512;
/// An experimental type of Ethernet frames, which no program receives.
const TYPE: [u8; 2] = [0x88, 0xb5];
const PATIENCE: Duration = Duration::from_secs(10);

/// Binds as soon as the queue's former owner has released it.
pub(super) fn bind() -> Result<Socket> {
    let interface = net::ifindex("eth0")?;
    let bind = || Ok(Socket::bind(interface, QUEUE, Shape::SENDER)?);
    eventually(PATIENCE, bind).context("binding the socket")
}

/// A frame from eth0 to eth1.
pub(super) fn frame(payload: usize) -> Result<Vec<u8>> {
    let addresses = [address_of(&PORTS[1])?, address_of(&PORTS[0])?].concat();
    Ok([&addresses[..], &TYPE, &vec![0x5a; payload]].concat())
}

fn until(what: &'static str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(PATIENCE, || {
        ensure!(holds()?, "{what}: not within {PATIENCE:?}");
        Ok(())
    })
}

pub(super) fn fill_wakeup(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let before = net::rings("eth0")?.rx.context("no rx ring")?;
    let set = |count: &str| net::run(None, &["ethtool", "-G", "eth0", "rx", count]);
    set(&POSTED.to_string())?;
    let result = fill(transcript);
    set(&before.to_string())?;
    result
}

fn fill(transcript: &Transcript) -> Result<()> {
    transcript.does("A socket is bound with an empty fill ring");
    let mut socket = bind()?;
    until("the ring asks for a wake-up", || {
        Ok(socket.fill_needs_wakeup())
    })?;
    transcript.does("It gets fewer buffers than the driver wants, and wakes it");
    socket.fill(POSTED / 2);
    socket.wake_receiver()?;
    // Nothing shows that the driver has looked, so the flag is read for a while.
    for _ in 0..20 {
        sleep(Duration::from_millis(10));
        ensure!(socket.fill_needs_wakeup(), "it does not ask any more");
    }
    transcript.does("It gets more than the driver wants, and wakes it");
    socket.fill(POSTED * 2);
    socket.wake_receiver()?;
    until("the ring does not ask any more", || {
        Ok(!socket.fill_needs_wakeup())
    })?;
    transcript.holds("the flag was set and cleared", true)
}

pub(super) fn transmit_wakeup(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const STALL: u64 = 2_000_000_000;
    const MORE: usize = 8;
    let mut socket = bind()?;
    let frame = frame(100)?;
    transcript.holds("a new socket has to wake", socket.transmit_needs_wakeup())?;
    transcript.does("The queue stalls for two seconds behind the socket's first frame");
    let rule = json!({
        "direction": "tx", "queue": QUEUE, "nth": 1,
        "action": {"stall": {"nanoseconds": STALL}},
    });
    let rule = lab.arm("0", &rule)?;
    socket.enqueue(&frame)?;
    socket.send(&frame)?;
    lab.wait_for_hits(rule, 1)?;
    until("no wake-up is needed with a frame in flight", || {
        Ok(!socket.transmit_needs_wakeup())
    })?;
    transcript.does("More frames come, without a wake-up");
    for _ in 0..MORE {
        socket.enqueue(&frame)?;
    }
    until("all frames are sent", || Ok(socket.reclaim() == CHUNKS))?;
    transcript.sees("frames sent", 2 + MORE);
    until("the next frame needs a wake-up", || {
        Ok(socket.transmit_needs_wakeup())
    })?;
    lab.disarm()
}

pub(super) fn link_flap(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const FRAMES: usize = 8;
    let carrier =
        || -> Result<bool> { Ok(fs::read_to_string("/sys/class/net/eth0/carrier")?.trim() == "1") };
    let mut socket = bind()?;
    let frame = frame(100)?;
    transcript.does("The link goes down, and the socket sends");
    lab.control().link_set("0", false)?;
    until("the link is down", || Ok(!carrier()?))?;
    for _ in 0..FRAMES {
        socket.enqueue(&frame)?;
    }
    socket.wake()?;
    sleep(Duration::from_millis(300));
    transcript.is("frames that wait", CHUNKS - socket.reclaim(), FRAMES)?;
    transcript.does("The link comes back, and the socket does nothing");
    lab.control().link_set("0", true)?;
    until("the link is up", carrier)?;
    until("all frames are sent", || Ok(socket.reclaim() == CHUNKS))?;
    transcript.sees("frames sent", FRAMES);

    transcript.does("The same with a device that begins another session");
    let sessions = lab.counters("0")?["sessions"];
    lab.control().reset("0")?;
    for _ in 0..FRAMES {
        socket.enqueue(&frame)?;
    }
    socket.wake()?;
    eventually(RECOVERY, || {
        let now = lab.counters("0")?["sessions"];
        ensure!(now > sessions, "no new session");
        ensure!(socket.reclaim() == CHUNKS, "frames are left");
        Ok(())
    })?;
    transcript.sees("frames sent", FRAMES);
    Ok(())
}

pub(super) fn mtu(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let set = |mtu: &str| net::run(None, &["ip", "link", "set", "eth0", "mtu", mtu]);
    transcript.does("A socket with buffers of 2048 bytes is bound");
    let socket = bind()?;
    set("1700")?;
    set("1500")?;
    transcript.refused("an MTU of 9000", set("9000"), "out of range")?;
    drop(socket);
    eventually(PATIENCE, || Ok(set("9000")?)).context("without the socket")?;
    set("1500")?;
    Ok(())
}
