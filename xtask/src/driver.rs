//! `cargo xtask driver`: compiles `images/driver` into zcnic.ko, for the guests that other commands
//! boot and, as a command of its own, against every kernel that it supports.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    buildroot::{BuildRoot, Recipe, WORK},
    cache::{Cache, Entry, Key},
    host,
    kernel::{self, Headers, Kernel},
    paths,
    step::{output, step},
};

/// Bump when this file makes something else of the same sources.
const RECIPE: &str = "driver 1";

/// The Linux series whose headers the driver must compile against without a warning.
const SERIES: [&str; 2] = ["7.2", "7.3"];

/// Compile the driver, treating warnings as errors
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only against the headers of this series (7.2, 7.3) instead of all
    #[arg(long, value_name = "SERIES", value_parser = SERIES)]
    headers: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    for series in SERIES {
        if args.headers.as_ref().is_some_and(|only| only != series) {
            continue;
        }
        let headers = kernel::headers(&cache, series)?;
        let build = Build {
            release: &headers.release,
            debs: &headers.debs,
        };
        let module = build.ensure(&cache)?;
        println!("{}", module.join(MODULE).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The file in an entry.
pub(crate) const MODULE: &str = "zcnic.ko";

/// Returns the entry with [`MODULE`] for `kernel`, compiling it if need be.
pub(crate) fn ensure(cache: &Cache, kernel: &Kernel) -> Result<Entry> {
    match &kernel.headers {
        Headers::Debian(debs) => Build {
            release: &kernel.release,
            debs,
        }
        .ensure(cache),
        Headers::Tree(tree) => for_tree(cache, kernel, tree),
        Headers::Unknown => bail!(
            "the driver can't be compiled for Linux {}: a bzImage alone was given; --kernel wants \
             the tree that it was built in",
            kernel.release
        ),
    }
}

/// A compilation against Debian's headers.
struct Build<'a> {
    release: &'a str,
    debs: &'a [PathBuf],
}

impl Build<'_> {
    fn ensure(&self, cache: &Cache) -> Result<Entry> {
        let mut key = Key::new(RECIPE);
        for deb in self.debs {
            key = key.text(deb.file_name().unwrap_or_default().to_string_lossy());
        }
        let sources = sources()?;
        for source in &sources {
            key = key
                .text(source.file_name().unwrap_or_default().to_string_lossy())
                .file(source)?;
        }
        cache.entry("driver", &key, |directory| {
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
                .arg(format!("M={WORK}"));
            compile(&sources, directory, self.release, make)
        })
    }
}

/// Against the user's own tree: it was built with the host's tools, and so are the programs in it
/// that the build runs.
fn for_tree(cache: &Cache, kernel: &Kernel, tree: &Path) -> Result<Entry> {
    let mut key = Key::new(RECIPE)
        .text(tree.to_string_lossy())
        .text(&kernel.release);
    for input in [".config", "Module.symvers"] {
        key = key.file(&tree.join(input))?;
    }
    let sources = sources()?;
    for source in &sources {
        key = key.file(source)?;
    }
    cache.entry("own-driver", &key, |directory| {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(tree)
            .arg(format!("M={}", directory.display()));
        compile(&sources, directory, &kernel.release, make)
    })
}

/// What the module is made of, sorted.
fn sources() -> Result<Vec<PathBuf>> {
    let home = paths::workspace().join("images/driver");
    let mut sources = Vec::new();
    for item in fs::read_dir(&home).with_context(|| format!("cannot list {}", home.display()))? {
        let path = item?.path();
        let source = path.extension().map_or_else(
            || path.ends_with("Kbuild"),
            |kind| kind == "c" || kind == "h",
        );
        if source && !path.to_string_lossy().ends_with(".mod.c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

/// Runs `make` over a copy of `sources` and leaves the module in `directory`. A warning from the
/// compiler, objtool or modpost fails the build: it is shown, and nothing is kept.
fn compile(sources: &[PathBuf], directory: &Path, release: &str, mut make: Command) -> Result<()> {
    for source in sources {
        fs::copy(
            source,
            directory.join(source.file_name().unwrap_or_default()),
        )?;
    }
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    make.arg(format!("-j{jobs}"))
        .args(["--output-sync=target", "W=1", "modules"]);
    step(&format!("compile {MODULE} for Linux {release}"), || {
        let result = output(&mut make)?;
        let messages = String::from_utf8_lossy(&result.stderr);
        let module = directory.join(MODULE);
        if !result.status.success() || !module.exists() {
            bail!(
                "the driver does not compile ({})\n{messages}",
                result.status
            );
        }
        if !messages.trim().is_empty() {
            bail!("the driver compiles with warnings\n{messages}");
        }
        Ok(())
    })?;
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
