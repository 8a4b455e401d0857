//! Kernel behaviours on demand: `zcnic-guest scenarios`, each of them a case of ours. They share a driver: each
//! leaves everything as it was.

use anyhow::Result;

use super::{
    Kind::Zcnic,
    Run::Program,
    Test,
    program::{self, News},
};
use crate::{agent::Exec, guest::Guest as Machine, report::Case};

pub(super) const TESTS: &[Test] = &[Test {
    name: "scenarios: kernel behaviours on demand, as a whole",
    run: Program(Zcnic, on_demand),
}];

fn on_demand(guest: &mut Machine, each: &mut dyn FnMut(Case)) -> Result<()> {
    let list = guest.check(&Exec::new(["zcnic-guest", "scenarios", "--list"]))?;
    play(guest, &names(&list), &mut |news| {
        if let News::Ended(case) = news {
            each(case);
        }
    })
}

/// The names in a list of scenarios.
pub(crate) fn names(list: &str) -> Vec<&str> {
    let lines = list.lines();
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// Runs scenarios in a guest whose ports are up.
pub(crate) fn play(guest: &mut Machine, names: &[&str], each: &mut dyn FnMut(News)) -> Result<()> {
    let words = [&["scenarios", "--json"], names].concat();
    program::run(guest, &words, names, each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_name_and_a_title_per_line() {
        assert_eq!(names("a-b  A title\nc    Another\n"), ["a-b", "c"]);
    }
}
