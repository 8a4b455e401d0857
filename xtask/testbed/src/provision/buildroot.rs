//! Debian trixie trees to compile in: the driver and the selftests never use the host's compiler,
//! headers or C library.
//!
//! A build root is unpacked packages. None of their scripts run, so making one takes no privileges
//! and leaves files that belong to the caller; compilers do not need the scripts. Commands run in
//! it under bubblewrap: the tree read-only, a working directory, a fresh `/proc` (objtool of Linux
//! 7.2 and later reads its stack limit there), and no network unless they ask for the host's.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result};

use crate::{
    provision::{
        archive::{Archive, RELEASE, unpack, versions},
        cache::{Cache, Entry, Key},
        host,
    },
    step::step,
};

/// Bump when this file makes something else of the same packages.
const RECIPE: &str = "buildroot 1";

/// Packages that every makefile takes for granted.
const BASE: [&str; 11] = [
    "base-files",
    "bash",
    "binutils",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "make",
    "mawk",
    "sed",
];

/// The path at which a command finds its working directory.
pub const WORK: &str = "/mnt/work";

/// A directory of the host that a command sees.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    from: &'a Path,
    to: &'static str,
    option: &'static str,
}

impl<'a> Bind<'a> {
    /// Makes `from` visible at `to`, which is below `/mnt`, for reading.
    pub fn read(from: &'a Path, to: &'static str) -> Self {
        let option = "--ro-bind";
        Self { from, to, option }
    }

    /// As [`Self::read`], for writing too.
    pub fn write(from: &'a Path, to: &'static str) -> Self {
        let option = "--bind";
        Self { from, to, option }
    }
}

/// A tree with a compiler; clones share it.
#[derive(Clone, Debug)]
pub struct BuildRoot {
    entry: Arc<Entry>,
}

/// The content of a build root besides the base packages.
#[derive(Debug, Default)]
pub struct Recipe<'a> {
    /// The kind of the cache entry.
    pub kind: &'static str,
    /// Names of packages; their dependencies are added.
    pub packages: &'a [&'a str],
    /// Package files that are already here. Their dependencies are added; a kernel's headers name
    /// the compiler that the kernel was built with.
    pub local: &'a [PathBuf],
    /// Packages as `name/suite`, unpacked over the rest without dependencies.
    pub newer: &'a [&'a str],
}

impl BuildRoot {
    /// Finds or makes the tree; `what` is its progress line.
    pub fn ensure(cache: &Cache, recipe: &Recipe<'_>, what: &str) -> Result<Self> {
        let mut key = Key::new(RECIPE);
        for name in recipe.packages.iter().chain(recipe.newer) {
            key = key.text(name);
        }
        for deb in recipe.local {
            key = key.text(deb.file_name().unwrap_or_default().to_string_lossy());
        }
        let entry = cache.entry(recipe.kind, &key, |directory| {
            let archive = Archive::open(cache)?;
            step(what, || make(&archive, recipe, directory))
        })?;
        Ok(Self {
            entry: Arc::new(entry),
        })
    }

    /// Returns the tree's directory.
    pub fn tree(&self) -> PathBuf {
        self.entry.join("tree")
    }

    /// Returns the version of `package` in the tree.
    pub fn version(&self, package: &str) -> Option<String> {
        let listed = fs::read_to_string(self.entry.join("versions")).ok()?;
        let found = listed
            .lines()
            .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == package));
        found.map(|(_, version)| version.to_owned())
    }

    /// Returns a command that runs `program` in the tree, with `work` as [`WORK`], writable and the
    /// current directory.
    pub fn command(&self, work: &Path, program: impl AsRef<OsStr>) -> Command {
        self.command_among(&[Bind::write(work, WORK)], program)
    }

    /// Returns a command that runs `program` in the tree with these directories, the first of which
    /// is the current one.
    pub fn command_among(&self, binds: &[Bind<'_>], program: impl AsRef<OsStr>) -> Command {
        self.sandboxed(binds, None, program.as_ref())
    }

    /// As [`Self::command_among`], in the host's network.
    pub fn command_in_network(&self, binds: &[Bind<'_>], program: impl AsRef<OsStr>) -> Command {
        self.sandboxed(binds, Some("--share-net"), program.as_ref())
    }

    fn sandboxed(&self, binds: &[Bind<'_>], option: Option<&str>, program: &OsStr) -> Command {
        let mut command = host::command("bwrap");
        command
            .arg("--ro-bind")
            .args([self.tree(), PathBuf::from("/")])
            .args(["--tmpfs", "/mnt"]);
        for Bind { from, to, option } in binds {
            command.arg(option).arg(from).arg(to);
        }
        command
            .args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"])
            .args(["--unshare-all", "--die-with-parent", "--new-session"])
            .args(option)
            .args(
                binds
                    .first()
                    .map(|bind| ["--chdir", bind.to])
                    .into_iter()
                    .flatten(),
            )
            .arg("--clearenv")
            .args(["--setenv", "PATH", "/usr/bin:/usr/sbin"])
            .args(["--setenv", "HOME", "/tmp"])
            .args(["--setenv", "LC_ALL", "C.UTF-8"])
            .arg(program);
        command
    }
}

fn make(archive: &Archive, recipe: &Recipe<'_>, directory: &Path) -> Result<()> {
    let scratch = directory.join("scratch");
    let local: Vec<_> = recipe
        .local
        .iter()
        .map(|deb| deb.to_str().context("a package's path is not UTF-8"))
        .collect::<Result<_>>()?;
    let wanted = [&BASE, recipe.packages, &local].concat();
    let mut debs = archive.fetch_closure(&wanted, RELEASE, &scratch)?;
    // Local packages that the archive no longer has are not among the downloads.
    for deb in recipe.local {
        if !debs
            .iter()
            .any(|other| other.file_name() == deb.file_name())
        {
            debs.push(deb.clone());
        }
    }
    if !recipe.newer.is_empty() {
        let newer = directory.join("newer");
        fs::create_dir(&newer)?;
        // Unpacked last, so that their files replace others.
        debs.extend(archive.fetch(recipe.newer, &newer)?);
    }
    let tree = directory.join("tree");
    unpack(&debs, &tree)?;
    // The effect of the scripts of base-files and mawk.
    fs::create_dir_all(tree.join("mnt"))?;
    symlink("mawk", tree.join("usr/bin/awk"))?;

    fs::write(directory.join("versions"), versions(&debs)?)?;
    for leftover in ["scratch", "newer"].map(|name| directory.join(name)) {
        if leftover.exists() {
            fs::remove_dir_all(leftover)?;
        }
    }
    Ok(())
}
