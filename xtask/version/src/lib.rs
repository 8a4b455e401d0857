//! The version that a program prints: `0.1.0 (COMMIT, ABI 1)`. Build scripts of the crates with
//! programs call [`emit`].
//!
//! `COMMIT` ends in `-dirty` if any file that the program is made of differs from the commit. It is
//! the value of `ZCNIC_COMMIT` in the environment if there is one, and `unknown` outside git.

#![forbid(unsafe_code)]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The header that defines `ZCNIC_ABI_VERSION`.
const ABI: &str = include_str!("../../../images/driver/zcnic_abi.h");

/// Sets `ZCNIC_VERSION` for the crate whose build script calls this.
///
/// `crates` are the directories of the workspace's crates that the program is made of, relative to
/// its own crate, which is one of them: `.`. Cargo runs the build script again after an edit of
/// their sources, which compiles the crate again in any case, and after a commit.
///
/// # Panics
///
/// If called outside a build script.
pub fn emit(crates: &[&str]) {
    let variable = |name| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    println!("cargo::rerun-if-env-changed=ZCNIC_COMMIT");
    let commit = match env::var("ZCNIC_COMMIT") {
        Ok(commit) if !commit.is_empty() => commit,
        _ => {
            let own = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
            let sources = sources(&own, crates);
            watch(&sources);
            commit(&own, &sources).unwrap_or_else(|| "unknown".to_owned())
        }
    };
    let version = variable("CARGO_PKG_VERSION");
    println!(
        "cargo::rustc-env=ZCNIC_VERSION={version} ({commit}, ABI {})",
        abi()
    );
}

/// The version of the ABI between driver and device.
fn abi() -> &'static str {
    let value = ABI.lines().find_map(|line| {
        let rest = line.strip_prefix("#define ZCNIC_ABI_VERSION")?;
        rest.split_whitespace().next()
    });
    value.expect("zcnic_abi.h defines ZCNIC_ABI_VERSION")
}

/// The files and directories that the program is made of.
fn sources(own: &Path, crates: &[&str]) -> Vec<PathBuf> {
    let parts = crates
        .iter()
        .flat_map(|name| ["Cargo.toml", "build.rs", "src"].map(|part| own.join(name).join(part)));
    // The workspace's manifest has profiles and dependencies.
    let workspace = own
        .ancestors()
        .find(|directory| directory.join("Cargo.lock").exists());
    let whole = workspace.into_iter().flat_map(|directory| {
        let names = ["Cargo.toml", "Cargo.lock"];
        names.map(|name| directory.join(name))
    });
    parts.chain(whole).filter(|path| path.exists()).collect()
}

fn watch(paths: &[PathBuf]) {
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// The commit of the repository that `own` is in; `None` if it has no Cargo.toml there, as in a
/// source archive that is unpacked below another repository.
fn commit(own: &Path, sources: &[PathBuf]) -> Option<String> {
    git(own, &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let head = git(own, &["rev-parse", "HEAD"])?;
    // The log gets a line with each commit, whether the branch's file is packed or not.
    let files = ["HEAD", "logs/HEAD"].iter().filter_map(|name| {
        let path = own.join(git(own, &["rev-parse", "--git-path", name])?);
        path.exists().then_some(path)
    });
    watch(&files.collect::<Vec<_>>());
    let mut status = vec!["--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(sources.iter().filter_map(|path| path.to_str()));
    let changed = !git(own, &status)?.is_empty();
    Some(if changed { head + "-dirty" } else { head })
}

/// What git prints; `None` if it fails or is not installed.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_abi() {
        assert!(abi().parse::<u16>().is_ok(), "{}", abi());
    }

    #[test]
    fn a_directory_that_git_does_not_track_has_no_commit() {
        // The target directory is in a checkout, but not part of it.
        let untracked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        assert_eq!(commit(&untracked, &[]), None);
    }

    #[test]
    fn an_edit_makes_the_commit_dirty_and_another_file_does_not() {
        let directory = env::temp_dir().join(format!("zcnic-version-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("src")).unwrap();
        let run = |arguments: &[&str]| git(&directory, arguments).expect("git works");
        run(&["init", "--quiet"]);
        for file in ["Cargo.toml", "src/lib.rs", "README"] {
            std::fs::write(directory.join(file), "").unwrap();
        }
        run(&["add", "."]);
        let author = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
        run(&[&author[..], &["commit", "--quiet", "-m", "a"]].concat());
        let head = run(&["rev-parse", "HEAD"]);
        let sources = sources(&directory, &["."]);

        std::fs::write(directory.join("README"), "edited").unwrap();
        assert_eq!(commit(&directory, &sources), Some(head.clone()));
        std::fs::write(directory.join("src/new.rs"), "").unwrap();
        assert_eq!(commit(&directory, &sources), Some(head + "-dirty"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
