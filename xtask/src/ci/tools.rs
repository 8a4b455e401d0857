//! The programs in `.ci/tools.txt`: wheels from PyPI, pinned by hash, installed into the cache. They come
//! compiled, so that a machine without them is ready in seconds.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use zcnic_testbed::{
    paths,
    provision::{
        cache::{Cache, Entry, Key},
        host,
    },
    step::{download, output, run},
};

use super::parts::Tool;

/// Where they are listed, in the workspace.
const LIST: &str = ".ci/tools.txt";

/// The installed programs.
pub(super) struct Tools {
    home: Entry,
}

impl Tools {
    /// Installs them unless the cache has them.
    pub(super) fn ensure() -> Result<Self> {
        let cache = Cache::open()?;
        let list = paths::workspace().join(LIST);
        let pip = || {
            let mut pip = host::command("python3");
            pip.args(["-m", "pip", "--disable-pip-version-check"]);
            pip
        };
        let works =
            |mut pip: Command| output(pip.arg("--version")).is_ok_and(|it| it.status.success());
        if !works(pip()) {
            host::install(&["python3", "python3-pip"])?;
        }
        // Some wheels are of one version of Python.
        let python = run(host::command("python3").arg("--version"))?;
        let key = Key::new("ci-tools 1").text(python.trim()).file(&list)?;
        let home = cache.entry("ci-tools", &key, |directory| {
            let mut pip = pip();
            pip.args(["install", "--quiet", "--require-hashes", "--no-deps"])
                .args(["--only-binary=:all:", "--root-user-action=ignore"])
                .arg("--requirement")
                .arg(&list)
                .arg("--target")
                .arg(directory);
            download("install CI's programs from PyPI", || {
                run(&mut pip).map(drop)
            })
            .with_context(|| format!("{LIST} can't be installed"))
        })?;
        Ok(Self { home })
    }

    /// A command that runs `tool` in the workspace.
    pub(super) fn command(&self, tool: Tool) -> Command {
        let program = |name: &str| Command::new(self.home.join("bin").join(name));
        let mut command = match tool {
            Tool::CargoDeny => program("cargo-deny"),
            Tool::Typos => program("typos"),
            Tool::Zizmor => program("zizmor"),
            // Its script in bin names a Python by the place where it was installed.
            Tool::CheckJsonschema => {
                let mut python = host::command("python3");
                python.args(["-m", "check_jsonschema"]);
                python
            }
        };
        let home: &Path = &self.home;
        command
            .current_dir(paths::workspace())
            .env("PYTHONPATH", home);
        command
    }
}
