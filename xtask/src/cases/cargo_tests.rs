//! The tests that need no guest: runs `cargo test` over the workspace, and reads its output as
//! cases.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use zcnic_results::report::{Case, Outcome, Report};
use zcnic_testbed::{paths, provision::host};

/// The program that some tests call besides those of a base system, and its Debian package.
const STRACE: &str = "strace";

/// The beginning of the names of test files with attacks on the backend: a filter with this name
/// runs these files only, so that no other one is compiled.
const HOSTILE: &str = "hostile";

/// Runs the tests whose name contains `filter`, and those of test files whose name does, since a
/// test's full name begins with its file's.
pub(crate) fn run(filter: Option<&str>, report: &mut Report) -> Result<()> {
    if host::find_program(STRACE).is_none() {
        host::install(&[STRACE])?;
    }
    let start = Instant::now();
    let alone = filter == Some(HOSTILE);
    let mut cases = if alone {
        Vec::new()
    } else {
        cargo_test(filter.as_slice())?
    };
    if let Some(filter) = filter.filter(|filter| names_a_file(filter)) {
        for case in cargo_test(&["--test", &format!("*{filter}*")])? {
            if cases.iter().all(|known| known.name != case.name) {
                cases.push(case);
            }
        }
    }
    eprintln!("{:6.1}s  cargo test", start.elapsed().as_secs_f64());
    report.cases.append(&mut cases);
    Ok(())
}

/// Returns whether the name of any test file contains `filter`; without one cargo fails.
fn names_a_file(filter: &str) -> bool {
    let rooms = fs::read_dir(paths::workspace())
        .into_iter()
        .flatten()
        .flatten();
    let files = rooms.flat_map(|room| fs::read_dir(room.path().join("tests")));
    files.flatten().flatten().any(|file| {
        let is_room = file.path().join("main.rs").exists();
        let name = file.file_name();
        let name = name
            .to_str()
            .filter(|_| is_room)
            .or_else(|| name.to_str()?.strip_suffix(".rs"));
        name.is_some_and(|name| name.contains(filter))
    })
}

/// Runs `cargo test --workspace`, passes its output on, and returns a case per test.
///
/// libtest's stable output has a line `test NAME ... ok` per test and the name of the test binary
/// before each batch. Text in between is shown but not kept.
fn cargo_test(which: &[&str]) -> Result<Vec<Case>> {
    let mut command = paths::cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(which);
    // Cargo names the test binary on standard error; the shell merges both streams in order.
    let mut child = host::command("sh")
        .args(["-c", r#"exec "$@" 2>&1"#, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;

    let mut reader = Reader::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        reader.line(&line);
    }
    let status = child.wait()?;
    let failed = reader
        .cases
        .iter()
        .any(|case| case.outcome == Outcome::Fail);
    if !status.success() && !failed {
        bail!("cargo test ended with {status} without a failed test (does everything build?)");
    }
    Ok(reader.cases)
}

/// Turns libtest's output into cases.
#[derive(Default)]
struct Reader {
    binary: String,
    cases: Vec<Case>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("Running ") {
            // "Running unittests src/lib.rs (target/debug/deps/zcnic_device-0123456789abcdef)"
            let file = rest
                .rsplit(['/', '('])
                .next()
                .unwrap_or(rest)
                .trim_end_matches(')');
            self.binary = file
                .rsplit_once('-')
                .map_or(file, |(name, _)| name)
                .to_owned();
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.binary = format!("{name} (doc)");
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, verdict)) = rest.rsplit_once(" ... ")
        {
            let outcome = match verdict {
                "ok" => Outcome::Pass,
                "FAILED" => Outcome::Fail,
                _ if verdict.starts_with("ignored") => Outcome::Skip,
                _ => return,
            };
            let detail = if outcome == Outcome::Pass {
                ""
            } else {
                verdict
            };
            self.cases.push(Case {
                name: format!("{}::{name}", self.binary),
                outcome,
                seconds: 0.0,
                detail: detail.to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_output_becomes_cases() {
        let mut reader = Reader::default();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/zcnic_device-0123456789abcdef)",
            "running 3 tests",
            "test rss::published_vectors ... ok",
            "test parse::vlan ... FAILED",
            "test slow ... ignored, takes an hour",
            "   Doc-tests zcnic_device",
            "test device/src/lib.rs - memory (line 5) ... ok",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            reader.line(line);
        }
        let found: Vec<_> = reader
            .cases
            .iter()
            .map(|case| (case.name.as_str(), case.outcome))
            .collect();
        assert_eq!(
            found,
            [
                ("zcnic_device::rss::published_vectors", Outcome::Pass),
                ("zcnic_device::parse::vlan", Outcome::Fail),
                ("zcnic_device::slow", Outcome::Skip),
                (
                    "zcnic_device (doc)::device/src/lib.rs - memory (line 5)",
                    Outcome::Pass
                ),
            ]
        );
        assert_eq!(reader.cases[2].detail, "ignored, takes an hour");
    }
}
