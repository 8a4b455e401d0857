//! Kernel behaviours on demand: `zcnic-guest scenarios`, whose cases are cases of ours. They share
//! one load of the driver, because each restores everything.

use super::test::{Kind::Zcnic, Run::Program, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "scenarios: kernel behaviours on demand, as a whole",
    run: Program(Zcnic, &["scenarios", "--json"]),
}];
