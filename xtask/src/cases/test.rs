//! A test: a sentence as its name, the guest that it needs, and its function.

use anyhow::{Result, bail};
use zcnic_testbed::{
    guest::{Driver, Guest},
    machine::Machine,
    setup::Setup,
};

use super::bug::Bug;

/// A test.
pub(super) struct Test {
    pub(super) name: &'static str,
    pub(super) run: Run,
}

/// The guest that a test needs, and its function.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Programs on the host.
    Host(fn(&Setup) -> Result<()>),
    /// A guest of this kind with its ports configured.
    Guest(Kind, fn(&mut Guest) -> Result<()>),
    /// A program in such a guest with cases of its own: all that `zcnic-guest` has under these
    /// words.
    Program(Kind, &'static [&'static str]),
    /// A guest of its own, with a seeded bug.
    Seeded(&'static Bug),
}

/// Kinds of guests, by their ports and driver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The usual ports and zcnic.ko.
    Zcnic,
    /// Four queue pairs per port, and virtio_net.
    VirtioNet,
    /// Ports with too few queue pairs for zcnic.ko; no driver is loaded.
    TooFewQueues,
}

impl Kind {
    pub(super) fn driver(self) -> Option<Driver> {
        match self {
            Self::Zcnic => Some(Driver::Zcnic),
            Self::VirtioNet => Some(Driver::VirtioNet),
            Self::TooFewQueues => None,
        }
    }

    pub(super) fn machine(self, setup: &Setup) -> Machine {
        let mut machine = setup.machine();
        let pairs = match self {
            Self::Zcnic => return machine,
            Self::VirtioNet => 4,
            Self::TooFewQueues => 1,
        };
        for port in &mut machine.ports {
            port.pairs = pairs;
        }
        machine
    }
}

/// Fails with `message` unless `holds`.
pub(super) fn expect(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { bail!(message()) }
}
