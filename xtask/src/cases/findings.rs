//! Bugs of the kernel that docs/findings.md describes, shown on the kernel of the tests. A case
//! fails as soon as the kernel answers otherwise, because the document is wrong then.

use anyhow::{Context, Result};
use zcnic_testbed::{agent::Exec, guest::Guest as Machine, stream::Stream};

use super::{
    test::{Kind::Zcnic, Run::Guest, Test, expect},
    traffic,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "findings: NFQUEUE replaces coalesced payload that the CPU can't read by zeros",
        run: Guest(Zcnic, nfqueue),
    },
    Test {
        name: "findings: generic XDP that cuts off whole fragments leaks page pool pages",
        run: Guest(Zcnic, generic_adjust_tail),
    },
];

/// Accepts every packet of queue 7, without looking at it, and without NFQA_CFG_F_GSO.
const ACCEPT: &str = r#"
import socket, struct
PACKET, VERDICT, CONFIG = 0x300, 0x301, 0x302
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
netlink.bind((0, 0))
def send(kind, attribute, value):
    value += bytes(-len(value) % 4)
    body = struct.pack(">BBH", 0, 0, 7) + struct.pack("=HH", 4 + len(value), attribute) + value
    netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 1, 0, 0) + body)
send(CONFIG, 1, bytes([1, 0, 0, 0]))
send(CONFIG, 2, struct.pack(">IB", 0, 1))
print("ready", flush=True)
while True:
    data = netlink.recv(1 << 17)
    while data:
        length, kind = struct.unpack_from("=IH", data)
        if kind == PACKET:
            (number,) = struct.unpack_from(">I", data, 24)
            send(VERDICT, 2, struct.pack(">II", 1, number))
        data = data[length + 3 & ~3:]
"#;

fn nfqueue(guest: &mut Machine) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    let stream = Stream {
        bytes: BYTES,
        ..Stream::default()
    };
    stream.prepare(guest)?;
    let mut accept = guest.spawn(&Exec::new(["python3", "-c", ACCEPT]))?;
    accept.wait_for_line(|line| line == "ready")?;
    guest.sh("nft add table inet findings; \
         nft add chain inet findings input '{ type filter hook input priority 0; }'; \
         nft add rule inet findings input tcp dport 4433 queue to 7")?;
    guest.sh("ethtool -K eth0 gro off")?;
    let result = stream.start(guest)?.finish().context("without GRO")?;
    traffic::nothing_copied(&result)?;
    guest.sh("ethtool -K eth0 gro on")?;
    let answer = match stream.start(guest)?.finish() {
        Ok(result) => format!("{result:?}"),
        Err(error) => format!("{error:#}"),
    };
    guest.sh("nft delete table inet findings")?;
    accept.kill(9)?;
    expect(answer.contains("is 0x00"), || {
        format!("the receiver sees no zeros: {answer}")
    })
}

/// Pins a program that cuts 5000 bytes off the end of each frame.
const CUT: &str = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall(321, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result
def instruction(code, destination=0, immediate=0):
    return struct.pack("=BBhi", code, destination, 0, immediate)
# r2 = -5000; call bpf_xdp_adjust_tail; r0 = XDP_PASS; exit
program = ctypes.create_string_buffer(instruction(0xb7, 2, -5000) + instruction(0x85, 0, 65) +
                                      instruction(0xb7, 0, 2) + instruction(0x95))
license = ctypes.create_string_buffer(b"GPL")
BPF_PROG_TYPE_XDP, BPF_F_XDP_HAS_FRAGS = 6, 1 << 5
loaded = bpf(5, struct.pack("=IIQQIIQII", BPF_PROG_TYPE_XDP, 4, ctypes.addressof(program),
                            ctypes.addressof(license), 0, 0, 0, 0, BPF_F_XDP_HAS_FRAGS))
path = ctypes.create_string_buffer(b"/sys/fs/bpf/cut")
bpf(6, struct.pack("=QI", ctypes.addressof(path), loaded))
"#;

fn generic_adjust_tail(guest: &mut Machine) -> Result<()> {
    guest.sh("mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf")?;
    guest.check(&Exec::new(["python3", "-c", CUT]))?;
    guest.sh(
        "ip link add v0 mtu 9000 type veth peer name v1 mtu 9000; ip link set v1 netns peer; \
         ip addr add 198.18.0.1/30 dev v0; ip -n peer addr add 198.18.0.2/30 dev v1; \
         ip link set v0 up; ip -n peer link set v1 up; \
         ip netns exec peer ping -q -c 1 -W 5 198.18.0.1; \
         ip link set dev v0 xdpgeneric pinned /sys/fs/bpf/cut; \
         ip netns exec peer ping -q -c 5 -W 1 -s 8000 -M do 198.18.0.1 || true; \
         ip link del v0; rm /sys/fs/bpf/cut",
    )?;
    let problems = guest.gate()?;
    expect(
        problems
            .iter()
            .any(|problem| problem.contains("Bad page state")),
        || format!("no bad page: {problems:?}"),
    )
}
