//! The driver under injected faults: `zcnic-guest faults`, whose cases are cases of ours. They
//! share one load of the driver, because each restores everything.

use super::test::{Kind::Zcnic, Run::Program, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "faults: the driver under injected faults, as a whole",
    run: Program(Zcnic, &["faults"]),
}];
