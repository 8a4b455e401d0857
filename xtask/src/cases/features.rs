//! The kernel's receive-path features: cases of `zcnic-guest`, which are cases of ours. Those of
//! one feature share one load of the driver, because each restores everything.

use anyhow::{Context, Result};
use zcnic_testbed::{
    agent::Exec,
    guest::{Driver, Guest as Machine},
    stream::{Flow, Stream},
};

use super::{
    rebind,
    test::{
        Kind::Zcnic,
        Run::{Guest, Program},
        Test, expect,
    },
    traffic::ENDLESS,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "features: zero-copy receive of io_uring, as a whole",
        run: Program(Zcnic, &["features", "zcrx: "]),
    },
    Test {
        name: "features: zcrx: the driver is removed under a program that has buffers",
        run: Guest(Zcnic, driver_removed),
    },
    Test {
        name: "features: devmem TCP, as a whole",
        run: Program(Zcnic, &["features", "devmem: "]),
    },
    Test {
        name: "features: payload that the CPU can't read, as a whole",
        run: Program(Zcnic, &["features", "unreadable: "]),
    },
    Test {
        name: "features: page pools of ordinary receive",
        run: Program(Zcnic, &["features", "page pool: "]),
    },
    Test {
        name: "features: TCP zero copy of sockets",
        run: Program(Zcnic, &["features", "tcp zero copy: "]),
    },
    Test {
        name: "features: provided buffers of io_uring",
        run: Program(Zcnic, &["features", "provided buffers: "]),
    },
    Test {
        name: "features: offloads of the NIC, as a whole",
        run: Program(Zcnic, &["features", "hardware: "]),
    },
    Test {
        name: "features: actions of XDP programs, as a whole",
        run: Program(Zcnic, &["features", "xdp: "]),
    },
];

fn driver_removed(guest: &mut Machine) -> Result<()> {
    let stream = Stream::default();
    stream.prepare(guest)?;
    let queue = format!("--queue={}", stream.queue);
    // It keeps 256 buffers, and more of its buffers are in sockets, in the refill ring and posted.
    let how = ["--interface=eth0", &queue, "--window=256"];
    let mut flow = Flow::start(guest, stream.port, ENDLESS, &how)?;
    flow.wait_for_progress()?;
    guest.check(&Exec::new(["rmmod", "zcnic"]))?;
    let eth0 = guest.run(&Exec::new(["ip", "link", "show", "eth0"]))?;
    expect(!eth0.status.success(), || {
        format!("eth0 is still there: {}", eth0.stdout)
    })?;
    // Data that had arrived is still received and verified, in buffers of the program.
    flow.wait_for_stall()?;
    flow.abort()?;
    // The driver's counters are gone; the kernel's page pools show whether all buffers returned.
    let gate = guest.run(&Exec::new(["zcnic-guest", "check", "--wait", "30"]))?;
    expect(gate.status.success(), || gate.stdout)?;
    guest.bring_up(Driver::Zcnic)?;
    rebind::zero_copy(guest).context("afterwards")
}
