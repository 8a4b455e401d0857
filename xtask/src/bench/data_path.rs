//! Runs the backend's benchmark `data_path`: port to port with a frontend of our own. It
//! interleaves its samples itself.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use zcnic_testbed::{
    backend::Programs,
    paths::{self, Installation},
    process::Running,
    sandbox::Sandbox,
    step::{run, step},
};

use super::{figure::Figure, method::Method};

/// The benchmark, and a build without the fault engine.
#[derive(Debug)]
pub(crate) struct Builds {
    whole: PathBuf,
    without_faults: PathBuf,
}

/// Compiles both, unless an installation has them.
pub(crate) fn build() -> Result<Builds> {
    if let Some(installation) = Installation::current() {
        return Ok(Builds {
            whole: installation.helper("data_path"),
            without_faults: installation.helper("data_path-without-faults"),
        });
    }
    step("build the benchmarks", || {
        Ok(Builds {
            whole: executable(&[])?,
            without_faults: executable(&["--features", "without-faults"])?,
        })
    })
}

/// A message of cargo about a file that it built.
#[derive(Deserialize)]
struct Message {
    target: Target,
    executable: PathBuf,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn executable(options: &[&str]) -> Result<PathBuf> {
    let mut cargo = paths::cargo();
    cargo
        .args(["bench", "--no-run", "--message-format=json"])
        .args(["-p", "zcnic-backend", "--bench", "data_path"])
        .args(options);
    run(&mut cargo)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find(|message| message.target.name == "data_path")
        .map(|message| message.executable)
        .context("cargo built no benchmark")
}

/// Runs the comparisons of `program` with these names; without names all.
fn figures(program: &Path, method: Method, names: &[&str]) -> Result<Vec<Figure>> {
    let [worker, frontend] = method.cpus.map(|cpu| cpu.to_string());
    let mut command = Command::new(program);
    command
        .arg(format!("--rounds={}", method.rounds))
        .arg(format!("--turn={}", method.sample.as_millis()))
        .args(["--cpus", &worker, &frontend, "--"])
        .args(names);
    let lines = run(method.priority.apply(&command).env_remove("RUST_BACKTRACE"))?;
    let figure = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    lines.lines().map(figure).collect()
}

/// Runs all comparisons.
pub(crate) fn measure(builds: &Builds, method: Method) -> Result<Vec<Figure>> {
    let mut all = figures(&builds.whole, method, &[])?;
    let forward = all.iter().position(|figure| figure.name == "forward");
    all.swap_remove(forward.context("no frames were forwarded")?);
    all.push(faults_unarmed(builds, method)?);
    Ok(all)
}

/// Compares the two builds, interleaved.
fn faults_unarmed(builds: &Builds, method: Method) -> Result<Figure> {
    let once = Method {
        rounds: 1,
        ..method
    };
    let sample = |program: &Path| -> Result<Figure> {
        let found = figures(program, once, &["forward"])?;
        found.into_iter().next().context("no frames were forwarded")
    };
    let mut figure = Figure {
        name: "faults_unarmed".to_owned(),
        unit: "frames/s".to_owned(),
        ..Figure::default()
    };
    for _ in 0..method.rounds {
        let first = sample(&builds.whole)?;
        figure.a.extend(first.a);
        figure.counters = first.counters;
        figure.b.extend(sample(&builds.without_faults)?.a);
        figure.again.extend(sample(&builds.whole)?.a);
    }
    Ok(figure)
}

/// Returns the bytes of resident memory that a port adds to a backend.
pub(crate) fn memory_per_port(programs: &Programs) -> Result<u64> {
    const MORE: u64 = 32;
    let resident = |ports: u64| -> Result<u64> {
        let sandbox = Sandbox::new()?;
        let program = sandbox.install(&programs.zcnic)?;
        let mut command = sandbox.command("zcnic", sandbox.directory(), &program)?;
        for number in 0..ports {
            let socket = sandbox.path(&format!("{number}.sock"));
            command.args(["--port", &format!("path={}", socket.display())]);
        }
        // The backend makes this socket last.
        let control = sandbox.path("control");
        command.arg("--control").arg(&control);
        let mut running = Running::start("zcnic", &mut command)?;
        running.wait_for_file(&control, Duration::from_secs(10))?;
        running.resident()
    };
    Ok((resident(1 + MORE)?.saturating_sub(resident(1)?)) / MORE)
}
