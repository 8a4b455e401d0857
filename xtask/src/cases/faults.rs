//! The driver under fire: `zcnic-guest faults`, each of its cases a case of ours. They share a driver, too:
//! each leaves everything as it was.

use anyhow::Result;

use super::{
    Kind::Zcnic,
    Run::Program,
    Test,
    program::{self, News},
};
use crate::{agent::Exec, guest::Guest as Machine, report::Case};

pub(super) const TESTS: &[Test] = &[Test {
    name: "faults: the driver under fire, as a whole",
    run: Program(Zcnic, under_fire),
}];

fn under_fire(guest: &mut Machine, each: &mut dyn FnMut(Case)) -> Result<()> {
    let list = guest.check(&Exec::new(["zcnic-guest", "faults", "--list"]))?;
    let wanted: Vec<_> = list.lines().collect();
    program::run(guest, &["faults"], &wanted, &mut |news| {
        if let News::Ended(case) = news {
            each(case);
        }
    })
}
