//! Runs a test again in a process of its own, which enters the sandbox.

use std::{
    path::Path,
    process::{Command, Output},
    sync::mpsc,
};

use tempfile::TempDir;
use zcnic_backend::{Backend, Config, PortConfig, PortMode, SandboxMode, StartError};

/// Set in the environment of a test that has its process.
const INSIDE: &str = "ZCNIC_TEST_SANDBOX";

/// Runs `test`, called `name`, in a process of its own, and returns how that ended.
pub(crate) fn in_process(name: &str, test: impl FnOnce()) -> Option<Output> {
    if std::env::var_os(INSIDE).is_some() {
        test();
        return None;
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "")
        .env("RUST_BACKTRACE", "1")
        .output()
        .expect("it runs");
    Some(output)
}

/// Runs `test`, called `name`, in a process of its own, where it has to pass. Returns its standard
/// error.
pub(crate) fn passes_in_process(name: &str, test: impl FnOnce()) -> String {
    let Some(output) = in_process(name, test) else {
        return String::new();
    };
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{}: {out}{error}",
        output.status
    );
    error.into_owned()
}

/// A backend with one port in `directory`. Its thread, the caller's, is in the sandbox.
pub(crate) fn enter(mode: SandboxMode, directory: &Path) -> Result<Backend, StartError> {
    let config = Config {
        ports: vec![PortConfig {
            name: "0".into(),
            path: directory.join("socket"),
            mode: PortMode::Auto,
        }],
        sandbox: mode,
        ..Config::default()
    };
    Backend::start(&config, &mpsc::channel().0)
}

/// A directory that stays: nothing in the sandbox can remove it.
pub(crate) fn kept(directory: TempDir) -> std::path::PathBuf {
    directory.keep()
}
