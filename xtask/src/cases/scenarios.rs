//! Kernel behaviours on demand: `zcnic-guest scenarios`, each of them a case of ours. They share a driver: each
//! leaves everything as it was.

use super::test::{Kind::Zcnic, Run::Program, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "scenarios: kernel behaviours on demand, as a whole",
    run: Program(Zcnic, &["scenarios", "--json"]),
}];
