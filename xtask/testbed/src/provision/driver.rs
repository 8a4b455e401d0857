//! Compiles `images/driver` into zcnic.ko, for a guest's kernel or for a series of Debian's.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};
use diffy::Patch;

use crate::{
    paths, progress,
    provision::{
        buildroot::{BuildRoot, Recipe, WORK},
        cache::{Cache, Entry, Key},
        host,
        linux::{
            debian::DebianHeaders,
            kernel::{Headers, Kernel},
            tree::DoesNotBuild,
        },
    },
    step::{output, step},
};

/// Bump when this file makes something else of the same sources.
const RECIPE: &str = "driver 2";

/// The module's file in an entry.
pub const MODULE: &str = "zcnic.ko";

/// Returns the entry with [`MODULE`] for `kernel`, and compiles it if there is none.
///
/// # Errors
///
/// [`DoesNotBuild`] if the sources do not compile, and others, such as warnings or a kernel without
/// headers.
pub fn ensure(cache: &Cache, kernel: &Kernel) -> Result<Entry> {
    ensure_of(cache, kernel, &Sources::read()?)
}

/// As [`ensure`], of changed sources.
pub fn ensure_of(cache: &Cache, kernel: &Kernel, sources: &Sources) -> Result<Entry> {
    match &kernel.headers {
        Headers::Debian(debs) => Build {
            release: &kernel.release,
            debs,
        }
        .ensure(cache, sources),
        Headers::Tree(tree) => for_tree(cache, tree.output(), sources, |directory| {
            tree.module(directory)
        }),
        // The tree was built with the host's tools, and so were the programs in it that the build
        // runs.
        Headers::Own(tree) => for_tree(cache, tree, sources, |directory| {
            let mut make = host::command("make");
            make.arg("-C")
                .arg(tree)
                .arg(format!("M={}", directory.display()));
            make
        }),
        Headers::Unknown => bail!(
            "the driver can't be compiled for Linux {}: a bzImage alone was given; --kernel wants \
             the tree that it was built in",
            kernel.release
        ),
    }
}

/// Returns the entry with [`MODULE`] of `sources` for a kernel of which only the headers are there, and
/// compiles it if there is none.
///
/// # Errors
///
/// As [`ensure`].
pub fn ensure_for_headers(
    cache: &Cache,
    headers: &DebianHeaders,
    sources: &Sources,
) -> Result<Entry> {
    let build = Build {
        release: &headers.release,
        debs: &headers.debs,
    };
    build.ensure(cache, sources)
}

/// The sources of the module.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Contents by file name.
    files: BTreeMap<String, String>,
    /// The name of the patch that was applied; empty without one.
    variant: &'static str,
}

impl Sources {
    /// Reads the sources of this workspace.
    pub fn read() -> Result<Self> {
        let home = paths::images().join("driver");
        let mut files = BTreeMap::new();
        for item in
            fs::read_dir(&home).with_context(|| format!("cannot list {}", home.display()))?
        {
            let path = item?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let source = name == "Kbuild" || name.ends_with(".c") || name.ends_with(".h");
            if source && !name.ends_with(".mod.c") {
                let content = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                files.insert(name.into_owned(), content);
            }
        }
        Ok(Self { files, variant: "" })
    }

    /// Applies a unified diff of one file.
    ///
    /// # Errors
    ///
    /// If it does not apply.
    pub fn patch(&mut self, variant: &'static str, patch: &str) -> Result<()> {
        let patch = Patch::from_str(patch).with_context(|| format!("the patch {variant}"))?;
        let path = patch.original().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let file = self
            .files
            .get_mut(name)
            .with_context(|| format!("the patch {variant} is of {path:?}, which is not there"))?;
        *file = diffy::apply(file, &patch)
            .with_context(|| format!("the patch {variant} does not apply to {name}"))?;
        self.variant = variant;
        Ok(())
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Adds names and contents to a key.
    pub(crate) fn key(&self, key: Key) -> Key {
        self.files
            .iter()
            .fold(key, |key, (name, content)| key.text(name).text(content))
    }

    /// Writes them to `directory`. Files that are there already keep their time, so that make does
    /// not compile them again.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        for (name, content) in &self.files {
            let path = directory.join(name);
            if fs::read_to_string(&path).ok().as_ref() != Some(content) {
                fs::write(path, content)?;
            }
        }
        Ok(())
    }
}

/// A compilation against Debian's headers.
struct Build<'a> {
    release: &'a str,
    debs: &'a [PathBuf],
}

impl Build<'_> {
    fn ensure(&self, cache: &Cache, sources: &Sources) -> Result<Entry> {
        let mut key = Key::new(RECIPE);
        for deb in self.debs {
            key = key.text(deb.file_name().unwrap_or_default().to_string_lossy());
        }
        cache.entry("driver", &sources.key(key), |directory| {
            let recipe = Recipe {
                kind: "buildroot",
                packages: &[],
                local: self.debs,
                newer: &[],
            };
            let what = format!("make the build root for Linux {}", self.release);
            let root = BuildRoot::ensure(cache, &recipe, &what)?;
            let mut make = root.command(directory, "make");
            make.arg("-C")
                .arg(format!("/usr/src/linux-headers-{}", self.release))
                .arg(format!("M={WORK}"))
                .arg("W=1");
            sources.write(directory)?;
            let what = format!("compile {MODULE} for Linux {}", self.release);
            step(&what, || {
                let warnings = make_module(make, directory)?;
                if !warnings.trim().is_empty() {
                    bail!("the driver compiles with warnings\n{warnings}");
                }
                Ok(())
            })?;
            keep_module(directory)
        })
    }
}

/// Compiles against a built tree, by the command that `make` returns for a directory. make decides
/// what to do, because any header of the tree may have changed since the last time. Another
/// compiler than Debian's may warn of other things, so warnings are only shown.
fn for_tree(
    cache: &Cache,
    tree: &Path,
    sources: &Sources,
    make: impl Fn(&Path) -> Command,
) -> Result<Entry> {
    let key = Key::new(RECIPE).text(tree.to_string_lossy());
    let key = key.text(sources.variant);
    cache.workshop("own-driver", &key, |directory| {
        sources.write(directory)?;
        step(&format!("compile {MODULE} for {}", tree.display()), || {
            let warnings = make_module(make(directory), directory)?;
            warnings.lines().for_each(progress::note);
            Ok(())
        })
    })
}

/// Runs `make` for the module in `directory`, and returns the messages of compiler, objtool and
/// modpost.
fn make_module(mut make: Command, directory: &Path) -> Result<String> {
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    make.arg(format!("-j{jobs}"))
        .args(["--output-sync=target", "modules"]);
    let result = output(&mut make)?;
    let messages = String::from_utf8_lossy(&result.stderr).into_owned();
    if result.status.success() && directory.join(MODULE).exists() {
        return Ok(messages);
    }
    let complaint = format!(
        "the driver does not compile ({})\n{messages}",
        result.status
    );
    Err(DoesNotBuild::because(complaint))
}

/// Removes everything from `directory` but the module.
fn keep_module(directory: &Path) -> Result<()> {
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        if path.ends_with(MODULE) {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
