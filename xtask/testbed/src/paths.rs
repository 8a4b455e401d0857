//! The workspace, and the cargo that builds it.

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
};

use crate::{provision::host, step::run};

/// Returns the root of the workspace that this crate was built from.
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}

/// Returns cargo's target directory for builds of the workspace.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |set| workspace().join(set))
}

/// Returns the commit of the workspace, with `-dirty` if it has changes; None outside a checkout.
pub fn commit() -> Option<String> {
    let described = run(host::command("git").arg("-C").arg(workspace()).args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]));
    Some(described.ok()?.trim().to_owned())
}

/// Returns a command for the cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = host::command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Returns a command for the running program, also after its file was replaced, as cargo does when it
/// builds the program again with other features.
pub fn this_program() -> Command {
    let mut command = Command::new(format!("/proc/{}/exe", process::id()));
    if let Some(name) = env::args_os().next() {
        command.arg0(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn this_program_runs_after_its_file_is_gone() {
        const GONE: &str = "ZCNIC_TEST_FILE_IS_GONE";
        const SELF: &str = "paths::tests::this_program_runs_after_its_file_is_gone";
        let run = |command: &mut Command| {
            command.args(["--exact", SELF, "--nocapture"]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        match env::var(GONE).as_deref() {
            // A copy removes itself and runs itself once more.
            Ok("no") => {
                fs::remove_file(env::current_exe().unwrap()).unwrap();
                print!("{}", run(this_program().env(GONE, "yes")));
            }
            Ok(_) => println!("still running"),
            Err(_) => {
                let directory = tempfile::tempdir().unwrap();
                let copy = directory.path().join("copy");
                fs::copy(env::current_exe().unwrap(), &copy).unwrap();
                let output = run(Command::new(&copy).env(GONE, "no"));
                assert!(output.contains("still running"), "{output}");
                assert!(!copy.exists());
            }
        }
    }
}
