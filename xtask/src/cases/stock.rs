//! The kernel's own virtio_net on the same ports.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{End, GuestCase, expect, ping};
use crate::{
    agent::Exec,
    guest::{Driver, Guest},
};

pub(super) const CASES: &[GuestCase] = &[GuestCase {
    name: "stock virtio_net: ping, iperf3 both ways, channels changed under traffic",
    driver: Driver::VirtioNet,
    end: End::Clean,
    run: stock,
}];

fn stock(guest: &mut Guest) -> Result<()> {
    guest.sh("ethtool -L eth0 combined 4")?;
    guest.sh("ip netns exec peer ethtool -L eth1 combined 4")?;
    ping(guest)?;
    let mut server =
        guest.spawn(&Exec::new(["iperf3", "--server", "--forceflush"]).timeout(None))?;
    server.wait_for_line(|line| line.contains("listening"))?;
    for direction in ["", "--reverse"] {
        expect_traffic(&guest.sh(&client(3, direction))?)?;
    }
    for direction in ["", "--reverse"] {
        let traffic = Exec::shell(&client(8, direction)).timeout(Duration::from_secs(120));
        let traffic = guest.spawn(&traffic)?;
        for channels in [1, 3, 2, 4] {
            guest.sh(&format!("ethtool -L eth0 combined {channels}"))?;
            let now = guest.sh("ethtool -l eth0 | tail -n1")?;
            expect(now.contains(&channels.to_string()), || {
                format!("{channels} set, but {now}")
            })?;
            guest.sh("ping -c 1 -W 5 192.0.2.2")?;
        }
        let finished = traffic.wait()?;
        expect(finished.status.success(), || {
            format!("iperf3 ended with {}: {}", finished.status, finished.stdout)
        })?;
        expect_traffic(&finished.stdout)?;
    }
    ping(guest)
}

fn client(seconds: u32, direction: &str) -> String {
    format!(
        "ip netns exec peer iperf3 --client 192.0.2.1 --parallel 4 --time {seconds} --json {direction}"
    )
}

/// iperf3 has moved more than a trickle.
fn expect_traffic(json: &str) -> Result<()> {
    let report: Value = serde_json::from_str(json).with_context(|| format!("iperf3: {json}"))?;
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    expect(received > 10 << 20, || {
        format!("iperf3 received {received} bytes")
    })
}
