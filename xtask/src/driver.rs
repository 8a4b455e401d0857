//! `cargo xtask driver`: compiles `images/driver` into zcnic.ko, for the guests that other commands
//! boot and, as a command of its own, against every kernel that it supports; then it checks the sources
//! as netdev's reviewers would.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result, bail};
use diffy::Patch;

use crate::{
    buildroot::{BuildRoot, Recipe, WORK},
    cache::{Cache, Entry, Key},
    driver_checks, host,
    linux::{
        Headers, Kernel,
        debian::{self, SERIES},
        tree::DoesNotBuild,
    },
    paths,
    step::{output, step},
};

/// Bump when this file makes something else of the same sources.
const RECIPE: &str = "driver 2";

/// Compile the driver and check it with checkpatch, kernel-doc and sparse, treating warnings as errors
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only against the headers of this series (7.2, 7.3) instead of all
    #[arg(long, value_name = "SERIES", value_parser = SERIES)]
    headers: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    let sources = Sources::read()?;
    for series in SERIES {
        if args.headers.as_ref().is_some_and(|only| only != series) {
            continue;
        }
        let headers = debian::headers(&cache, series)?;
        let build = Build {
            release: &headers.release,
            debs: &headers.debs,
        };
        let module = build.ensure(&cache, &sources)?;
        println!("{}", module.join(MODULE).display());
        // Style doesn't depend on the kernel, and types hardly.
        if SERIES.last() == Some(&series) {
            driver_checks::ensure(&cache, &headers, &sources)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The file in an entry.
pub(crate) const MODULE: &str = "zcnic.ko";

/// Returns the entry with [`MODULE`] for `kernel`, compiling it if need be.
pub(crate) fn ensure(cache: &Cache, kernel: &Kernel) -> Result<Entry> {
    ensure_of(cache, kernel, &Sources::read()?)
}

/// The same of sources that may be changed.
pub(crate) fn ensure_of(cache: &Cache, kernel: &Kernel, sources: &Sources) -> Result<Entry> {
    match &kernel.headers {
        Headers::Debian(debs) => Build {
            release: &kernel.release,
            debs,
        }
        .ensure(cache, sources),
        Headers::Tree(tree) => for_tree(cache, tree.output(), sources, |directory| {
            tree.module(directory)
        }),
        // It was built with the host's tools, and so are the programs in it that the build runs.
        Headers::Own(tree) => for_tree(cache, tree, sources, |directory| {
            let mut make = Command::new("make");
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

/// What the module is made of.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// Contents by name.
    files: BTreeMap<String, String>,
    /// The name of what was done to them.
    variant: &'static str,
}

impl Sources {
    /// Those of this workspace.
    pub(crate) fn read() -> Result<Self> {
        let home = paths::workspace().join("images/driver");
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

    /// Applies a unified diff of one file to them.
    pub(crate) fn patch(&mut self, variant: &'static str, patch: &str) -> Result<()> {
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
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Adds names and contents to a key.
    pub(crate) fn key(&self, key: Key) -> Key {
        self.files
            .iter()
            .fold(key, |key, (name, content)| key.text(name).text(content))
    }

    /// Makes `directory` have them; what it has already keeps its time.
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

/// Against a built tree, by the command that `make` gives for a directory. make decides what there
/// is to do: any header of the tree may have changed since the last time. The compiler of a tree as
/// old or new as this may warn of what ours doesn't, so a warning is only shown.
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
            eprint!("{warnings}");
            Ok(())
        })
    })
}

/// Runs `make` for the module in `directory`, and returns what compiler, objtool and modpost had to
/// say about it.
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
    Err(DoesNotBuild(complaint).into())
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
