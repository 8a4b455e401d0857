//! XDP programs and their changes of frames, in one buffer or several, with headers split or not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::case::FeatureCase;
use crate::{
    fixture::{
        connection::{Sender, connect},
        device::await_pools,
        lab::{Lab, eventually},
        packet::{PacketSocket, address_of},
        receiver::Receiver,
        traffic::ZERO_COPY,
        transcript::Transcript,
    },
    kit::{
        bpf::{
            Abilities, Attached, EXIT, Field, HELPER_ADJUST_HEAD, HELPER_ADJUST_TAIL, Instruction,
            Width, XDP_DROP, XDP_PASS, call, copy, jump_if_less, load, only_if, reload, set, store,
        },
        net,
        zcrx::Options,
    },
    runtime::ports::{PEER, PORTS},
    traffic::{
        echo::socket::{Shape, Socket},
        pattern::Pattern,
    },
};

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "xdp: frames pass a program unchanged",
        run: pass,
    },
    FeatureCase {
        name: "xdp: frames that a program drops are counted, and all others pass",
        run: drop_some,
    },
    FeatureCase {
        name: "xdp: a program removes a header from frames",
        run: head_off,
    },
    FeatureCase {
        name: "xdp: a program adds a header to frames",
        run: head_on,
    },
    FeatureCase {
        name: "xdp: a program shrinks the tail of frames",
        run: tail_off,
    },
    FeatureCase {
        name: "xdp: a program grows the tail of frames",
        run: tail_on,
    },
    FeatureCase {
        name: "af_xdp: a socket sends by one queue without copies while io_uring receives by another",
        run: beside_io_uring,
    },
];

/// Ethernet types of test frames, which no other program sends (IEEE 802, local experiments).
const OURS: u16 = 0x88b5;
const OTHER: u16 = 0x88b6;
/// An Ethernet header.
const HEADER: usize = 14;
/// Frames per size.
const TIMES: u64 = 8;
/// After this time without a frame, none will arrive any more.
const QUIET: Duration = Duration::from_millis(300);

/// A layout of received frames.
#[derive(Clone, Copy)]
struct Layout {
    frames: &'static str,
    mtu: u32,
    split: bool,
    /// Lengths of frames, in bytes.
    sizes: [usize; 4],
}

const LAYOUTS: [Layout; 3] = [
    Layout {
        frames: "frames of one buffer",
        mtu: 1500,
        split: false,
        sizes: [200, 777, 1200, 1514],
    },
    Layout {
        frames: "frames of several buffers",
        mtu: 9000,
        split: false,
        sizes: [1514, 3900, 5000, 9014],
    },
    Layout {
        frames: "frames with split headers",
        mtu: 9000,
        split: true,
        sizes: [200, 1514, 5000, 9014],
    },
];

/// eth0 receives in a layout, until this is dropped.
struct Prepared(bool);

impl Prepared {
    fn new(layout: Layout) -> Result<Self> {
        let this = Self(layout.split);
        set_mtu(layout.mtu)?;
        if !layout.split {
            net::set_tcp_data_split("eth0", false)?;
        }
        Ok(this)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // The check of the configuration would find it if this failed.
        if !self.0 {
            let _ = net::set_tcp_data_split("eth0", true);
        }
        let _ = set_mtu(1500);
    }
}

fn set_mtu(mtu: u32) -> Result<(), net::Error> {
    for port in &PORTS {
        net::run(
            port.netns,
            &["ip", "link", "set", port.name, "mtu", &mtu.to_string()],
        )?;
    }
    Ok(())
}

/// A program attached for frames of type [`OURS`].
struct Bench {
    layout: Layout,
    sender: PacketSocket,
    /// Receivers, one per type.
    receivers: [(u16, PacketSocket); 2],
    addresses: [u8; 12],
    pattern: Pattern,
    _attached: Attached,
    _prepared: Prepared,
}

impl Bench {
    fn new(layout: Layout, found: &[Instruction]) -> Result<Self> {
        let prepared = Prepared::new(layout)?;
        let abilities = Abilities {
            fragments: layout.mtu > 1500,
            metadata: false,
        };
        let program = only_if(HEADER as i32, &[Field::Half(12, OURS)], found);
        let attached = Attached::new(net::ifindex("eth0")?, &program, abilities)
            .context("attaching the program")?;
        let [to, from] = [address_of(&PORTS[0])?, address_of(&PORTS[1])?];
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&to);
        addresses[6..].copy_from_slice(&from);
        let receiver = |kind| PacketSocket::new(None, "eth0", kind);
        Ok(Self {
            layout,
            sender: PacketSocket::new(Some(PEER), "eth1", 0)?,
            receivers: [(OURS, receiver(OURS)?), (OTHER, receiver(OTHER)?)],
            addresses,
            pattern: Pattern::new(2),
            _attached: attached,
            _prepared: prepared,
        })
    }

    /// The payload with a header in front of it.
    fn framed(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        [&self.addresses[..], &kind.to_be_bytes(), payload].concat()
    }

    fn frame(&self, kind: u16, number: u64, size: usize) -> Vec<u8> {
        let mut payload = vec![0; size - HEADER];
        self.pattern.fill(number << 16, &mut payload);
        self.framed(kind, &payload)
    }

    /// Sends a frame, and fails unless the wanted frame arrives.
    fn expect(&self, sent: &[u8], kind: u16, wanted: &[u8]) -> Result<()> {
        self.sender.send(sent)?;
        let (_, receiver) = self
            .receivers
            .iter()
            .find(|(its, _)| *its == kind)
            .context("no socket")?;
        let seen = receiver.receive().context("no frame arrived")?;
        let same = seen
            .iter()
            .zip(wanted)
            .take_while(|(one, other)| one == other)
            .count();
        ensure!(
            seen == wanted,
            "of {} bytes {} arrived, {} wanted, the first {same} right",
            sent.len(),
            seen.len(),
            wanted.len()
        );
        Ok(())
    }

    /// Checks frames of every size.
    fn each(&self, mut check: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
        for size in self.layout.sizes {
            for number in 0..TIMES {
                check(number, size).with_context(|| format!("frame {number} of {size} bytes"))?;
            }
        }
        Ok(())
    }

    fn nothing_more(&self) -> Result<()> {
        for (kind, receiver) in &self.receivers {
            let more = receiver.receive_within(QUIET)?;
            ensure!(more.is_none(), "an extra frame of type {kind:#x}");
        }
        Ok(())
    }
}

/// Shows a program at work in every layout.
fn in_every_way(
    transcript: &Transcript,
    found: &[Instruction],
    mut show: impl FnMut(&Bench) -> Result<()>,
) -> Result<()> {
    for layout in LAYOUTS {
        transcript.does(layout.frames);
        let bench = Bench::new(layout, found)?;
        show(&bench).with_context(|| layout.frames)?;
        bench.nothing_more()?;
        transcript.sees("frames that are right", TIMES * layout.sizes.len() as u64);
    }
    Ok(())
}

const PASS: [Instruction; 2] = [set(0, XDP_PASS), EXIT];

/// A program that changes the frame by a helper function.
fn adjust(helper: i32, by: i32) -> Vec<Instruction> {
    vec![copy(1, 6), set(2, by), call(helper)]
}

fn pass(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    in_every_way(transcript, &PASS, |bench| {
        bench.each(|number, size| {
            let frame = bench.frame(OURS, number, size);
            bench.expect(&frame, OURS, &frame)
        })
    })
}

fn drop_some(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    let dropped = |lab: &Lab| -> Result<u64> {
        let counters = lab.counters("0")?;
        counters
            .get("rx_xdp_drop")
            .copied()
            .context("no such counter")
    };
    let before = dropped(lab)?;
    in_every_way(transcript, &[set(0, XDP_DROP), EXIT], |bench| {
        bench.each(|number, size| {
            bench.sender.send(&bench.frame(OURS, number, size))?;
            let frame = bench.frame(OTHER, number, size);
            bench.expect(&frame, OTHER, &frame)
        })
    })?;
    let all = LAYOUTS
        .iter()
        .map(|layout| TIMES * layout.sizes.len() as u64)
        .sum();
    transcript.is("frames dropped", dropped(lab)? - before, all)
}

fn head_off(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut found = adjust(HELPER_ADJUST_HEAD, HEADER as i32);
    found.extend(PASS);
    in_every_way(transcript, &found, |bench| {
        bench.each(|number, size| {
            let inner = bench.frame(OTHER, number, size - HEADER);
            let frame = bench.framed(OURS, &inner);
            if bench.layout.split {
                bench.expect(&frame, OURS, &frame)
            } else {
                bench.expect(&frame, OTHER, &inner)
            }
        })
    })?;
    transcript.why("An Ethernet header must remain in the first buffer, or the frame stays unchanged (bpf_xdp_adjust_head(),");
    transcript.why("net/core/filter.c). The device can't parse this frame, and has put only that header there.");
    Ok(())
}

fn head_on(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let mut found = adjust(HELPER_ADJUST_HEAD, -(HEADER as i32));
    found.extend(reload());
    // The addresses again, and another type; the verifier requires a check that all of it is in the
    // buffer.
    let mut write = Vec::new();
    for at in [0, 4, 8] {
        write.push(load(Width::Word, 5, 2, HEADER as i16 + at));
        write.push(store(Width::Word, 2, at, 5));
    }
    write.extend([set(5, OTHER.to_be().into()), store(Width::Half, 2, 12, 5)]);
    found.extend(jump_if_less(2 * HEADER as i32, write.len() as i16));
    found.extend(write);
    found.extend(PASS);
    in_every_way(transcript, &found, |bench| {
        bench.each(|number, size| {
            let frame = bench.frame(OURS, number, size);
            bench.expect(&frame, OTHER, &bench.framed(OTHER, &frame))
        })
    })
}

fn tail_off(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    // From the longest frames, several whole buffers.
    for by in [100, 4500] {
        transcript.does(&format!("The program removes {by} bytes"));
        let mut found = adjust(HELPER_ADJUST_TAIL, -by);
        found.extend(PASS);
        in_every_way(transcript, &found, |bench| {
            bench.each(|number, size| {
                let frame = bench.frame(OURS, number, size);
                // At least an Ethernet header remains (bpf_xdp_adjust_tail(), net/core/filter.c).
                let left = size.saturating_sub(by as usize);
                let left = if left < HEADER { size } else { left };
                bench.expect(&frame, OURS, &frame[..left])
            })
        })?;
    }
    Ok(())
}

fn tail_on(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const MORE: usize = 100;
    let mut found = adjust(HELPER_ADJUST_TAIL, MORE as i32);
    found.extend(PASS);
    in_every_way(transcript, &found, |bench| {
        bench.each(|number, size| {
            let mut frame = bench.frame(OURS, number, size);
            let sent = frame.clone();
            if !bench.layout.split {
                frame.resize(size + MORE, 0);
            }
            bench.expect(&sent, OURS, &frame)
        })
    })?;
    transcript.why("Buffers of headers and of payload differ in size. The kernel has one size for both and does");
    transcript
        .why("not know where the last buffer ends, so it refuses (bpf_xdp_frags_increase_tail).");
    Ok(())
}

/// Binds as soon as the queue's former owner has released it.
fn bind_sender(queue: u32) -> Result<Socket> {
    let interface = net::ifindex("eth0")?;
    let bind = || Ok(Socket::bind(interface, queue, Shape::SENDER)?);
    eventually(Duration::from_secs(5), bind).context("binding the socket")
}

fn beside_io_uring(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    const FRAMES: u64 = 300;
    const SOCKET: u32 = 1;
    transcript.does("A socket is bound to queue 1, and then io_uring to queue 3");
    let mut socket = bind_sender(SOCKET)?;
    transcript.holds("the socket is without copies", socket.is_zero_copy()?)?;
    let (queue, port) = ZERO_COPY;
    let mut receiver = Receiver::new(queue, &Options::default())?;
    let connection = connect(port, 1)?.pop().context("one connection")?;
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);

    let peer = PacketSocket::new(Some(PEER), "eth1", OURS)?;
    let addresses = [address_of(&PORTS[1])?, address_of(&PORTS[0])?].concat();
    let pattern = Pattern::new(3);
    // Frames that arrive meanwhile wait in sockets.
    for number in 0..FRAMES {
        let mut payload = vec![0; 64 + number as usize * 4];
        pattern.fill(number << 16, &mut payload);
        let frame = [&addresses[..], &OURS.to_be_bytes(), &payload].concat();
        socket.send(&frame).context("sending")?;
        let seen = peer.receive()?;
        ensure!(seen == frame, "frame {number} arrived with other bytes");
        let share = BYTES * number / FRAMES;
        receiver.until("its share has been received", |receiver| {
            receiver.received() >= share
        })?;
    }
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    transcript.sees("frames sent and right", FRAMES);
    drop(socket);
    transcript.does("io_uring is bound first, and then the socket");
    let bound = Socket::bind(net::ifindex("eth0")?, SOCKET, Shape::SENDER);
    let refused = bound.err().and_then(|error| error.raw_os_error());
    transcript.holds("it is refused with EBUSY", refused == Some(libc::EBUSY))?;
    transcript.why("Binding a pool checks all queues for memory providers (xp_assign_dev(),");
    transcript
        .why("net/xdp/xsk_buff_pool.c); binding a provider checks only its own queue for pools.");
    drop(receiver);
    await_pools(<[_]>::is_empty)
}
