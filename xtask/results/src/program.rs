//! The run of one test program, and the table of several runs.

use serde::{Deserialize, Serialize};

use crate::report::{Case, Outcome};

/// The run of a test program.
#[derive(Clone, Debug)]
pub struct ProgramRun {
    /// The program's path below the selftests' root, or another name of a step.
    pub name: String,
    /// Which repetition it is, from 1; None if the program runs once.
    pub round: Option<usize>,
    /// From loading the driver to unloading it.
    pub seconds: f64,
    /// Its cases, in the order in which they ended.
    pub cases: Vec<Case>,
}

/// The number of a program's cases by outcome, as reports keep it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Score {
    /// The name of the run.
    pub name: String,
    /// Cases that passed.
    pub pass: usize,
    /// Cases that failed.
    pub fail: usize,
    /// Cases that were skipped.
    pub skip: usize,
    /// Cases that failed as expected.
    pub xfail: usize,
    /// Seconds of all.
    pub seconds: f64,
}

impl ProgramRun {
    /// Returns the name, with the repetition if there are several.
    pub fn title(&self) -> String {
        match self.round {
            Some(round) => format!("{} (round {round})", self.name),
            None => self.name.clone(),
        }
    }

    /// Returns the number of its cases with this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        let ended_so = self.cases.iter().filter(|case| case.outcome == outcome);
        ended_so.count()
    }

    /// Returns the numbers of all outcomes.
    pub fn score(&self) -> Score {
        Score {
            name: self.name.clone(),
            pass: self.count(Outcome::Pass),
            fail: self.count(Outcome::Fail),
            skip: self.count(Outcome::Skip),
            xfail: self.count(Outcome::Xfail),
            seconds: self.seconds,
        }
    }
}

impl Score {
    /// Returns the number of all cases.
    pub fn total(&self) -> usize {
        self.pass + self.fail + self.skip + self.xfail
    }

    /// Returns the sum of several scores under a new name.
    pub fn sum(name: &str, scores: &[Self]) -> Self {
        let sum = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        scores.iter().fold(sum, |sum, score| Self {
            name: sum.name,
            pass: sum.pass + score.pass,
            fail: sum.fail + score.fail,
            skip: sum.skip + score.skip,
            xfail: sum.xfail + score.xfail,
            seconds: sum.seconds + score.seconds,
        })
    }
}

/// Returns the last part of a selftest's path.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns all cases of all programs.
pub fn cases(runs: &[ProgramRun]) -> Vec<Case> {
    let cases = runs.iter().flat_map(|run| &run.cases);
    cases.cloned().collect()
}

/// Returns a score per program, with all repetitions of it, in the order in which they first ran.
pub fn scores(runs: &[ProgramRun]) -> Vec<Score> {
    let mut scores: Vec<Score> = Vec::new();
    for score in runs.iter().map(ProgramRun::score) {
        match scores.iter_mut().find(|known| known.name == score.name) {
            Some(known) => *known = Score::sum(&known.name, &[known.clone(), score]),
            None => scores.push(score),
        }
    }
    scores
}

/// Returns the cases of a command as runs, one per group of cases.
///
/// The text before `: ` in a case's name is its group (`bad input: …`), and so is the text before
/// `::` in that of a Rust test. Cases without either are those of `command`.
pub fn grouped(command: &str, cases: &[Case]) -> Vec<ProgramRun> {
    let mut runs: Vec<ProgramRun> = Vec::new();
    for case in cases {
        let group = case.name.split_once(": ").or(case.name.split_once("::"));
        let group = group.map_or(command, |(group, _)| group);
        let index = runs.iter().position(|run| run.name == group);
        let index = index.unwrap_or_else(|| {
            runs.push(ProgramRun {
                name: group.to_owned(),
                round: None,
                seconds: 0.0,
                cases: Vec::new(),
            });
            runs.len() - 1
        });
        runs[index].seconds += case.seconds;
        runs[index].cases.push(case.clone());
    }
    runs
}

/// Returns a table for people: a line per program, and one for their sum.
pub fn table(runs: &[ProgramRun]) -> String {
    let mut scores = scores(runs);
    scores.push(Score::sum("all", &scores));
    let width = scores.iter().map(|score| score.name.len()).max();
    let width = width.unwrap_or_default();
    let mut text = format!(
        "{:width$}  passed  failed  skipped  xfailed  total  seconds\n",
        "program"
    );
    for score in &scores {
        let Score {
            name,
            pass,
            fail,
            skip,
            xfail,
            seconds,
        } = score;
        let total = score.total();
        text.push_str(&format!(
            "{name:width$}  {pass:6}  {fail:6}  {skip:7}  {xfail:7}  {total:5}  {seconds:7.1}\n"
        ));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run with a case of each outcome, for the tests of the formats.
    pub(crate) fn program_run() -> ProgramRun {
        let case = |name: &str, outcome, detail: &str| Case {
            outcome,
            seconds: 1.5,
            ..Case::failed(name, detail.to_owned())
        };
        ProgramRun {
            name: "drivers/net/a.py".to_owned(),
            round: None,
            seconds: 7.25,
            cases: vec![
                case("a.py:good.tcp4", Outcome::Pass, ""),
                case(
                    "a.py:bad",
                    Outcome::Fail,
                    "# Check failed 1 != 2\nSubtest: none <&\u{1b}[31m",
                ),
                case("a.py:absent", Outcome::Skip, "no # such\nfeature"),
                case("a.py:known", Outcome::Xfail, "capacity"),
                case("a.py", Outcome::Fail, "exit status: 2"),
            ],
        }
    }

    #[test]
    fn the_table_counts_each_program_and_all() {
        let mut other = program_run();
        other.name = "b".to_owned();
        other.cases.truncate(1);
        let text = table(&[program_run(), other]);
        let words: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words[1],
            ["drivers/net/a.py", "1", "2", "1", "1", "5", "7.2"]
        );
        assert_eq!(words[2], ["b", "1", "0", "0", "0", "1", "7.2"]);
        assert_eq!(words[3], ["all", "2", "2", "1", "1", "6", "14.5"]);
    }

    #[test]
    fn repetitions_share_a_line_and_have_titles() {
        let rounds = [1, 2].map(|round| ProgramRun {
            round: Some(round),
            ..program_run()
        });
        let scores = scores(&rounds);
        assert_eq!(scores.len(), 1);
        assert_eq!((scores[0].pass, scores[0].fail), (2, 4));
        assert_eq!(rounds[1].title(), "drivers/net/a.py (round 2)");
    }

    #[test]
    fn cases_are_grouped_by_the_beginning_of_their_names() {
        let names = ["gro: a", "device::ring::b", "gro: c", "d"];
        let cases = names.map(|name| Case {
            seconds: 1.5,
            ..Case::failed(name, String::new())
        });
        let runs = grouped("test", &cases);
        let groups: Vec<_> = runs
            .iter()
            .map(|run| (run.name.as_str(), run.cases.len(), run.seconds))
            .collect();
        assert_eq!(
            groups,
            [("gro", 2, 3.0), ("device", 1, 1.5), ("test", 1, 1.5)]
        );
    }
}
