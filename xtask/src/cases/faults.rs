//! The driver under fire: `zcnic-guest faults`, each of its cases a case of ours. They share a driver, too:
//! each leaves everything as it was.

use super::test::{Kind::Zcnic, Run::Program, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "faults: the driver under injected faults, as a whole",
    run: Program(Zcnic, &["faults"]),
}];
