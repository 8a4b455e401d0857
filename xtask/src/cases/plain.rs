//! The kernel's virtio_net against the same backend: zcnic as a plain multi-queue NIC.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use zcnic_testbed::{agent::Exec, guest::Guest as Machine};

use super::{
    test::{Kind::VirtioNet, Run::Guest, Test, expect},
    traffic,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "virtio_net: ping over IPv4 and IPv6",
        run: Guest(VirtioNet, ping),
    },
    Test {
        name: "virtio_net: iperf3 both ways over four queue pairs",
        run: Guest(VirtioNet, iperf3),
    },
    Test {
        name: "virtio_net: channels up and down under traffic",
        run: Guest(VirtioNet, channels),
    },
];

/// Seconds of iperf3.
const SECONDS: u32 = 3;

pub(super) fn ping(guest: &mut Machine) -> Result<()> {
    let driver = guest.sh("ethtool -i eth0 | sed -n 's/^driver: //p'")?;
    expect(driver.trim() == "virtio_net", || {
        format!("eth0 is driven by {driver}")
    })?;
    for (family, address) in [("-4", "192.0.2.2"), ("-6", "2001:db8::2")] {
        let ping = ["ping", family, "-c", "5", "-i", "0.2", "-W", "5", address];
        let printed = guest.check(&Exec::new(ping))?;
        expect(printed.contains(" 0% packet loss"), || printed)?;
    }
    Ok(())
}

fn iperf3(guest: &mut Machine) -> Result<()> {
    let channels = guest.sh("ethtool -l eth0 | sed -n 's/^Combined:[[:space:]]*//p'")?;
    expect(channels.split_whitespace().eq(["4", "4"]), || {
        format!("eth0 has {channels:?} channels (maximum, current)")
    })?;
    for direction in [None, Some("--reverse")] {
        let server = ["ip", "netns", "exec", "peer", "iperf3", "-s", "--one-off"];
        let server = Exec::new(server.into_iter().chain(["--forceflush"]));
        let mut server = guest.spawn(&server)?;
        server.wait_for_line(|line| line.contains("Server listening"))?;
        let seconds = SECONDS.to_string();
        let client = [
            "iperf3",
            "--json",
            "-c",
            "192.0.2.2",
            "-P",
            "4",
            "-t",
            &seconds,
        ];
        let printed = guest.check(&Exec::new(client.into_iter().chain(direction)))?;
        let ended = server.wait()?;
        expect(ended.status.success(), || {
            format!("iperf3's server: {}", ended.stderr)
        })?;
        let result: Value = serde_json::from_str(&printed).context("iperf3's result")?;
        let received = result["end"]["sum_received"]["bytes"].as_u64();
        // Far less than the slowest machine achieves; a stream that stops after one window is
        // below.
        expect(
            received.is_some_and(|bytes| bytes > 1_000_000 * u64::from(SECONDS)),
            || format!("iperf3 {direction:?} received only {received:?} bytes"),
        )?;
    }
    Ok(())
}

fn channels(guest: &mut Machine) -> Result<()> {
    let mut flow = traffic::plain(guest)?;
    for (eth0, eth1) in [(1, 4), (4, 1), (2, 2), (3, 4), (1, 1), (4, 4)] {
        guest.sh(&format!(
            "ethtool -L eth0 combined {eth0}; ip netns exec peer ethtool -L eth1 combined {eth1}"
        ))?;
        flow.wait_for_progress()
            .with_context(|| format!("with {eth0} channels of eth0 and {eth1} of eth1"))?;
    }
    flow.abort()?;
    let dead =
        guest.run(&Exec::new(["ping", "-c", "1", "192.0.2.2"]).timeout(Duration::from_secs(20)))?;
    expect(dead.status.success(), || dead.stdout)
}
