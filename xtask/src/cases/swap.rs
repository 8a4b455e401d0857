//! Drivers that come and go on one and the same device.

use anyhow::Result;

use super::{End, GuestCase, ping};
use crate::{
    agent::Exec,
    guest::{Driver, Guest},
    stream::Stream,
};

pub(super) const CASES: &[GuestCase] = &[GuestCase {
    name: "zcnic, then virtio_net, then zcnic on the same ports",
    driver: Driver::Zcnic,
    end: End::Clean,
    run: swap,
}];

fn swap(guest: &mut Guest) -> Result<()> {
    ping(guest)?;
    unload(guest, "zcnic")?;
    guest.bring_up(Driver::VirtioNet)?;
    ping(guest)?;
    unload(guest, "virtio_net")?;
    guest.bring_up(Driver::Zcnic)?;
    ping(guest)?;
    let stream = Stream {
        bytes: 16 << 20,
        ..Stream::default()
    };
    super::zcrx::expect_good(&stream, &stream.run(guest)?)
}

fn unload(guest: &mut Guest, module: &str) -> Result<()> {
    guest.check(&Exec::new(["zcnic-guest", "ports", "down"]))?;
    guest.check(&Exec::new(["rmmod", module])).map(drop)
}
