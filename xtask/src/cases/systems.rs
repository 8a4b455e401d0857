//! The receive-side systems of the kernel: `zcnic-guest systems`, each of its cases a case of ours. Those of a system
//! share a driver: each leaves everything as it was.

use super::{Kind::Zcnic, Run::Program, Test, program};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "systems: zero-copy receive of io_uring, as a whole",
        run: Program(Zcnic, |guest, each| {
            program::all(guest, &["systems", "zcrx: "], each)
        }),
    },
    Test {
        name: "systems: payload that the CPU can't read, as a whole",
        run: Program(Zcnic, |guest, each| {
            program::all(guest, &["systems", "unreadable: "], each)
        }),
    },
];
