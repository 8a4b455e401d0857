//! Hardware GRO under Linux: large pages hold aggregates, and no frame is lost, invented or counted
//! twice.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zcnic_testbed::{
    agent::Exec,
    guest::Guest as Machine,
    stream::{Flow, Stream},
};

use super::{
    ethtool::{statistic, statistics},
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic::{self, LinkWatch},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "gro: a zero-copy stream into pages of 32 KiB, every byte and frame accounted for",
        run: Guest(Zcnic, large_pages),
    },
    Test {
        name: "gro: on and off under traffic, with and without header split",
        run: Guest(Zcnic, on_and_off),
    },
    Test {
        name: "gro: needs receive checksums, and comes back with the backend",
        run: Guest(Zcnic, depends),
    },
];

/// Attempts to read counters of driver and device that match: other frames arrive in between.
const ATTEMPTS: usize = 20;

fn large_pages(guest: &mut Machine) -> Result<()> {
    // Twice the area of the receiver.
    guest.sh("sysctl -q vm.nr_hugepages=32; ethtool -K eth0 rx-gro-hw on")?;
    let stream = Stream {
        bytes: 64 << 20,
        ..Stream::default()
    };
    stream.prepare(guest)?;
    // The device counts since its start, the driver since it was loaded.
    let names = [
        "q3_device_rx_gro_frames",
        "q3_device_rx_gro_wire_frames",
        "q3_device_rx_split",
    ];
    let ahead = device_ahead(guest)?;
    let before = statistics(guest, names)?;
    let counter = stream.count(guest)?;
    let how = ["--interface=eth0", "--queue=3", "--buf-len=32768"];
    let result = Flow::start(guest, stream.port, stream.bytes, &how)?.finish()?;
    expect(result.bytes_verified == stream.bytes, || {
        format!("not everything came: {result:?}")
    })?;
    traffic::nothing_copied(&result)?;
    let counts = counter.read(stream.queue)?;
    expect(counts.unsplit == 0 && counts.elsewhere == 0, || {
        format!("not all frames were split, on the right queue: {counts:?}")
    })?;

    let after = statistics(guest, names)?;
    let [frames, wire, split] = [0, 1, 2].map(|index| after[index] - before[index]);
    expect(counts.split == split, || {
        format!("{split} frames split, but {} of the flow", counts.split)
    })?;
    // An emulated sender queues much data at once, so that trains are long.
    expect(wire > 4 * frames && 2 * wire > split, || {
        format!("{split} segments, of which {wire} became {frames} frames")
    })?;
    let now = device_ahead(guest)?;
    expect(now == ahead, || {
        format!("driver and device count different frames or bytes: {ahead:?} before, {now:?} now")
    })
}

/// Returns the wire frames and bytes that the device counted more than the driver, once both are
/// idle.
fn device_ahead(guest: &mut Machine) -> Result<[u64; 2]> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let before = device_counts(guest)?;
        let link = guest.check(&Exec::new(["ip", "-json", "-s", "link", "show", "eth0"]))?;
        let link: Value = serde_json::from_str(&link).context("ip -json link")?;
        let received = &link[0]["stats64"]["rx"];
        let driver = [&received["packets"], &received["bytes"]].map(|n| n.as_u64().unwrap_or(0));
        let ahead = [0, 1].map(|index| before[index].wrapping_sub(driver[index]));
        if device_counts(guest)? == before && last == Some(ahead) {
            return Ok(ahead);
        }
        last = Some(ahead);
        thread::sleep(Duration::from_millis(50));
    }
    bail!("frames keep arriving")
}

/// Returns the frames and bytes that the device delivered, on all queues.
fn device_counts(guest: &mut Machine) -> Result<[u64; 2]> {
    let all = guest.check(&Exec::new(["ethtool", "-S", "eth0"]))?;
    let counters: BTreeMap<&str, u64> = all
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let sum = |suffix: &str| {
        let of_queues = counters.iter().filter(|(name, _)| name.ends_with(suffix));
        of_queues.map(|(_, value)| value).sum()
    };
    Ok([sum("_device_rx_frames"), sum("_device_rx_bytes")])
}

fn on_and_off(guest: &mut Machine) -> Result<()> {
    let mut flow = traffic::plain(guest)?;
    for split in ["on", "off"] {
        guest.sh(&format!("ethtool -G eth0 tcp-data-split {split}"))?;
        for gro in ["on", "off", "on", "off"] {
            guest.sh(&format!("ethtool -K eth0 rx-gro-hw {gro}"))?;
            flow.wait_for_progress()
                .with_context(|| format!("with GRO {gro} and split {split}"))?;
        }
    }
    flow.stop()?;
    let bad: Vec<u64> = (0..4)
        .map(|queue| statistic(guest, &format!("q{queue}_rx_bad_header")))
        .collect::<Result<_>>()?;
    expect(bad.iter().all(|count| *count == 0), || {
        format!("the driver found invalid receive headers: {bad:?}")
    })
}

fn depends(guest: &mut Machine) -> Result<()> {
    let is_on = |guest: &mut Machine| -> Result<bool> {
        let features = guest.check(&Exec::new(["ethtool", "-k", "eth0"]))?;
        Ok(features.lines().any(|line| line.trim() == "rx-gro-hw: on"))
    };
    expect(!is_on(guest)?, || "on without being asked for".to_owned())?;
    guest.sh("ethtool -K eth0 rx-gro-hw on")?;
    expect(is_on(guest)?, || "can't be switched on".to_owned())?;
    guest.sh("ethtool -K eth0 rx off")?;
    expect(!is_on(guest)?, || "on without checksums".to_owned())?;
    guest.sh("ethtool -K eth0 rx on rx-gro-hw on")?;
    expect(is_on(guest)?, || "can't be switched on again".to_owned())?;

    let mut flow = traffic::plain(guest)?;
    flow.wait_for_progress()?;
    let mut link = LinkWatch::start(guest)?;
    guest.kill_backend()?;
    link.down()?;
    guest.restart_backend()?;
    link.up()?;
    flow.wait_for_progress()?;
    flow.wait_for_progress()?;
    // The new backend counts from 0, and knows of GRO from the replay alone.
    let mut aggregates = 0;
    for queue in 0..4 {
        aggregates += statistic(guest, &format!("q{queue}_device_rx_gro_frames"))?;
    }
    expect(aggregates > 0, || {
        "the new backend coalesces nothing".to_owned()
    })?;
    flow.stop().map(drop)
}
