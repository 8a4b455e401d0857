//! Debian file system trees by mmdebstrap, with or without root (then by user namespaces).
//!
//! Either way the tree belongs to the calling user, who can remove it, and has no device nodes.
//! Where ownership matters, in an image or a chroot, [`as_root`] makes the caller look like root.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    provision::{
        archive::{Archive, MIRROR, RELEASE, unpack, versions},
        host,
    },
    step::run,
};

/// Directories of the package files and lists for mmdebstrap.
const FILES: &str = "files";
const LISTS: &str = "lists";

/// The content of a tree.
#[derive(Debug, Default)]
pub struct TreeRecipe {
    /// Package names; `name/suite` is unpacked from that suite, without dependencies.
    pub packages: Vec<String>,
    /// Paths to leave out, as dpkg's path-exclude patterns.
    pub exclude: Vec<String>,
}

impl TreeRecipe {
    /// Makes the tree at `directory/tree`, which it returns, and a record of all package versions
    /// at `directory/versions`.
    pub fn make(&self, archive: &Archive, directory: &Path) -> Result<PathBuf> {
        let (newer, plain): (Vec<_>, Vec<_>) = self
            .packages
            .iter()
            .map(String::as_str)
            .partition(|name| name.contains('/'));
        let scratch = directory.join("scratch");
        fs::create_dir(&scratch)?;
        let tar = scratch.join("tree.tar");
        self.download(archive, &plain, &scratch)?;
        self.mmdebstrap(archive, &plain, &scratch, &tar)?;

        let tree = directory.join("tree");
        fs::create_dir(&tree)?;
        run(host::command("tar")
            .args([
                "--extract",
                "--no-same-owner",
                "--preserve-permissions",
                "--exclude=./dev/*",
            ])
            .arg("-C")
            .arg(&tree)
            .arg("-f")
            .arg(&tar))?;
        let mut record = installed(&tree)?;
        if !newer.is_empty() {
            let debs = archive.fetch(&newer, &scratch)?;
            unpack(&debs, &tree)?;
            record.push_str(&versions(&debs)?);
        }
        fs::write(directory.join("versions"), record)?;
        fs::remove_dir_all(scratch)?;
        Ok(tree)
    }

    /// Downloads what mmdebstrap will install, so that it needs neither the network nor, when it is
    /// tried again, the files once more.
    fn download(&self, archive: &Archive, packages: &[&str], scratch: &Path) -> Result<()> {
        let of_release = |what| format!("?narrow(?codename(^{RELEASE}$),{what})");
        let (essential, required) = (of_release("?essential"), of_release("?priority(required)"));
        let minbase = ["apt", &essential, &required];
        archive.fetch_closure(
            &[&minbase, packages].concat(),
            RELEASE,
            &scratch.join(FILES),
        )?;
        archive.lists_of_release(&scratch.join(LISTS))
    }

    fn mmdebstrap(
        &self,
        archive: &Archive,
        packages: &[&str],
        scratch: &Path,
        tar: &Path,
    ) -> Result<()> {
        let mode = if host::is_root() { "root" } else { "unshare" };
        let mut command = host::command("mmdebstrap");
        command
            .arg(format!("--mode={mode}"))
            .args(["--variant=minbase", "--architectures=amd64", "--format=tar"])
            .args([
                r#"--aptopt=APT::Sandbox::User "root""#,
                "--aptopt=Acquire::Languages none",
            ])
            .args(["--aptopt=Acquire::Retries 3"])
            // A tree that a power failure damages is made again.
            .arg("--dpkgopt=force-unsafe-io")
            // The lists and files of our own apt, which has checked them.
            .arg("--skip=update,download/empty")
            .arg(r#"--setup-hook=mkdir -p "$1/var/lib/apt/lists" "$1/var/cache/apt/archives""#)
            .arg(sync_in(&scratch.join(LISTS), "/var/lib/apt/lists"))
            .arg(sync_in(&scratch.join(FILES), "/var/cache/apt/archives"))
            .args(
                self.exclude
                    .iter()
                    .map(|pattern| format!("--dpkgopt=path-exclude={pattern}")),
            );
        if !packages.is_empty() {
            command.arg(format!("--include={}", packages.join(",")));
        }
        let keyring = archive.keyring();
        let source = format!(
            "deb [signed-by={}] {MIRROR} {RELEASE} main",
            keyring.display()
        );
        run(command.arg(RELEASE).arg(tar).arg(source)).map(drop)
    }
}

/// Returns mmdebstrap's option that copies the content of `from` to the tree's directory `to`. It
/// reads quotes as a shell does.
fn sync_in(from: &Path, to: &str) -> String {
    let from = from.to_string_lossy().replace('\'', r"'\''");
    format!("--setup-hook=sync-in '{from}' {to}")
}

/// Returns `name version` lines of the packages that are installed in `tree`.
fn installed(tree: &Path) -> Result<String> {
    let status = tree.join("var/lib/dpkg/status");
    let text =
        fs::read_to_string(&status).with_context(|| format!("cannot read {}", status.display()))?;
    let mut name = "";
    let mut record = String::new();
    for line in text.lines() {
        if let Some(value) = line.strip_prefix("Package: ") {
            name = value;
        } else if let Some(version) = line.strip_prefix("Version: ") {
            record.push_str(&format!("{name} {version}\n"));
        }
    }
    Ok(record)
}

/// Returns a command that runs `program` so that the caller's files look like root's.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if host::is_root() {
        return host::command(program);
    }
    let mut command = host::command("unshare");
    command
        .arg("--map-root-user")
        .arg("--")
        .arg(host::path_of(program));
    command
}

/// Makes an ext4 image of `tree` at `image`, with little more space than needed.
pub fn ext4_image(tree: &Path, image: &Path, label: &str) -> Result<()> {
    let used = run(host::command("du")
        .args(["--summarize", "--block-size=1M"])
        .arg(tree))?;
    let megabytes: u64 = used
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("du printed {used:?}"))?;
    run(as_root("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-L",
            label,
            "-d",
        ])
        .arg(tree)
        .arg(image)
        .arg(format!("{}M", megabytes + megabytes / 8 + 16)))
    .map(drop)
}
