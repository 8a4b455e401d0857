//! The checks that reviewers of network drivers run first: checkpatch, kernel-doc and sparse. `cargo
//! xtask driver` runs them on the newest kernel. Each message of theirs is an error.

use std::{
    fs,
    num::NonZero,
    path::Path,
    process::{Command, Output},
    thread,
};

use anyhow::{Result, bail};

use crate::{
    provision::{
        buildroot::{Bind, BuildRoot, Recipe, WORK},
        cache::{Cache, Key},
        driver::Sources,
        linux::{debian::DebianHeaders, source},
    },
    step::{output, step},
};

/// Bump when this file changes what is checked.
const RECIPE: &str = "driver checks 1";

/// Parts of the kernel source with programs that the header packages lack. kernel-doc finds its library
/// relative to itself.
const PARTS: [&str; 3] = ["scripts", "tools/docs", "tools/lib/python"];

/// Interpreters of these programs.
const PACKAGES: [&str; 2] = ["perl", "python3"];

/// Linux needs a sparse with `__typeof_unqual__`, which trixie's is too old for.
const NEWER: [&str; 1] = ["sparse/forky"];

/// Where the programs are in the sandbox.
const LINUX: &str = "/mnt/linux";

/// Checks `sources` against the kernel of `headers`, unless the cache has an entry for a clean run.
///
/// # Errors
///
/// The first message of a program, and others, such as a source that can't be downloaded.
pub fn ensure(cache: &Cache, headers: &DebianHeaders, sources: &Sources) -> Result<()> {
    let key = sources.key(Key::new(RECIPE).text(&headers.release));
    cache.entry("driver-checks", &key, |directory| {
        let linux = source::ensure(cache, "linux-scripts", &PARTS)?;
        let recipe = Recipe {
            kind: "checks-root",
            packages: &PACKAGES,
            local: &headers.debs,
            newer: &NEWER,
        };
        let root = BuildRoot::ensure(cache, &recipe, "make the build root for the checks")?;
        sources.write(directory)?;
        let checks = Checks {
            root: &root,
            linux: &linux,
            directory,
            files: sources.names().collect(),
        };
        step("check the driver's style (checkpatch)", || {
            checks.checkpatch()
        })?;
        step("check the driver's comments (kernel-doc)", || {
            checks.kernel_doc()
        })?;
        step("check the driver's types (sparse)", || {
            checks.sparse(&headers.release)
        })?;
        for item in fs::read_dir(directory)? {
            let path = item?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// A copy of the sources, and what it is checked with.
struct Checks<'a> {
    root: &'a BuildRoot,
    linux: &'a Path,
    directory: &'a Path,
    files: Vec<&'a str>,
}

impl Checks<'_> {
    /// `program` beside the sources, with the kernel's scripts at [`LINUX`].
    fn command(&self, program: &str) -> Command {
        self.root.command_among(
            &[
                Bind::write(self.directory, WORK),
                Bind::read(self.linux, LINUX),
            ],
            program,
        )
    }

    /// With all kinds of messages, and netdev's limit of 80 columns.
    fn checkpatch(&self) -> Result<()> {
        // The build root has no locales, of which perl would warn.
        let mut checkpatch = self.command("env");
        checkpatch
            .args(["LC_ALL=C", "perl"])
            .arg(format!("{LINUX}/scripts/checkpatch.pl"))
            .args(["--strict", "--no-tree", "--max-line-length=80"])
            .args(["--terse", "--show-types", "--no-summary", "-f"])
            .args(&self.files);
        refuse_messages("checkpatch", &output(&mut checkpatch)?)
    }

    fn kernel_doc(&self) -> Result<()> {
        let mut kernel_doc = self.command("python3");
        kernel_doc
            .arg(format!("{LINUX}/tools/docs/kernel-doc"))
            .args(["-none", "-Wall", "-Werror"])
            .args(self.files.iter().filter(|file| **file != "Kbuild"));
        refuse_messages("kernel-doc", &output(&mut kernel_doc)?)
    }

    /// kbuild runs sparse before the compiler. Debian's header packages lack the script by which kbuild
    /// looks for sparse, so the answer is set on the command line, and the warnings about that script are
    /// left out.
    fn sparse(&self, release: &str) -> Result<()> {
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        let mut make = self.command("make");
        make.arg(format!("-j{jobs}"))
            .args(["-C", &format!("/usr/src/linux-headers-{release}")])
            .arg(format!("M={WORK}"))
            .args(["KBUILD_CHECKSRC=2", "CHECK=sparse", "--output-sync=target"])
            .arg("zcnic.o");
        let mut result = output(&mut make)?;
        // A kbuild that ignores the setting would check nothing.
        let checked = String::from_utf8_lossy(&result.stdout)
            .lines()
            .filter(|line| line.trim_start().starts_with("CHECK "))
            .count();
        let expected = self
            .files
            .iter()
            .filter(|file| file.ends_with(".c"))
            .count();
        if result.status.success() && checked != expected {
            bail!("sparse checked {checked} files of {expected}");
        }
        result.stdout.clear();
        let expected_warnings = [
            "checker-valid.sh: ",
            "specified, but sparse is not available",
        ];
        let messages = String::from_utf8_lossy(&result.stderr);
        let messages = messages
            .lines()
            .filter(|line| {
                !expected_warnings
                    .iter()
                    .any(|warning| line.contains(warning))
            })
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        result.stderr = messages.into_bytes();
        refuse_messages("sparse", &result)
    }
}

/// Fails if `program` failed or printed anything.
fn refuse_messages(program: &str, result: &Output) -> Result<()> {
    let mut messages = String::from_utf8_lossy(&result.stdout).into_owned();
    messages.push_str(&String::from_utf8_lossy(&result.stderr));
    if result.status.success() && messages.trim().is_empty() {
        return Ok(());
    }
    bail!(
        "{program} reports problems in the driver ({})\n{messages}",
        result.status
    );
}
