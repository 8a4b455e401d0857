//! Drivers that are unloaded and loaded again.

use anyhow::{Context, Result};
use zcnic_testbed::{
    agent::Exec,
    guest::{Driver, Guest as Machine},
};

use super::{
    plain,
    test::{
        Kind::{TooFewQueues, Zcnic},
        Run::Guest,
        Test, expect,
    },
    traffic,
};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "rebind: zcnic, virtio_net and zcnic again, with traffic each time",
        run: Guest(Zcnic, back_and_forth),
    },
    Test {
        name: "rebind: zcnic logs which ports virtio_net has, and zcnic-bind takes them",
        run: Guest(Zcnic, take_from_virtio_net),
    },
    Test {
        name: "rebind: zcnic logs a port with too few queue pairs",
        run: Guest(TooFewQueues, too_few_queues),
    },
];

/// Makes zcnic.ko the driver of all ports of a guest.
const ZCNIC_BIND: &str = include_str!("../../../images/driver/bind/zcnic-bind");

/// Streams, and expects that nothing is copied.
pub(super) fn zero_copy(guest: &mut Machine) -> Result<()> {
    let (flow, counter) = traffic::zero_copy(guest, 64 << 20)?;
    traffic::nothing_copied(&flow.finish()?)?;
    traffic::only_split_on_the_queue(&counter)
}

fn back_and_forth(guest: &mut Machine) -> Result<()> {
    zero_copy(guest).context("before")?;
    guest.unload(Driver::Zcnic)?;
    guest.bring_up(Driver::VirtioNet)?;
    plain::ping(guest).context("with virtio_net")?;
    let mut flow = traffic::plain(guest)?;
    flow.wait_for_progress().context("with virtio_net")?;
    flow.abort()?;
    guest.unload(Driver::VirtioNet)?;
    guest.bring_up(Driver::Zcnic)?;
    zero_copy(guest).context("afterwards")
}

fn take_from_virtio_net(guest: &mut Machine) -> Result<()> {
    let bind = Exec::new(["sh", "-c", ZCNIC_BIND]);
    guest.unload(Driver::Zcnic)?;
    guest.load(Driver::VirtioNet)?;
    let refused = guest.run(&bind)?;
    expect(refused.stderr.contains("insmod zcnic.ko first"), || {
        format!("without zcnic.ko: {}", refused.stderr)
    })?;
    guest.sh("dmesg --clear")?;
    guest.load(Driver::Zcnic)?;
    let logged = guest.sh("dmesg")?;
    for interface in ["eth0", "eth1"] {
        let words = format!("zcnic: {interface} is a zcnic port that virtio_net drives");
        expect(logged.contains(&words), || logged.clone())?;
    }
    let printed = guest.check(&bind)?;
    expect(
        printed == "eth0: zcnic instead of virtio_net\neth1: zcnic instead of virtio_net\n",
        || printed.clone(),
    )?;
    let again = guest.check(&bind)?;
    expect(again.is_empty(), || again.clone())?;
    guest.check(&Exec::new(["rmmod", "virtio_net"]))?;
    guest.check(&Exec::new(["zcnic-guest", "ports", "up"]))?;
    zero_copy(guest)
}

fn too_few_queues(guest: &mut Machine) -> Result<()> {
    guest.load(Driver::Zcnic)?;
    let up = guest.run(&Exec::new(["zcnic-guest", "ports", "up"]))?;
    expect(
        !up.status.success() && up.stderr.contains("there is no port"),
        || format!("the ports came up: {}{}", up.stdout, up.stderr),
    )?;
    let printed = guest.sh("dmesg | grep zcnic | grep -i 'queue pair' || true")?;
    expect(!printed.trim().is_empty(), || {
        "the kernel's log has no reason".to_owned()
    })?;
    guest.check(&Exec::new(["rmmod", "zcnic"])).map(drop)
}
