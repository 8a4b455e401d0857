//! `cargo xtask package`: the Debian packages and the archive of a release.

mod deb;
mod programs;
mod third_party;
mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use zcnic_testbed::{
    paths,
    provision::host,
    step::{run as run_command, step},
};

use self::{deb::Deb, programs::Programs};

/// Make the Debian packages zcnic and zcnic-dkms, and an archive with the same files
///
/// Programs are static and built by the profile `dist`. Files have the time of the commit, or
/// SOURCE_DATE_EPOCH, so that a second run makes the same files. Outside git, ZCNIC_COMMIT names the
/// commit.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Write them here
    #[arg(long, value_name = "DIR", default_value = "dist")]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    fs::create_dir_all(&args.directory)
        .with_context(|| format!("cannot create {}", args.directory.display()))?;
    let made = make(&args.directory)?;
    for file in [&made.zcnic, &made.dkms, &made.archive] {
        println!("{}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of a release.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) zcnic: PathBuf,
    pub(crate) dkms: PathBuf,
    pub(crate) archive: PathBuf,
    /// What `--version` of the programs has behind their name.
    pub(crate) version: String,
}

/// What the files of a release say about it.
#[derive(Debug)]
struct Release {
    /// The workspace's version.
    version: &'static str,
    commit: String,
    /// The time of all files, in seconds since 1970.
    epoch: u64,
}

impl Release {
    fn read() -> Result<Self> {
        let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let commit = given("ZCNIC_COMMIT").or_else(paths::commit);
        let epoch = given("SOURCE_DATE_EPOCH").map_or_else(time_of_commit, Ok)?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: commit.unwrap_or_else(|| "unknown".to_owned()),
            epoch: epoch
                .trim()
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH is {epoch:?}, not a number"))?,
        })
    }

    /// Has a command write this release's time into archives.
    fn dated<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SOURCE_DATE_EPOCH", self.epoch.to_string())
    }

    /// Reads a file of `packaging`, with the version in place.
    fn template(&self, name: &str) -> Result<String> {
        Ok(read("packaging", name)?.replace("@VERSION@", self.version))
    }
}

fn time_of_commit() -> Result<String> {
    let mut git = host::command("git");
    git.arg("-C").arg(paths::workspace());
    run_command(git.args(["log", "-1", "--format=%ct"]))
        .context("the time of the release is unknown: set SOURCE_DATE_EPOCH to seconds since 1970")
}

/// Makes the packages and the archive in `directory`.
pub(crate) fn make(directory: &Path) -> Result<Made> {
    host::require_programs()?;
    let release = Release::read()?;
    let programs = Programs::build(&release)?;
    step("make packages and archive", || {
        let room = tempfile::tempdir()?;
        let zcnic = room.path().join("zcnic");
        let dkms = room.path().join("zcnic-dkms");
        tree::zcnic(&zcnic, &release, &programs)?;
        tree::dkms(&dkms, &release)?;
        tree::check_references(&zcnic.join("usr/share/man/man1"))?;
        Ok(Made {
            zcnic: Deb::zcnic(&zcnic, &release)?.build(directory)?,
            dkms: Deb::dkms(&dkms, &release)?.build(directory)?,
            archive: archive(&[&zcnic, &dkms], &release, directory)?,
            version: programs.version()?,
        })
    })
}

/// Packs `usr` of the trees as `zcnic-VERSION-x86_64`.
fn archive(trees: &[&Path], release: &Release, directory: &Path) -> Result<PathBuf> {
    let name = format!("zcnic-{}-x86_64", release.version);
    let path = directory.join(format!("{name}.tar.zst"));
    let room = tempfile::tempdir()?;
    let all = room.path().join(&name);
    for tree in trees {
        let mut copy = host::command("cp");
        copy.arg("-rT").arg(tree.join("usr")).arg(&all);
        run_command(&mut copy)?;
    }
    let mut tar = host::command("tar");
    tar.args(["--create", "--sort=name", "--format=gnu"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", release.epoch))
        .args(["--use-compress-program", "zstd -12 -T1"])
        .arg("--file")
        .arg(&path)
        .arg("-C")
        .arg(room.path())
        .arg(&name);
    run_command(&mut tar)?;
    Ok(path)
}

/// Reads a file of the workspace.
fn read(directory: &str, name: &str) -> Result<String> {
    let path = paths::workspace().join(directory).join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file of a tree, and the directories around it.
fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let Some(directory) = path.parent() else {
        bail!("{} is no file", path.display());
    };
    fs::create_dir_all(directory)?;
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
