//! The kernel's selftests of drivers and network library, built unchanged from Debian's kernel
//! source or a user's tree, and packed as an image that the guest mounts at `/opt/selftests`.
//!
//! The upstream makefiles leave out programs that they can't build, and still succeed. So all that
//! tests call is checked for by name.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail, ensure};

pub use self::source::PLACE;
use self::source::Source;
use crate::{
    provision::{
        archive::{Archive, unpack, versions},
        bootstrap::ext4_image,
        buildroot::{self, BuildRoot, WORK},
        cache::{Cache, Entry, Key},
        host,
        linux::{source as debian, source::SOURCE, tree::DoesNotBuild},
    },
    step::{run, step},
};

mod source;

/// Bump when this file makes something else of the same packages.
const RECIPE: &str = "selftests 1";
/// The same for a user's tree.
const TREE_RECIPE: &str = "selftests of a tree 1";

/// Parts of the kernel source that the build reads. The generator of netlink code looks for
/// MAINTAINERS to find the top, and never ends if it is missing.
const PARTS: [&str; 9] = [
    "MAINTAINERS",
    "Makefile",
    "Kbuild",
    "scripts",
    "include",
    "arch/x86",
    "usr",
    "tools",
    "Documentation/netlink",
];

/// Packages that compile them. Most tests are C; the BPF objects need clang and a libbpf that is
/// built on the way, and a Python script generates the netlink code.
const PACKAGES: [&str; 10] = [
    "clang",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "python3",
    "python3-jsonschema",
    "python3-yaml",
    "rsync",
    "tar",
    "zlib1g-dev",
];

/// iou-zcrx needs io_uring_register_ifq(), which came with liburing 2.10; trixie has 2.9.
const NEWER: [&str; 2] = ["liburing2/forky", "liburing-dev/forky"];

/// The targets of the makefiles.
const TARGETS: &str = "drivers/net drivers/net/hw net/lib";
/// The directories of the programs.
const DIRECTORIES: [&str; 2] = ["drivers/net", "drivers/net/hw"];

/// All compiled files that a test calls or loads. Each of them was missing from a successful build
/// on some host.
const COMPILED: [&str; 14] = [
    "drivers/net/napi_id_helper",
    "drivers/net/psp_responder",
    "drivers/net/so_txtime",
    "drivers/net/hw/iou-zcrx",
    "drivers/net/hw/ncdevmem",
    "drivers/net/hw/nk_forward.bpf.o",
    "drivers/net/hw/nk_primary_rx_redirect.bpf.o",
    "drivers/net/hw/toeplitz",
    "net/lib/csum",
    "net/lib/gro",
    "net/lib/xdp_dummy.bpf.o",
    "net/lib/xdp_helper",
    "net/lib/xdp_metadata.bpf.o",
    "net/lib/xdp_native.bpf.o",
];

/// The file that lists all tests, one line `DIRECTORY:PROGRAM` each.
const LIST: &str = "kselftest-list.txt";

/// The built selftests.
#[derive(Debug)]
pub struct Selftests {
    entry: Entry,
}

impl Selftests {
    /// Finds them in the cache or builds them.
    pub fn ensure(cache: &Cache) -> Result<Self> {
        let key = Key::new(RECIPE).text(SOURCE).text(TARGETS);
        let entry = cache.entry("selftests", &with_packages(key), |directory| {
            build(cache, &root(cache)?, directory)
        })?;
        Ok(Self { entry })
    }

    /// Finds those of a user's tree in the cache or builds them: those of a kernel tree, or those in
    /// a selftests directory, which is compiled with Debian's kernel source if it is not in a tree.
    /// The directory is only read. A changed script is installed without compiling anything.
    ///
    /// # Errors
    ///
    /// If `directory` has no selftests; [`DoesNotBuild`] if they do not compile.
    pub fn of_tree(cache: &Cache, directory: &Path) -> Result<Self> {
        let source = Source::find(directory)?;
        let name = source.directory.display().to_string();
        let mut key = with_packages(Key::new(TREE_RECIPE).text(TARGETS));
        if source.alone {
            key = key.text(SOURCE);
        }
        let key = step(&format!("read the selftests of {name}"), || {
            source.compiled(key)
        })?;
        let compiled = cache.entry("selftests-build", &key, |directory| {
            build_tree(cache, &root(cache)?, &source, directory)
        })?;
        let key = source.scripts(key)?;
        let entry = cache.entry("selftests-tree", &key, |directory| {
            install_tree(&root(cache)?, &source, &compiled, directory)?;
            Ok(fs::write(
                directory.join("versions"),
                format!("{name} {key}"),
            )?)
        })?;
        Ok(Self { entry })
    }

    /// Fails unless the programs in Python can run single cases.
    pub fn require_filters(&self) -> Result<()> {
        let path = self.tree().join("net/lib/py/ksft.py");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            text.contains("'-t'") || text.contains("\"-t\""),
            "these selftests can't run single cases: their net/lib/py/ksft.py has no option -t \
             (that of Linux 7.3 has)"
        );
        Ok(())
    }

    /// Returns the image, an ext4 file system.
    pub fn image(&self) -> PathBuf {
        image(&self.entry)
    }

    /// Returns the version of the source package, or the user's directory and a hash of its content.
    pub fn version(&self) -> Result<String> {
        let record = fs::read_to_string(self.entry.join("versions"))?;
        Ok(record.trim().to_owned())
    }

    /// Returns the directory with the same files on the host.
    pub fn tree(&self) -> PathBuf {
        tree(&self.entry)
    }

    /// Returns all tests, as paths below the tree.
    pub fn all(&self) -> Result<Vec<String>> {
        let path = self.tree().join(LIST);
        let list =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(list.lines().map(|line| line.replace(':', "/")).collect())
    }
}

/// Returns the entry with those parts of Debian's kernel source that selftests are built from.
pub fn debian_source(cache: &Cache) -> Result<Entry> {
    debian::ensure(cache, "selftests-source", &PARTS)
}

fn with_packages(key: Key) -> Key {
    let packages = PACKAGES.iter().chain(&NEWER);
    packages.fold(key, |key, package| key.text(package))
}

fn root(cache: &Cache) -> Result<BuildRoot> {
    let recipe = buildroot::Recipe {
        kind: "selftests-root",
        packages: &PACKAGES,
        local: &[],
        newer: &NEWER,
    };
    BuildRoot::ensure(cache, &recipe, "make the build root for the selftests")
}

fn tree(entry: &Path) -> PathBuf {
    entry.join("tree")
}

fn image(entry: &Path) -> PathBuf {
    entry.join("selftests.img")
}

fn build(cache: &Cache, root: &BuildRoot, directory: &Path) -> Result<()> {
    let scratch = directory.join("scratch");
    fs::create_dir(&scratch)?;
    let archive = Archive::open(cache)?;
    let debs = step("download the kernel's source", || {
        archive.fetch(&[SOURCE], &scratch)
    })?;
    fs::write(directory.join("versions"), versions(&debs)?)?;

    let source = scratch.join("source");
    step("unpack what the selftests are made of", || {
        unpack(&debs, &scratch)?;
        fs::create_dir(&source)?;
        run(host::command("tar")
            .arg("-C")
            .arg(&source)
            .args(["--strip-components=1", "--no-same-owner", "-xf"])
            .arg(scratch.join(format!("usr/src/{SOURCE}.tar.xz")))
            .args(PARTS.map(|part| format!("{SOURCE}/{part}"))))
    })?;
    step("compile the selftests", || compile(root, &source))?;

    fs::rename(source.join("out"), tree(directory))?;
    require_compiled(&tree(directory), |_| true)?;
    step("make the selftests' image", || pack(root, directory))?;
    Ok(fs::remove_dir_all(scratch)?)
}

/// Compiles the selftests of a user's tree.
fn build_tree(cache: &Cache, root: &BuildRoot, source: &Source, directory: &Path) -> Result<()> {
    let scratch = directory.join("scratch");
    fs::create_dir(&scratch)?;
    if source.alone {
        let around = debian_source(cache)?;
        run(host::command("cp")
            .args(["-a", "--no-preserve=ownership"])
            .arg(around.join("."))
            .arg(&scratch))?;
        fs::remove_dir_all(scratch.join(PLACE))?;
    }
    let name = source.directory.display();
    step(&format!("copy the selftests of {name}"), || {
        source.copy(&scratch)
    })?;
    step(&format!("compile the selftests of {name}"), || {
        compile(root, &scratch).map_err(|error| {
            DoesNotBuild::because(format!("the selftests of {name} do not build: {error:#}"))
        })
    })?;
    fs::rename(scratch.join("out"), tree(directory))?;
    require_compiled(&tree(directory), |file| {
        let from = file.strip_suffix(".o").unwrap_or(file);
        source.has(&format!("{from}.c"))
    })?;
    Ok(fs::remove_dir_all(scratch)?)
}

/// Makes an image of the compiled programs and the scripts as they are now.
fn install_tree(
    root: &BuildRoot,
    source: &Source,
    compiled: &Path,
    directory: &Path,
) -> Result<()> {
    let tree = tree(directory);
    run(host::command("cp")
        .args(["-a", "--no-preserve=ownership"])
        .arg(self::tree(compiled))
        .arg(&tree))?;
    source.refresh(&tree)?;
    let mut list = fs::read_to_string(tree.join(LIST))?;
    for program in source.install_unlisted(&DIRECTORIES, &tree)? {
        eprintln!("         {program} is not in its directory's Makefile (TEST_PROGS)");
        if let Some((directory, file)) = program.rsplit_once('/') {
            list.push_str(&format!("{directory}:{file}\n"));
        }
    }
    fs::write(tree.join(LIST), list)?;
    step("make the selftests' image", || pack(root, directory))
}

/// Makes the image of the tree in `directory`.
fn pack(root: &BuildRoot, directory: &Path) -> Result<()> {
    // The guest mounts them read-only and would compile the library again for each test.
    run(root
        .command(directory, "python3")
        .args(["-m", "compileall", "-q", "tree"]))?;
    ext4_image(&tree(directory), &image(directory), "selftests")
}

fn compile(root: &BuildRoot, source: &Path) -> Result<()> {
    let jobs = thread::available_parallelism().map_or(1, NonZero::get);
    let make = || {
        let mut make = root.command(source, "make");
        make.arg(format!("-j{jobs}"));
        make
    };
    run(make().arg("headers"))?;
    run(make()
        .args(["-C", "tools/testing/selftests", "install"])
        .arg(format!("INSTALL_PATH={WORK}/out"))
        .arg(format!("TARGETS={TARGETS}"))
        // The makefile's own probe for liburing fails on Debian with any liburing: dash has no
        // `echo -e`, and the probe names the library before the source, which --as-needed (the
        // default of Debian's gcc) then drops.
        .arg("HAS_IOURING_ZCRX=y")
        // Otherwise make succeeds without a directory that does not build.
        .arg("FORCE_TARGETS=1"))?;
    Ok(())
}

/// Fails unless `tree` has all compiled files that `is_wanted`.
fn require_compiled(tree: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = COMPILED
        .into_iter()
        .filter(|file| is_wanted(file) && !tree.join(file).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the selftests were built without an error, but these are missing: {}",
        missing.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_helper_is_named() {
        let tree = tempfile::tempdir().unwrap();
        for file in COMPILED {
            let path = tree.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        require_compiled(tree.path(), |_| true).unwrap();
        fs::remove_file(tree.path().join("drivers/net/hw/iou-zcrx")).unwrap();
        let error = require_compiled(tree.path(), |_| true)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with(": drivers/net/hw/iou-zcrx"), "{error}");
        // Another tree may not have the program at all.
        require_compiled(tree.path(), |file| !file.contains("iou")).unwrap();
    }
}
