//! Native XDP and AF_XDP under Linux, beyond the selftests. A program or a socket sends datagrams
//! back before the stack sees them, and the sender verifies every byte.

use anyhow::{Context, Result};
use zcnic_guest_protocol::event::{Event, NoResult, UdpPingResult};
use zcnic_testbed::{
    agent::{Exec, Process},
    guest::Guest as Machine,
    stream::Stream,
};

use super::{
    edges,
    ethtool::statistic,
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic::{self, LinkWatch},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "features: xdp: datagrams of any size come back by XDP_TX, in one buffer or several, split or not",
        run: Guest(Zcnic, transmitted),
    },
    Test {
        name: "features: xdp: a frame that is redirected to a port leaves it",
        run: Guest(Zcnic, redirected),
    },
    Test {
        name: "features: xdp: a program and a memory provider exclude each other",
        run: Guest(Zcnic, program_or_provider),
    },
    Test {
        name: "features: xdp: no aggregates while there is a program",
        run: Guest(Zcnic, no_aggregates),
    },
    Test {
        name: "features: xdp: programs come and go under traffic",
        run: Guest(Zcnic, under_traffic),
    },
    Test {
        name: "features: af_xdp: with and without copies, aligned or not, with wake-ups or always awake",
        run: Guest(Zcnic, sockets),
    },
    Test {
        name: "features: af_xdp: frames in several chunks",
        run: Guest(Zcnic, several_chunks),
    },
    Test {
        name: "features: af_xdp: a queue goes from a socket to io_uring and back",
        run: Guest(Zcnic, to_io_uring_and_back),
    },
    Test {
        name: "features: af_xdp: a socket and a memory provider exclude each other",
        run: Guest(Zcnic, socket_or_provider),
    },
    Test {
        name: "features: af_xdp: a socket outlives the backend",
        run: Guest(Zcnic, outage),
    },
    Test {
        name: "features: af_xdp: a socket outlives a suspend",
        run: Guest(Zcnic, suspend),
    },
    Test {
        name: "features: af_xdp: a socket that is closed without a backend leaves nothing in the rings",
        run: Guest(Zcnic, closed_in_an_outage),
    },
];

const PORT: u16 = 7777;
/// Queue of AF_XDP sockets.
const QUEUE: u32 = 1;
const DATAGRAMS: u32 = 400;
/// Bytes of payload that fit an MTU of 1500.
const SMALL: u32 = 1472;
/// Bytes of payload that take several buffers of any size.
const LARGE: u32 = 8900;

/// A program that sends datagrams back.
struct Echo {
    process: Process,
    zero_copy: bool,
}

impl Echo {
    fn exec(how: &[&str]) -> Exec {
        let port = format!("--port={PORT}");
        let echo = ["zcnic-guest", "echo", "--interface=eth0", &port];
        Exec::new(echo.iter().chain(how)).timeout(None)
    }

    fn start(guest: &Machine, how: &[&str]) -> Result<Self> {
        let mut process = guest.spawn(&Self::exec(how))?;
        let event = process
            .wait_for_event::<NoResult>(|event| matches!(event, Event::Echoing { .. }))
            .with_context(|| format!("echo {}", how.join(" ")))?;
        Ok(Self {
            process,
            zero_copy: event == Event::Echoing { zero_copy: true },
        })
    }

    /// Starts a socket of [`QUEUE`], to which [`steer`] sends datagrams.
    fn socket(guest: &Machine, how: &[&str]) -> Result<Self> {
        let queue = format!("--queue={QUEUE}");
        let socket = ["--by=socket", &queue];
        Self::start(guest, &[&socket, how].concat())
    }

    fn stop(self) -> Result<()> {
        self.process.kill(9)?;
        self.process.wait().map(drop)
    }
}

/// Fails unless an echo is refused with this error.
fn refused(guest: &mut Machine, how: &[&str], reason: &str) -> Result<()> {
    let finished = guest.run(&Echo::exec(how))?;
    let fine = !finished.status.success() && finished.stderr.contains(reason);
    expect(fine, || {
        format!("not refused: {}, {}", finished.status, finished.stderr)
    })
}

fn udp_ping(guest: &mut Machine, size: u32) -> Result<()> {
    let to = format!("--to=192.0.2.1:{PORT}");
    let (count, size) = (format!("--count={DATAGRAMS}"), format!("--size={size}"));
    let command = [
        "zcnic-guest",
        "udp-ping",
        "--netns=peer",
        &to,
        &count,
        &size,
    ];
    let printed = guest.check(&Exec::new(command))?;
    let result = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    let fine = matches!(
        result,
        Event::Result(UdpPingResult { datagrams, .. }) if datagrams == DATAGRAMS
    );
    expect(fine, || format!("not all came back: {result:?}"))
}

fn steer(guest: &mut Machine, queue: u32) -> Result<()> {
    guest
        .sh(&format!(
            "ethtool -N eth0 flow-type udp4 dst-port {PORT} action {queue}"
        ))
        .map(drop)
}

fn set_mtu(guest: &mut Machine, mtu: u32) -> Result<()> {
    guest
        .sh(&format!(
            "ip link set eth0 mtu {mtu}; ip -n peer link set eth1 mtu {mtu}"
        ))
        .map(drop)
}

fn count(guest: &mut Machine, name: &str) -> Result<u64> {
    (0..4)
        .map(|queue| statistic(guest, &format!("q{queue}_rx_{name}")))
        .sum()
}

fn transmitted(guest: &mut Machine) -> Result<()> {
    let echo = Echo::start(guest, &["--by=tx"])?;
    udp_ping(guest, SMALL)?;
    echo.stop()?;
    set_mtu(guest, 9000)?;
    for split in ["off", "on"] {
        guest.sh(&format!("ethtool -G eth0 tcp-data-split {split}"))?;
        let echo = Echo::start(guest, &["--by=tx", "--fragments"])?;
        udp_ping(guest, LARGE)?;
        echo.stop()?;
    }
    let sent = count(guest, "xdp_tx")?;
    expect(sent == 3 * u64::from(DATAGRAMS), || {
        format!("{sent} frames sent back of {}", 3 * DATAGRAMS)
    })
}

fn redirected(guest: &mut Machine) -> Result<()> {
    set_mtu(guest, 9000)?;
    // Redirected frames leave by the transmit queue of the processor that NAPI runs on, which may
    // change. Order is kept within a queue.
    guest.sh("ethtool -L eth0 combined 1")?;
    let echo = Echo::start(guest, &["--by=redirect", "--fragments"])?;
    udp_ping(guest, LARGE)?;
    echo.stop()?;
    let redirected = count(guest, "xdp_redirect")?;
    expect(redirected == u64::from(DATAGRAMS), || {
        format!("{redirected} frames redirected of {DATAGRAMS}")
    })
}

/// Fails if memory can be bound to a queue.
fn no_provider(guest: &mut Machine, queue: u32) -> Result<()> {
    let queue = format!("--queue={queue}");
    let receive = ["zcnic-guest", "receive", "--interface=eth0", &queue];
    let receive = Exec::new(receive.iter().chain(&["--port=4433", "--bytes=1"]));
    expect(!guest.run(&receive)?.status.success(), || {
        "memory was bound".to_owned()
    })
}

fn program_or_provider(guest: &mut Machine) -> Result<()> {
    let (flow, _) = traffic::endless_zero_copy(guest)?;
    refused(guest, &["--by=tx", "--fragments"], "busy")?;
    flow.stop()?;
    let echo = Echo::start(guest, &["--by=tx", "--fragments"])?;
    no_provider(guest, Stream::default().queue)?;
    udp_ping(guest, SMALL)?;
    echo.stop()
}

fn no_aggregates(guest: &mut Machine) -> Result<()> {
    let is_on = |guest: &mut Machine| -> Result<bool> {
        let features = guest.sh("ethtool -k eth0")?;
        Ok(features
            .lines()
            .any(|line| line.trim().starts_with("rx-gro-hw: on")))
    };
    guest.sh("ethtool -K eth0 rx-gro-hw on")?;
    expect(is_on(guest)?, || "can't be switched on".to_owned())?;
    let echo = Echo::start(guest, &["--by=tx"])?;
    expect(!is_on(guest)?, || "on with a program".to_owned())?;
    udp_ping(guest, SMALL)?;
    echo.stop()?;
    expect(is_on(guest)?, || "off without one".to_owned())
}

fn under_traffic(guest: &mut Machine) -> Result<()> {
    let mut flow = traffic::plain(guest)?;
    for split in ["off", "on", "off"] {
        guest.sh(&format!("ethtool -G eth0 tcp-data-split {split}"))?;
        let echo = Echo::start(guest, &["--by=tx", "--fragments"])?;
        flow.wait_for_progress()?;
        guest
            .sh("ethtool -G eth0 rx 64; ethtool -L eth0 combined 2; ethtool -L eth0 combined 4")?;
        flow.wait_for_progress()?;
        echo.stop()?;
        flow.wait_for_progress()
            .with_context(|| format!("with split {split}"))?;
    }
    flow.stop()?;
    let bad = count(guest, "bad_header")?;
    expect(bad == 0, || {
        format!("the driver found {bad} invalid receive headers")
    })
}

fn sockets(guest: &mut Machine) -> Result<()> {
    steer(guest, QUEUE)?;
    for how in [
        &[][..],
        &["--copy"],
        &["--always-wake"],
        &["--headroom=100"],
        &["--unaligned"],
        &["--unaligned", "--headroom=37", "--always-wake"],
    ] {
        let echo = Echo::socket(guest, how)?;
        expect(echo.zero_copy != how.contains(&"--copy"), || {
            format!("zero copy is {} with {how:?}", echo.zero_copy)
        })?;
        udp_ping(guest, SMALL).with_context(|| format!("with {how:?}"))?;
        // The other queues still work.
        traffic::wait_for_answer(guest)?;
        echo.stop()?;
    }
    Ok(())
}

fn several_chunks(guest: &mut Machine) -> Result<()> {
    set_mtu(guest, 9000)?;
    steer(guest, QUEUE)?;
    for chunk in ["--chunk=2048", "--chunk=4096"] {
        let echo = Echo::socket(guest, &["--fragments", chunk])?;
        udp_ping(guest, LARGE).with_context(|| format!("with {chunk}"))?;
        echo.stop()?;
    }
    Ok(())
}

fn to_io_uring_and_back(guest: &mut Machine) -> Result<()> {
    let stream = Stream {
        bytes: 16 << 20,
        queue: QUEUE,
        ..Stream::default()
    };
    stream.prepare(guest)?;
    steer(guest, QUEUE)?;
    for _ in 0..2 {
        // Headers are still split from payload on the other queues.
        let echo = Echo::socket(guest, &["--fragments"])?;
        udp_ping(guest, SMALL)?;
        echo.stop()?;
        let result = stream.start(guest)?.finish()?;
        expect(result.bytes_verified == stream.bytes, || {
            format!("not everything came: {result:?}")
        })?;
        traffic::nothing_copied(&result)?;
    }
    Ok(())
}

fn socket_or_provider(guest: &mut Machine) -> Result<()> {
    let (flow, _) = traffic::endless_zero_copy(guest)?;
    refused(guest, &["--by=socket", "--queue=1", "--fragments"], "busy")?;
    flow.stop()?;
    steer(guest, QUEUE)?;
    let echo = Echo::socket(guest, &["--fragments"])?;
    no_provider(guest, QUEUE)?;
    udp_ping(guest, SMALL)?;
    echo.stop()
}

fn outage(guest: &mut Machine) -> Result<()> {
    steer(guest, QUEUE)?;
    let echo = Echo::socket(guest, &[])?;
    udp_ping(guest, SMALL)?;
    let mut link = LinkWatch::start(guest)?;
    guest.kill_backend()?;
    link.down()?;
    guest.restart_backend()?;
    link.up()?;
    traffic::wait_for_answer(guest)?;
    udp_ping(guest, SMALL)?;
    echo.stop()
}

fn suspend(guest: &mut Machine) -> Result<()> {
    steer(guest, QUEUE)?;
    let echo = Echo::socket(guest, &[])?;
    udp_ping(guest, SMALL)?;
    if edges::sleep(guest, "mem")? {
        traffic::wait_for_answer(guest)?;
        udp_ping(guest, SMALL)?;
    }
    echo.stop()
}

fn closed_in_an_outage(guest: &mut Machine) -> Result<()> {
    steer(guest, QUEUE)?;
    let echo = Echo::socket(guest, &[])?;
    udp_ping(guest, SMALL)?;
    let resets = statistic(guest, "resets")?;
    let mut link = LinkWatch::start(guest)?;
    guest.kill_backend()?;
    link.down()?;
    echo.stop()?;
    // The kernel releases the memory some time after the process.
    guest.sh("for attempt in $(seq 50); do
             [ $(ethtool -S eth0 | awk '/ resets:/ { print $2 }') -gt 0 ] && exit; sleep 0.1
         done; exit 1")?;
    let now = statistic(guest, "resets")?;
    expect(now == resets + 1, || {
        format!("{} resets of the device", now - resets)
    })?;
    guest.restart_backend()?;
    link.up()?;
    traffic::wait_for_answer(guest)?;
    let echo = Echo::socket(guest, &[])?;
    udp_ping(guest, SMALL)?;
    echo.stop()
}
