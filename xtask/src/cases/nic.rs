//! What a newcomer expects of any NIC: everything but TCP and UDP is readable on a provider's queue,
//! frames longer than the MTU don't arrive, counters don't go back, and LACP finds its partner.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine, stream::Stream};

use super::{
    ethtool::{all_statistics, statistic, statistics},
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic::{self, LinkWatch},
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "nic: ARP, neighbour discovery, ICMP and fragments arrive on a provider's queue",
        run: Guest(Zcnic, others_on_a_provider_queue),
    },
    Test {
        name: "nic: a device that splits them makes the driver drop, count and log them",
        run: Guest(Zcnic, split_at_any_header),
    },
    Test {
        name: "nic: TCP with 340 bytes of headers works on a provider's queue, and is counted",
        run: Guest(Zcnic, long_headers),
    },
    Test {
        name: "nic: the device drops frames longer than the MTU, not counting VLAN tags",
        run: Guest(Zcnic, mtu),
    },
    Test {
        name: "nic: no counter goes back when the backend is replaced",
        run: Guest(Zcnic, counters),
    },
    Test {
        name: "nic: a frequency of the PTP clock outlives a backend",
        run: Guest(Zcnic, clock),
    },
    Test {
        name: "nic: speed and duplex can be set, and LACP finds its partner",
        run: Guest(Zcnic, bonds),
    },
];

/// All features but `split-l4`.
const SPLIT_ANY: &str = "rx-csum,tx-csum,tso4,tso6,uso,rx-hash,split,rules,rss-contexts,\
                         rss-symmetric,gro,timestamp,vlan,coalesce,mtu";

/// Makes everything without a rule go to the queue that the stream's provider is bound to.
fn steer_all(guest: &mut Machine) -> Result<u32> {
    let queue = Stream::default().queue;
    guest.sh(&format!("ethtool -X eth0 start {queue} equal 1"))?;
    Ok(queue)
}

/// Pings eth0 from eth1 after both have forgotten each other. Returns whether it answered.
fn pings(guest: &mut Machine, options: &str) -> Result<bool> {
    let script = format!(
        "ip neigh flush dev eth0; ip -n peer neigh flush dev eth1; \
         ip netns exec peer ping -q -c 3 -W 2 {options}"
    );
    let ping = Exec::new(["sh", "-c", &script]);
    Ok(guest.run(&ping)?.status.success())
}

fn others_on_a_provider_queue(guest: &mut Machine) -> Result<()> {
    let (mut flow, _) = traffic::endless_zero_copy(guest)?;
    let queue = steer_all(guest)?;
    guest.sh(
        "ip link set eth0 mtu 9000; ip -n peer link set eth1 mtu 9000; \
         ip -6 addr replace 2001:db8::1/64 dev eth0 nodad; \
         ip -n peer -6 addr replace 2001:db8::2/64 dev eth1 nodad",
    )?;
    for options in [
        "192.0.2.1",
        "-s 1400 192.0.2.1",
        "-s 8972 -M do 192.0.2.1",
        "-s 20000 192.0.2.1",
        "2001:db8::1",
        "-s 8952 -M do 2001:db8::1",
        "-s 20000 2001:db8::1",
    ] {
        expect(pings(guest, options)?, || {
            format!("no answer to ping {options}")
        })?;
    }
    flow.wait_for_progress()?;
    traffic::nothing_copied(&flow.stop()?)?;
    let counters = [
        format!("q{queue}_device_rx_unsplit"),
        format!("q{queue}_device_rx_unsplit_too_long"),
        format!("q{queue}_device_rx_long_headers"),
        format!("q{queue}_rx_unreadable"),
    ];
    let [unsplit, rest @ ..] = statistics(guest, counters.each_ref().map(String::as_str))?;
    expect(unsplit > 7 && rest == [0; 3], || {
        format!("{unsplit} frames were not split; dropped, long, unreadable: {rest:?}")
    })
}

fn split_at_any_header(guest: &mut Machine) -> Result<()> {
    guest.sh(&format!(
        "zcnicctl --port 0 features --offer {SPLIT_ANY}; zcnicctl --port 0 reset"
    ))?;
    traffic::wait_for_answer(guest)?;
    guest.sh("dmesg --clear")?;
    let (mut flow, _) = traffic::endless_zero_copy(guest)?;
    let queue = steer_all(guest)?;
    expect(!pings(guest, "192.0.2.1")?, || {
        "ARP or ICMP arrived without its body".to_owned()
    })?;
    let dropped = statistic(guest, &format!("q{queue}_rx_unreadable"))?;
    expect(dropped > 1, || format!("{dropped} frames are counted"))?;
    let logged = guest.sh("dmesg | grep -c \"memory that the CPU can't read\"")?;
    expect(logged.trim() == "1", || {
        format!("{dropped} frames made {} lines", logged.trim())
    })?;
    // The stream's own neighbour is forgotten, too.
    guest.sh("ethtool -X eth0 equal 3")?;
    flow.wait_for_progress()?;
    traffic::nothing_copied(&flow.stop()?)?;
    guest.sh("zcnicctl --port 0 features --offer all").map(drop)
}

/// Sends with destination options of 264 bytes: IPv6, options and TCP with its own options are
/// longer than the 256 bytes that the device parses. (Unknown options that may be skipped; the
/// kernel refuses that much padding.)
const LONG_HEADERS: &str = r#"
import ctypes, os, socket, threading
BYTES = 1 << 20
listener = socket.create_server(("2001:db8::1", 5000), family=socket.AF_INET6)
if ctypes.CDLL(None, use_errno=True).setns(os.open("/run/netns/peer", os.O_RDONLY), 0):
    raise OSError(ctypes.get_errno(), "setns")
sender = socket.socket(socket.AF_INET6)
options = bytes([0, 32, 0x1e, 254]) + bytes(254) + bytes([0x1e, 4]) + bytes(4)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, options)
sender.settimeout(30)
sender.connect(("2001:db8::1", 5000))
data = bytes(range(256)) * (BYTES // 256)
threading.Thread(target=lambda: (sender.sendall(data), sender.close())).start()
receiver, _ = listener.accept()
receiver.settimeout(30)
got = b""
while part := receiver.recv(1 << 16):
    got += part
print("right" if got == data else f"{len(got)} bytes, or wrong ones")
"#;

fn long_headers(guest: &mut Machine) -> Result<()> {
    let (flow, _) = traffic::endless_zero_copy(guest)?;
    let queue = steer_all(guest)?;
    guest.sh("ip -6 addr replace 2001:db8::1/64 dev eth0 nodad; \
         ip -n peer -6 addr replace 2001:db8::2/64 dev eth1 nodad")?;
    let answer = guest.check(&Exec::new(["python3", "-c", LONG_HEADERS]))?;
    expect(answer.trim() == "right", || answer)?;
    traffic::nothing_copied(&flow.stop()?)?;
    let counted = statistic(guest, &format!("q{queue}_device_rx_long_headers"))?;
    expect(counted > 100, || format!("{counted} frames are counted"))
}

fn mtu(guest: &mut Machine) -> Result<()> {
    guest.sh("ip -n peer link set eth1 mtu 9000")?;
    expect(pings(guest, "-s 1472 -M do 192.0.2.1")?, || {
        "no answer to a ping of 1500 bytes".to_owned()
    })?;
    let before = statistic(guest, "device_rx_oversize")?;
    expect(!pings(guest, "-s 1473 -M do 192.0.2.1")?, || {
        "a frame longer than the MTU arrived".to_owned()
    })?;
    let dropped = statistic(guest, "device_rx_oversize")? - before;
    expect(dropped == 3, || format!("{dropped} frames are counted"))?;
    let errors = guest.sh("cat /sys/class/net/eth0/statistics/rx_length_errors")?;
    expect(errors.trim().parse() == Ok(before + dropped), || errors)?;

    guest.sh("ip link add link eth0 name eth0.7 type vlan id 7; \
         ip -n peer link add link eth1 name eth1.7 type vlan id 7; \
         ip addr add 192.0.7.1/24 dev eth0.7; ip -n peer addr add 192.0.7.2/24 dev eth1.7; \
         ip link set eth0.7 up; ip -n peer link set eth1.7 up")?;
    expect(pings(guest, "-s 1472 -M do 192.0.7.1")?, || {
        "no answer to a tagged ping of 1500 bytes".to_owned()
    })?;
    guest.sh("ip link del eth0.7; ip -n peer link del eth1.7; ip link set eth0 mtu 9000")?;
    expect(pings(guest, "-s 8972 -M do 192.0.2.1")?, || {
        "no answer to a ping of 9000 bytes".to_owned()
    })
}

/// Fails if a counter is lower than it was.
fn none_went_back(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Result<()> {
    for (name, before) in before {
        let after = after.get(name).context("a counter is gone")?;
        expect(after >= before, || {
            format!("{name}: {before}, then {after}")
        })?;
    }
    Ok(())
}

fn counters(guest: &mut Machine) -> Result<()> {
    const MISSED: &str = "cat /sys/class/net/eth0/statistics/rx_missed_errors";
    traffic::wait_for_answer(guest)?;
    guest.sh("ip netns exec peer ping -q -f -c 500 192.0.2.1")?;
    let first = all_statistics(guest)?;
    let missed = guest.sh(MISSED)?;
    expect(
        first["q0_device_tx_frames"] > 0 || first["q0_device_rx_frames"] > 0,
        || format!("the device counted nothing: {first:?}"),
    )?;
    let mut before = first;
    for _ in 0..2 {
        let mut link = LinkWatch::start(guest)?;
        guest.kill_backend()?;
        link.down()?;
        none_went_back(&before, &all_statistics(guest)?).context("without a backend")?;
        guest.restart_backend()?;
        link.up()?;
        traffic::wait_for_answer(guest)?;
        let after = all_statistics(guest)?;
        none_went_back(&before, &after).context("with another backend")?;
        expect(after["device_commands"] > before["device_commands"], || {
            "the new backend's commands are not counted".to_owned()
        })?;
        before = after;
    }
    let again = guest.sh(MISSED)?;
    expect(
        missed.trim().parse::<u64>()? <= again.trim().parse()?,
        || format!("missed frames: {missed}, then {again}"),
    )
}

/// Reads the clock of eth0 and the system's ten times, and prints the first's gain on the second
/// from the first to the last reading, in parts per million.
const GAIN: &str = r#"
import os, time
device = os.listdir("/sys/class/net/eth0/device/ptp")[0]
clock = (~os.open("/dev/" + device, os.O_RDWR) << 3) | 3
def read():
    return min(((b - a, p - (a + b) // 2, a) for a, p, b in
        ((time.monotonic_ns(), time.clock_gettime_ns(clock), time.monotonic_ns())
            for _ in range(20))))
_, first, start = read()
time.sleep(2)
_, last, end = read()
print(round((last - first) * 1e6 / (end - start)))
"#;

fn clock(guest: &mut Machine) -> Result<()> {
    // 50000 parts per million: more than what a busy host can hide.
    const SET: &str = r#"
import ctypes, os
device = os.listdir("/sys/class/net/eth0/device/ptp")[0]
clock = (~os.open("/dev/" + device, os.O_RDWR) << 3) | 3
class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("rest", ctypes.c_long * 40)]
libc = ctypes.CDLL(None, use_errno=True)
timex = Timex(modes=2, freq=50000 << 16)
if libc.clock_adjtime(clock, ctypes.byref(timex)) < 0:
    raise OSError(ctypes.get_errno(), "clock_adjtime")
"#;
    let gain = |guest: &mut Machine| -> Result<i64> {
        let gain = guest.check(&Exec::new(["python3", "-c", GAIN]))?;
        gain.trim().parse().context(gain)
    };
    let at_first = gain(guest)?;
    guest.check(&Exec::new(["python3", "-c", SET]))?;
    let faster = gain(guest)?;
    let mut link = LinkWatch::start(guest)?;
    guest.kill_backend()?;
    link.down()?;
    guest.restart_backend()?;
    link.up()?;
    traffic::wait_for_answer(guest)?;
    let still = gain(guest)?;
    let near = |gain: i64, wanted: i64| (gain - wanted).abs() < 20_000;
    expect(
        near(at_first, 0) && near(faster, 50_000) && near(still, 50_000),
        || format!("gains of {at_first}, {faster} and {still} parts per million"),
    )
}

fn bonds(guest: &mut Machine) -> Result<()> {
    let shown = guest.sh("ethtool eth0")?;
    expect(
        shown.contains("Speed: 100000Mb/s") && shown.contains("Duplex: Full"),
        || shown.clone(),
    )?;
    let shown = guest.sh("ethtool -s eth0 speed 25000 duplex full && ethtool eth0")?;
    expect(shown.contains("Speed: 25000Mb/s"), || shown.clone())?;
    guest.sh("ip netns exec peer ethtool -s eth1 speed 25000 duplex full")?;
    let make = |netns: &str, port: &str, address: &str| {
        format!(
            "ip {netns} link add bond0 type bond mode 802.3ad lacp_rate fast miimon 100; \
             ip {netns} link set {port} down; ip {netns} link set {port} master bond0; \
             ip {netns} link set bond0 up; ip {netns} addr add {address}/24 dev bond0;"
        )
    };
    guest.sh("modprobe bonding max_bonds=0")?;
    guest.sh(&make("", "eth0", "192.0.9.1"))?;
    guest.sh(&make("-n peer", "eth1", "192.0.9.2"))?;
    let found = guest.sh("for attempt in $(seq 60); do \
             partner=$(sed -n 's/.*Partner Mac Address: //p' /proc/net/bonding/bond0); \
             [ \"$partner\" != 00:00:00:00:00:00 ] && break; sleep 0.5; \
         done; cat /proc/net/bonding/bond0")?;
    expect(
        !found.contains("Partner Mac Address: 00:00:00:00:00:00") && found.contains("25000 Mbps"),
        || found.clone(),
    )?;
    let ping = "for attempt in $(seq 20); do \
                    ip netns exec peer ping -q -c 1 -W 1 192.0.9.1 && exit 0; \
                done; exit 1";
    guest.sh(ping).context("over the bonds")?;
    guest
        .sh("ip link del bond0; ip -n peer link del bond0; rmmod bonding")
        .map(drop)
}
