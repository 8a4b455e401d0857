//! The device's metadata of a frame: hash, timestamp, and the stripped VLAN tag.

use std::{
    io::Read,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use anyhow::{Context, Result, ensure};

use super::{
    flow::{DatagramFlow, HERE, PATIENCE, THERE},
    sys::receive,
    time::{Clock, Stamping, tell_times},
};
use crate::{
    fixture::{connection::Sender, lab::Lab, transcript::Transcript},
    kit::{
        bpf::{
            Abilities, Attached, EXIT, FRAME, HELPER_MAP_UPDATE, Instruction, MAP_ARRAY, Map,
            Width, XDP_PASS, add, call, call_function, copy, functions, only_if, set, set_map,
            store, udp_to,
        },
        net,
    },
    runtime::ports::{PEER, in_netns},
    traffic::pattern::Pattern,
};

const PORT: u16 = 5102;
const VLAN: u16 = 7;
/// Addresses in the VLAN.
const TAGGED_HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 7, 1);
const TAGGED_THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 7, 2);

/// `XDP_RSS_TYPE_L4_IPV4_UDP` (include/net/xdp.h): IPv4, L4, UDP.
const UDP4: u32 = 1 << 0 | 1 << 3 | 1 << 5;

/// The metadata that the program stores of a frame, with their places in a value of
/// [`FrameMetadata::SIZE`] bytes.
struct FrameMetadata(Vec<u8>);

impl FrameMetadata {
    const SIZE: usize = 40;
    const TIME: i16 = 0;
    const HASH: i16 = 8;
    const HASH_TYPE: i16 = 12;
    const TAG_TYPE: i16 = 16;
    const TAG: i16 = 18;
    /// Results of the functions for the time, the hash, the tag.
    const RESULTS: [i16; 3] = [24, 28, 32];

    fn bytes<const N: usize>(&self, at: i16) -> [u8; N] {
        std::array::from_fn(|byte| self.0[at as usize + byte])
    }

    fn word(&self, at: i16) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    /// Whether a function returned metadata; every result but ENODATA is an error.
    fn has(&self, result: i16) -> Result<bool> {
        match self.word(result).cast_signed() {
            0 => Ok(true),
            error if error == -libc::ENODATA => Ok(false),
            error => anyhow::bail!("a function returned {error}"),
        }
    }

    fn time(&self) -> Result<Option<u64>> {
        let time = u64::from_ne_bytes(self.bytes(Self::TIME));
        Ok(self.has(Self::RESULTS[0])?.then_some(time))
    }

    fn hash(&self) -> Result<Option<(u32, u32)>> {
        let hash = (self.word(Self::HASH), self.word(Self::HASH_TYPE));
        Ok(self.has(Self::RESULTS[1])?.then_some(hash))
    }

    /// Type and content.
    fn tag(&self) -> Result<Option<(u16, u16)>> {
        let tag = (
            u16::from_be_bytes(self.bytes(Self::TAG_TYPE)),
            u16::from_ne_bytes(self.bytes(Self::TAG)),
        );
        Ok(self.has(Self::RESULTS[2])?.then_some(tag))
    }
}

/// A program that stores the metadata of datagrams to [`PORT`], and lets them pass.
fn program(map: &Map) -> Result<Vec<Instruction>> {
    let [time, hash, tag] = functions([
        "bpf_xdp_metadata_rx_timestamp",
        "bpf_xdp_metadata_rx_hash",
        "bpf_xdp_metadata_rx_vlan_tag",
    ])?;
    // The value is on the stack, and the map's key behind it.
    let value = -(FrameMetadata::SIZE as i16);
    let key = value - 8;
    let into = |register, at: i16| [copy(register, FRAME), add(register, (value + at).into())];
    let mut found = vec![set(1, 0)];
    found.extend(
        (key..0)
            .step_by(8)
            .map(|at| store(Width::Double, FRAME, at, 1)),
    );
    let calls = [
        (time, vec![FrameMetadata::TIME]),
        (hash, vec![FrameMetadata::HASH, FrameMetadata::HASH_TYPE]),
        (tag, vec![FrameMetadata::TAG_TYPE, FrameMetadata::TAG]),
    ];
    for ((function, places), result) in calls.into_iter().zip(FrameMetadata::RESULTS) {
        found.push(copy(1, 6));
        for (register, place) in (2..).zip(places) {
            found.extend(into(register, place));
        }
        found.push(call_function(function));
        found.push(store(Width::Word, FRAME, value + result, 0));
    }
    found.extend(set_map(1, map));
    found.extend([copy(2, FRAME), add(2, key.into())]);
    found.extend(into(3, 0));
    found.extend([set(4, 0), call(HELPER_MAP_UPDATE), set(0, XDP_PASS), EXIT]);
    Ok(only_if(42, &udp_to(PORT), &found))
}

/// A VLAN interface on each port, until this is dropped.
struct Tagged;

impl Tagged {
    fn new() -> Result<Self> {
        let here = Self;
        let ends = [
            (None, "eth0", TAGGED_HERE),
            (Some(PEER), "eth1", TAGGED_THERE),
        ];
        for (netns, port, address) in ends {
            let (name, id) = (format!("{port}.{VLAN}"), VLAN.to_string());
            let address = format!("{address}/24");
            // A priority for all frames, so that the tag has more than its identifier.
            for command in [
                &[
                    "ip",
                    "link",
                    "add",
                    "link",
                    port,
                    "name",
                    &name,
                    "type",
                    "vlan",
                    "id",
                    &id,
                    "egress-qos-map",
                    "0:3",
                ][..],
                &["ip", "address", "add", &address, "dev", &name],
                &["ip", "link", "set", &name, "up"],
            ] {
                net::run(netns, command)?;
            }
        }
        Ok(here)
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        for (netns, port) in [(None, "eth0"), (Some(PEER), "eth1")] {
            // The check of the configuration would find one that is left.
            let _ = net::run(netns, &["ip", "link", "delete", &format!("{port}.{VLAN}")]);
        }
    }
}

/// Makes eth0 strip VLAN tags, until this is dropped.
struct Stripping;

impl Stripping {
    fn new(lab: &mut Lab) -> Result<Self> {
        switch("on")?;
        let features = lab.control().features("0")?;
        let is_on = features.offloads.iter().any(|name| name == "vlan");
        ensure!(is_on, "the device does not have it: {features:?}");
        Ok(Self)
    }
}

impl Drop for Stripping {
    fn drop(&mut self) {
        // The check of the configuration would find it if this failed.
        let _ = switch("off");
    }
}

fn switch(state: &str) -> Result<(), net::Error> {
    net::run(None, &["ethtool", "-K", "eth0", "rxvlan", state]).map(drop)
}

/// The key of eth0's hash.
fn key() -> Result<Vec<u8>> {
    let output = net::run(None, &["ethtool", "-x", "eth0"])?;
    let mut lines = output
        .lines()
        .skip_while(|line| !line.starts_with("RSS hash key:"));
    let key = lines.nth(1).context("eth0 has no key")?.trim();
    let bytes = key.split(':').map(|byte| u8::from_str_radix(byte, 16));
    Ok(bytes.collect::<Result<_, _>>()?)
}

/// The Toeplitz hash ("Verifying the RSS Hash Calculation", NDIS), bit by bit.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 == 1;
    let window =
        |at: usize| (0..32).fold(0, |word, next| word << 1 | u32::from(bit(key, at + next)));
    (0..8 * input.len())
        .filter(|&at| bit(input, at))
        .fold(0, |hash, at| hash ^ window(at))
}

/// The expected hash of a flow to [`PORT`].
fn hash_of(flow: &DatagramFlow, from: Ipv4Addr, to: Ipv4Addr) -> Result<u32> {
    let port = flow.sender.local_addr()?.port();
    let input = [
        &from.octets()[..],
        &to.octets(),
        &port.to_be_bytes(),
        &PORT.to_be_bytes(),
    ];
    Ok(toeplitz(&key()?, &input.concat()))
}

/// Sends a datagram; returns the program's metadata and the timestamp that the socket reports.
fn pass(flow: &DatagramFlow, map: &Map, number: u64) -> Result<(FrameMetadata, Option<u64>)> {
    const SIZE: usize = 600;
    map.insert(0, &[0xff; FrameMetadata::SIZE])?;
    flow.send(number, SIZE)?;
    let mut buffer = [0; 2048];
    let message = receive(flow.receiver.as_fd(), &mut buffer, false)?;
    flow.verify(number, SIZE, &buffer[..message.length])?;
    Ok((FrameMetadata(map.get(0)?), message.time))
}

pub(super) fn programs(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _tagged = Tagged::new()?;
    let clock = Clock::new()?;
    let map = Map::new(MAP_ARRAY, FrameMetadata::SIZE, 1)?;
    let abilities = Abilities {
        fragments: true,
        metadata: true,
    };
    let _attached = Attached::new(net::ifindex("eth0")?, &program(&map)?, abilities)
        .context("attaching the program")?;

    transcript.does("A datagram arrives with timestamps and tag stripping off");
    let plain = DatagramFlow::incoming((HERE, PORT).into(), THERE)?;
    tell_times(&plain.receiver)?;
    let (seen, _) = pass(&plain, &map, 0)?;
    transcript.holds(
        "it has no time and no tag",
        seen.time()?.is_none() && seen.tag()?.is_none(),
    )?;
    let (hash, kind) = seen.hash()?.context("it has no hash")?;
    transcript.is("hash", hash, hash_of(&plain, THERE, HERE)?)?;
    transcript.is("type of the hash", kind, UDP4)?;

    transcript.does("Timestamps are on, and tags are stripped");
    let _stamping = Stamping::new(None, "eth0", false, true)?;
    let stripping = Stripping::new(lab)?;
    let before = clock.read()?;
    let (seen, reported) = pass(&plain, &map, 1)?;
    let time = seen.time()?.context("it has no time")?;
    transcript.holds(
        "the time is the one that its socket reports",
        reported == Some(time),
    )?;
    transcript.holds(
        "the time is between two readings of the clock",
        before < time && time < clock.read()?,
    )?;
    transcript.holds("it has no tag", seen.tag()?.is_none())?;

    transcript.does("A datagram with a tag");
    let tagged = DatagramFlow::incoming((TAGGED_HERE, PORT).into(), TAGGED_THERE)?;
    let (seen, _) = pass(&tagged, &map, 2)?;
    let (kind, tag) = seen.tag()?.context("it has no tag")?;
    transcript.is("type of the tag", kind, 0x8100)?;
    transcript.is("tag", tag, 3 << 13 | VLAN)?;
    let (hash, _) = seen.hash()?.context("it has no hash")?;
    transcript.is("hash", hash, hash_of(&tagged, TAGGED_THERE, TAGGED_HERE)?)?;

    transcript.does("Tags are left in");
    drop(stripping);
    map.insert(0, &[0xff; FrameMetadata::SIZE])?;
    tagged.send(3, 600)?;
    let mut buffer = [0; 2048];
    let length = tagged.receiver.recv(&mut buffer)?;
    tagged.verify(3, 600, &buffer[..length])?;
    transcript.holds(
        "the program finds no datagram behind a tag",
        map.get(0)? == [0xff; FrameMetadata::SIZE],
    )
}

/// A stream over the VLAN, every byte of which is right.
fn stream(seed: u64) -> Result<()> {
    const BYTES: u64 = 3 << 20;
    let listener = TcpListener::bind((TAGGED_HERE, PORT))?;
    let sender = in_netns(Some(PEER), || {
        let address = (TAGGED_HERE, PORT).into();
        Ok(TcpStream::connect_timeout(&address, PATIENCE)?)
    })?;
    let (mut receiver, _) = listener.accept()?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = Sender::start(sender, seed, BYTES);
    let pattern = Pattern::new(seed);
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        let length = receiver.read(&mut buffer).context("receiving")?;
        if length == 0 {
            break;
        }
        pattern.verify(received, &buffer[..length])?;
        received += length as u64;
    }
    sender.finish()?;
    ensure!(received == BYTES, "{received} bytes of {BYTES}");
    Ok(())
}

pub(super) fn streams(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _tagged = Tagged::new()?;
    transcript.does("A stream in a VLAN, with its tags left in");
    stream(1)?;
    transcript.does("A stream with its tags stripped");
    let stripping = Stripping::new(lab)?;
    stream(2)?;
    transcript.does("A stream that the device coalesces into aggregates");
    net::run(None, &["ethtool", "-K", "eth0", "rx-gro-hw", "on"])?;
    let coalesced = lab.counters("0")?;
    let result = stream(3);
    let after = lab.counters("0")?;
    net::run(None, &["ethtool", "-K", "eth0", "rx-gro-hw", "off"])?;
    result?;
    let more = |name: &str| {
        after
            .get(name)
            .zip(coalesced.get(name))
            .map(|(now, then)| now - then)
    };
    let aggregates = more("device_rx_gro_frames").context("no counter of aggregates")?;
    transcript.at_least("aggregates", aggregates, 1)?;
    drop(stripping);
    transcript.does("A stream with tags left in again");
    stream(4)?;
    Ok(())
}
