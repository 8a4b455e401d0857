//! The programs and cases that a command line names.

use anyhow::{Context, Result, bail};
use zcnic_results::program::file_name;
use zcnic_testbed::paths;

/// One run of a program: of all of its cases, or of one that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The program's path below the selftests' root.
    pub(crate) path: String,
    /// The case as it was named: its name, that of all of its variants, or a beginning and a `*`.
    pub(crate) case: Option<String>,
}

impl Job {
    /// Returns the job of a whole program.
    pub(crate) fn whole(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            case: None,
        }
    }

    /// Returns `file.py` or `file.py:case`.
    pub(super) fn name(&self) -> String {
        let file = file_name(&self.path);
        match &self.case {
            Some(case) => format!("{file}:{case}"),
            None => file.to_owned(),
        }
    }
}

/// Returns the jobs that `names` mean among the programs `all`: each is a path or a file name, and
/// `PROGRAM:CASE` is one case of it. Without names all programs in Python.
///
/// # Errors
///
/// If there is no such program, or its cases can't be selected.
pub(crate) fn select(all: &[String], names: &[String]) -> Result<Vec<Job>> {
    if names.is_empty() {
        let python = all.iter().filter(|test| test.ends_with(".py"));
        return Ok(python.map(|test| Job::whole(test)).collect());
    }
    names.iter().map(|name| job(all, name)).collect()
}

fn job(all: &[String], name: &str) -> Result<Job> {
    let (program, case) = match name.split_once(':') {
        Some((program, case)) => (program, Some(case)),
        None => (name, None),
    };
    let path = all
        .iter()
        .find(|test| *test == program || file_name(test) == program)
        .with_context(|| {
            let list = paths::invocation("kselftest --list");
            format!("no selftest is called {program}; `{list}` names them")
        })?;
    if case == Some("") {
        bail!("{name:?} has no case after the colon; {program}:NAME is wanted");
    }
    if case.is_some() && !path.ends_with(".py") {
        bail!("{name}: only programs in Python can run single cases");
    }
    Ok(Job {
        path: path.clone(),
        case: case.map(str::to_owned),
    })
}

/// Returns those of a program's `cases` that `wanted` means.
///
/// # Errors
///
/// If it means none; the error has the names of all.
pub(super) fn matching(program: &str, cases: &[String], wanted: &str) -> Result<Vec<String>> {
    let named = |matches: &dyn Fn(&str) -> bool| -> Vec<String> {
        cases.iter().filter(|case| matches(case)).cloned().collect()
    };
    let found = if let Some(beginning) = wanted.strip_suffix('*') {
        named(&|case| case.starts_with(beginning))
    } else if cases.iter().any(|case| case == wanted) {
        vec![wanted.to_owned()]
    } else {
        let variants = format!("{wanted}.");
        named(&|case| case.starts_with(&variants))
    };
    if found.is_empty() {
        bail!(
            "{program} has no case {wanted}; it has {}",
            cases.join(", ")
        );
    }
    Ok(found)
}

/// How often jobs run, and in which order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rounds {
    /// How often all jobs run; without end if it is None.
    pub(crate) count: Option<usize>,
    /// Whether the first job with a failed case is the last one.
    pub(crate) until_fail: bool,
    /// What the order of each round is made from; None keeps the order of the command line.
    pub(crate) seed: Option<u64>,
}

impl Rounds {
    /// Every job once, in order.
    pub(crate) const ONE: Self = Self {
        count: Some(1),
        until_fail: false,
        seed: None,
    };

    /// Returns the jobs of each round.
    pub(super) fn orders(self, jobs: &[Job]) -> impl Iterator<Item = Vec<Job>> {
        let mut random = self.seed.map(fastrand::Rng::with_seed);
        (0..self.count.unwrap_or(usize::MAX)).map(move |_| {
            let mut order = jobs.to_vec();
            if let Some(random) = &mut random {
                random.shuffle(&mut order);
            }
            order
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn all() -> Vec<String> {
        texts(&["drivers/net/queues.py", "drivers/net/hw/loopback.sh"])
    }

    #[test]
    fn tests_are_selected_by_file_name_and_python_ones_by_default() {
        assert_eq!(
            select(&all(), &[]).unwrap(),
            [Job::whole("drivers/net/queues.py")]
        );
        for name in ["loopback.sh", "drivers/net/hw/loopback.sh"] {
            let named = select(&all(), &texts(&[name])).unwrap();
            assert_eq!(named, [Job::whole("drivers/net/hw/loopback.sh")]);
        }
        assert!(select(&all(), &texts(&["queue"])).is_err());
    }

    #[test]
    fn a_colon_selects_a_case_of_a_python_program() {
        let jobs = select(&all(), &texts(&["queues.py:check_down", "queues.py"])).unwrap();
        assert_eq!(jobs[0].case.as_deref(), Some("check_down"));
        assert_eq!(jobs[1], Job::whole("drivers/net/queues.py"));
        let refusal = |name: &str| select(&all(), &texts(&[name])).unwrap_err().to_string();
        assert!(refusal("queues.py:").contains("has no case after the colon"));
        assert!(refusal("loopback.sh:loopback_test").contains("only programs in Python"));
        assert!(refusal("que.py:a").starts_with("no selftest is called que.py;"));
    }

    #[test]
    fn a_name_means_a_case_its_variants_or_a_beginning() {
        let cases = texts(&["a", "a.x", "b.x", "b.y", "ab"]);
        let found = |wanted: &str| matching("t.py", &cases, wanted);
        assert_eq!(found("a").unwrap(), ["a"]);
        assert_eq!(found("b").unwrap(), ["b.x", "b.y"]);
        assert_eq!(found("a*").unwrap(), ["a", "a.x", "ab"]);
        assert_eq!(
            found("c").unwrap_err().to_string(),
            "t.py has no case c; it has a, a.x, b.x, b.y, ab"
        );
        assert!(found("c*").is_err());
    }

    #[test]
    fn a_seed_gives_the_same_orders_again_and_loses_no_job() {
        let jobs: Vec<_> = (0..20).map(|n| Job::whole(&n.to_string())).collect();
        let rounds = Rounds {
            count: Some(3),
            seed: Some(7),
            ..Rounds::ONE
        };
        let orders: Vec<_> = rounds.orders(&jobs).collect();
        assert_eq!(orders.len(), 3);
        assert_eq!(orders, rounds.orders(&jobs).collect::<Vec<_>>());
        assert!(orders[0] != jobs && orders[0] != orders[1]);
        for mut order in orders {
            order.sort_by_key(|job| job.path.parse::<usize>().unwrap());
            assert_eq!(order, jobs);
        }
        assert_eq!(Rounds::ONE.orders(&jobs).collect::<Vec<_>>(), [jobs]);
    }
}
