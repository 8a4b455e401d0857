//! `cargo xtask fuzz`: runs fuzz targets under libFuzzer, a fuzzer that is guided by coverage.
//!
//! The crate `libfuzzer-sys` has its source, so `Cargo.lock` pins it. The compiler's own coverage
//! pass instruments the code: stable Rust passes its options through to LLVM.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::value_parser;
use zcnic_testbed::{
    paths,
    provision::host,
    step::{describe, run_showing, step},
};

/// Run fuzz targets under libFuzzer, for the given time each
///
/// New inputs that reach more code are kept in target/fuzz-corpus. An input that fails is copied to the corpus in
/// fuzz/corpus, which the ordinary tests run over.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these targets, which are the directories of fuzz/corpus
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long to run each target
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// Processes that fuzz a target at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=256))]
    jobs: u32,
}

/// What libFuzzer needs to know of each branch and comparison.
const INSTRUMENTATION: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cforce-frame-pointers",
    "--cfg=fuzzing",
];

/// An input that takes so many seconds hangs.
const HANG: u32 = 25;
/// Inputs are no longer than these many bytes.
const MOST: u32 = 4096;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let corpora = paths::workspace().join("fuzz/corpus");
    let known = directories(&corpora)?;
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!(
            "{unknown:?} is no fuzz target; there are {}",
            known.join(", ")
        );
    }
    let program = build()?;
    let targets = if args.targets.is_empty() {
        &known
    } else {
        &args.targets
    };
    let mut failed = 0;
    for target in targets {
        let run = Run {
            target,
            program: &program,
            corpus: corpora.join(target),
            work: paths::target().join("fuzz-corpus").join(target),
        };
        failed += run.fuzz(args)?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn directories(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Compiles the fuzzer with all targets; returns its program.
fn build() -> Result<PathBuf> {
    if host::find_program("c++").is_none() {
        host::install(&["g++"])?;
    }
    // With a target, the flags are not those of build scripts.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = paths::cargo();
    cargo
        .args([
            "build",
            "--locked",
            "--package=zcnic-fuzz",
            "--features=libfuzzer",
        ])
        .args(["--profile=fuzz", "--target", &target])
        .env("RUSTFLAGS", INSTRUMENTATION.join(" "));
    step("compile the fuzzer", || run_showing(&mut cargo))?;
    Ok(paths::target().join(target).join("fuzz/zcnic-fuzz"))
}

/// A target to be fuzzed.
struct Run<'r> {
    target: &'r str,
    program: &'r Path,
    /// The inputs that are part of the repository.
    corpus: PathBuf,
    /// Where the fuzzer keeps what it finds.
    work: PathBuf,
}

impl Run<'_> {
    /// Fuzzes for the time; returns how many inputs failed.
    fn fuzz(&self, args: &Args) -> Result<usize> {
        let crashes = self.work.join("crashes");
        let inputs = self.work.join("inputs");
        for directory in [&crashes, &inputs] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        for old in directories(&crashes)? {
            fs::remove_file(crashes.join(old))?;
        }
        let mut fuzzer = Command::new(self.program);
        fuzzer
            .env("ZCNIC_FUZZ_TARGET", self.target)
            .arg(format!("-max_total_time={}", 60 * args.minutes))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(format!("-timeout={HANG}"))
            .arg(format!("-max_len={MOST}"))
            .arg("-use_value_profile=1")
            .args((args.jobs > 1).then(|| format!("-fork={}", args.jobs)))
            .args([&inputs, &self.corpus])
            .current_dir(&self.work)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = fuzzer
            .spawn()
            .with_context(|| format!("cannot run {}", describe(&fuzzer)))?;
        let output = child.stderr.take().context("the fuzzer has no output")?;
        let mut progress = Progress::default();
        for line in BufReader::new(output).split(b'\n') {
            progress.line(&String::from_utf8_lossy(&line?));
        }
        let status = child.wait()?;
        let found = directories(&crashes)?;
        println!(
            "{:10}  {:>12} executions  {:>6} edges  {:>5} inputs  {} failed",
            self.target,
            progress.executions,
            progress.edges,
            progress.inputs,
            found.len()
        );
        for name in &found {
            fs::copy(crashes.join(name), self.corpus.join(name))?;
            println!(
                "            fuzz/corpus/{}/{name}: cargo test -p zcnic-fuzz --test corpus {}",
                self.target, self.target
            );
        }
        ensure!(
            status.success() || !found.is_empty(),
            "{} ended with {status}:\n{}",
            describe(&fuzzer),
            progress.tail
        );
        if !found.is_empty() {
            println!("{}", progress.tail);
        }
        Ok(found.len())
    }
}

/// What libFuzzer's lines say.
#[derive(Default)]
struct Progress {
    executions: u64,
    edges: u64,
    inputs: u64,
    /// The end of the rest of its output: panics, and errors of its own.
    tail: String,
}

impl Progress {
    /// Takes a line. Those about progress are "#123 NEW cov: 45 ft: 67 corp: 8/9b …", with another
    /// word or none after the number.
    fn line(&mut self, line: &str) {
        let number = |text: &str| -> Option<u64> {
            let digits = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            text[..digits].parse().ok()
        };
        let behind = |key: &str| number(line.split_once(key)?.1);
        match line.strip_prefix('#').and_then(number) {
            Some(executions) if line.contains(" cov: ") => {
                self.executions = self.executions.max(executions);
                self.edges = self.edges.max(behind(" cov: ").unwrap_or(0));
                self.inputs = behind(" corp: ").unwrap_or(self.inputs);
            }
            _ if line.starts_with("INFO: ") || line.starts_with("WARNING: ") => {}
            _ => {
                const KEPT: usize = 4000;
                self.tail.push_str(line);
                self.tail.push('\n');
                if self.tail.len() > 2 * KEPT {
                    let cut = self.tail.ceil_char_boundary(self.tail.len() - KEPT);
                    self.tail.drain(..cut);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_both_kinds_of_lines() {
        let mut progress = Progress::default();
        for line in [
            "INFO: Seed: 1086960001",
            "#2\tINITED cov: 8 ft: 8 corp: 1/1b exec/s: 0 rss: 27Mb",
            "#4194304\tpulse  cov: 11 ft: 12 corp: 4/13b lim: 4096 exec/s: 2097152 rss: 27Mb",
            "thread '<unnamed>' panicked at fuzz/src/frames.rs:1:1:",
        ] {
            progress.line(line);
        }
        let numbers = (progress.executions, progress.edges, progress.inputs);
        assert_eq!(numbers, (4_194_304, 11, 4));
        assert_eq!(progress.tail.lines().count(), 1);
        progress.line(
            "#5000000: cov: 20 ft: 30 corp: 7 exec/s 9000 oom/timeout/crash: 0/0/0 time: 5s job: 1",
        );
        let numbers = (progress.executions, progress.edges, progress.inputs);
        assert_eq!(numbers, (5_000_000, 20, 7));
    }
}
