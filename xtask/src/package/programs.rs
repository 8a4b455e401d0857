//! The programs of a release, static, by the profile `dist`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use zcnic_testbed::{
    paths,
    step::{run, step},
};

use super::Release;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The built programs.
#[derive(Debug)]
pub(super) struct Programs {
    directory: PathBuf,
}

impl Programs {
    pub(super) fn build(release: &Release) -> Result<Self> {
        let target = paths::target().join("dist");
        let directory = target.join(TARGET).join("dist");
        let cargo = |what: &[&str]| {
            let mut cargo = paths::cargo();
            cargo
                .args(["build", "--locked", "--quiet", "--profile", "dist"])
                .args(["--target", TARGET, "--target-dir"])
                .arg(&target)
                .args(what)
                .env("RUSTFLAGS", flags())
                .env("ZCNIC_COMMIT", &release.commit)
                .env("ZCNIC_PACKAGE", "yes");
            run(&mut cargo)
        };
        step("build the programs of a release", || {
            let programs = [
                "--workspace",
                "--bin=zcnic",
                "--bin=zcnicctl",
                "--bin=zcnic-guest",
                "--bin=zcnic-lab",
            ];
            cargo(&programs).map(drop)
        })?;
        let programs = Self { directory };
        for (name, features) in [
            (
                "data_path-without-faults",
                &["--features=without-faults"][..],
            ),
            ("data_path", &[]),
        ] {
            let bench = ["-p", "zcnic-backend", "--bench=data_path"];
            let json = ["--message-format=json"];
            let messages = step(&format!("build {name}"), || {
                cargo(&[&bench[..], &json, features].concat())
            })?;
            fs::copy(executable(&messages)?, programs.directory.join(name))?;
        }
        Ok(programs)
    }

    /// The path of a program.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command that runs one.
    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(self.path(name))
    }

    /// What the programs print behind their name.
    pub(super) fn version(&self) -> Result<String> {
        let line = run(self.command("zcnic").arg("--version"))?;
        let version = line.trim().split_once(' ');
        Ok(version.context("zcnic has no version")?.1.to_owned())
    }
}

/// No path of this machine is in the programs.
fn flags() -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let remap = |from: &Path, to: &str| format!(" --remap-path-prefix={}={to}", from.display());
    let mut flags = "-C target-feature=+crt-static".to_owned();
    flags += &remap(paths::workspace(), "/usr/src/zcnic");
    if let Some(home) = home {
        flags += &remap(&home, "/cargo");
    }
    flags
}

/// The benchmark among the files that cargo's messages name.
fn executable(messages: &str) -> Result<String> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "data_path")
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .context("cargo built no benchmark")
}
