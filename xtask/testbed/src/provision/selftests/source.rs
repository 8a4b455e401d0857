//! The files of a user's tree that selftests are built from.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    provision::{cache::Key, host},
    step::run,
};

/// The selftests' place in a kernel tree.
pub const PLACE: &str = "tools/testing/selftests";

/// Parts of [`super::PARTS`] that no selftest of ours is built from, and half of the files.
const UNNEEDED: [&str; 2] = ["tools/perf", "tools/power"];

/// Places of files that a build inside of the tree makes, where `git` can't tell.
const GENERATED: [&str; 4] = [
    "include/generated",
    "include/config",
    "arch/x86/include/generated",
    "tools/net/ynl/generated",
];

/// One file, by its path below the top of a kernel tree.
struct Item {
    path: String,
    from: PathBuf,
}

/// A user's selftests, alone or with the kernel tree around them.
pub(super) struct Source {
    /// The directory as it was named, made absolute.
    pub(super) directory: PathBuf,
    /// Only selftests: everything around them has to come from elsewhere.
    pub(super) alone: bool,
    /// Sorted by path.
    items: Vec<Item>,
}

impl Source {
    /// Finds the files of a kernel tree, of its `tools/testing/selftests`, or of such a directory
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// If `directory` is none of these.
    pub(super) fn find(directory: &Path) -> Result<Self> {
        let named = directory.display();
        let directory = directory
            .canonicalize()
            .with_context(|| format!("--selftests {named}"))?;
        let top = if directory.join(PLACE).join("lib.mk").is_file() {
            Some(directory.clone())
        } else if !directory.join("lib.mk").is_file() || !directory.join("drivers/net").is_dir() {
            bail!("--selftests {named}: neither a kernel tree nor its {PLACE}");
        } else {
            let top = directory.ancestors().nth(3).unwrap_or(&directory);
            let inside = directory.ends_with(PLACE) && top.join("Kbuild").is_file();
            inside.then(|| top.to_owned())
        };
        let mut items = match &top {
            Some(top) => in_git(top).map_or_else(|| in_tree(top), Ok)?,
            None => walk(&directory, PLACE)?,
        };
        items.retain(|item| !UNNEEDED.iter().any(|part| is_below(&item.path, part)));
        items.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self {
            alone: top.is_none(),
            directory,
            items,
        })
    }

    /// Adds all names, and the contents of all files that something is compiled from.
    pub(super) fn compiled(&self, mut key: Key) -> Result<Key> {
        for item in &self.items {
            let meta = fs::symlink_metadata(&item.from)
                .with_context(|| format!("cannot read {}", item.from.display()))?;
            let executable = if meta.mode() & 0o111 == 0 { "" } else { "x" };
            key = key.text(&item.path).text(executable);
            if meta.is_symlink() {
                key = key.text(fs::read_link(&item.from)?.to_string_lossy());
            } else if !item.is_script() {
                key = key.file(&item.from)?;
            }
        }
        Ok(key)
    }

    /// Adds the contents of all scripts.
    pub(super) fn scripts(&self, mut key: Key) -> Result<Key> {
        for item in self.items.iter().filter(|item| item.is_script()) {
            key = key.file(&item.from)?;
        }
        Ok(key)
    }

    /// Copies all files to a directory that has the layout of a kernel tree.
    pub(super) fn copy(&self, to: &Path) -> Result<()> {
        self.items
            .iter()
            .try_for_each(|item| copy(&item.from, &to.join(&item.path)))
    }

    /// Copies the scripts over those that are installed in `tree`.
    pub(super) fn refresh(&self, tree: &Path) -> Result<()> {
        for item in self.items.iter().filter(|item| item.is_script()) {
            let Some(path) = item.below_selftests() else {
                continue;
            };
            let installed = tree.join(path);
            if installed.is_file() {
                fs::remove_file(&installed)?;
                copy(&item.from, &installed)?;
            }
        }
        Ok(())
    }

    /// Installs the programs in `directories` that their makefile does not name, and returns their
    /// paths below the selftests' root: new ones, whose line in the makefile is not written yet.
    pub(super) fn install_unlisted(
        &self,
        directories: &[&str],
        tree: &Path,
    ) -> Result<Vec<String>> {
        let mut added = Vec::new();
        for item in self.items.iter().filter(|item| item.is_script()) {
            let Some((directory, file)) = item
                .below_selftests()
                .and_then(|path| path.rsplit_once('/'))
            else {
                continue;
            };
            let executable = fs::metadata(&item.from).is_ok_and(|meta| meta.mode() & 0o111 != 0);
            if !directories.contains(&directory) || !executable {
                continue;
            }
            let makefile = item.from.with_file_name("Makefile");
            let text = fs::read_to_string(&makefile)
                .with_context(|| format!("cannot read {}", makefile.display()))?;
            if text.split_whitespace().any(|word| word == file) {
                continue;
            }
            let installed = tree.join(directory).join(file);
            copy(&item.from, &installed)?;
            added.push(format!("{directory}/{file}"));
        }
        Ok(added)
    }

    /// Whether there is a file at this path below the selftests' root.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = format!("{PLACE}/{path}");
        self.items
            .binary_search_by(|item| item.path.as_str().cmp(&path))
            .is_ok()
    }
}

impl Item {
    fn below_selftests(&self) -> Option<&str> {
        self.path.strip_prefix(PLACE)?.strip_prefix('/')
    }

    /// Whether it is a file of the selftests that is installed as it is.
    fn is_script(&self) -> bool {
        let Some(path) = self.below_selftests() else {
            return false;
        };
        let file = path.rsplit('/').next().unwrap_or(path);
        [".py", ".sh"].iter().any(|end| file.ends_with(end))
            || ["settings", "config"].contains(&file)
    }
}

/// The files that git tracks or could track, without what was built among them; None if `top` is no
/// git tree.
fn in_git(top: &Path) -> Option<Vec<Item>> {
    if !top.join(".git").exists() {
        return None;
    }
    let listed = run(host::command("git")
        // The tree may belong to another user.
        .args(["-c", "safe.directory=*", "-C"])
        .arg(top)
        .args(["ls-files", "-z", "--cached", "--others"])
        .args(["--exclude-standard", "--"])
        .args(super::PARTS))
    .ok()?;
    let items = listed.split('\0').filter(|path| !path.is_empty());
    let items = items.map(|path| Item {
        path: path.to_owned(),
        from: top.join(path),
    });
    // A tracked file may be deleted.
    Some(
        items
            .filter(|item| item.from.symlink_metadata().is_ok())
            .collect(),
    )
}

fn in_tree(top: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for part in super::PARTS {
        let from = top.join(part);
        if from.is_dir() {
            items.extend(walk(&from, part)?);
        } else if from.exists() {
            let path = part.to_owned();
            items.push(Item { path, from });
        }
    }
    Ok(items)
}

/// All files below `directory` but for what was built there.
fn walk(directory: &Path, path: &str) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut pending = vec![(directory.to_owned(), path.to_owned())];
    while let Some((directory, path)) = pending.pop() {
        let listing = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for item in listing {
            let item = item?;
            let path = format!("{path}/{}", item.file_name().to_string_lossy());
            if item.file_type()?.is_dir() {
                pending.push((item.path(), path));
            } else if !was_built(&item.path(), &path)? {
                let from = item.path();
                items.push(Item { path, from });
            }
        }
    }
    Ok(items)
}

/// Whether it is a product of a build: make would take it for a newer one than its source.
fn was_built(from: &Path, path: &str) -> Result<bool> {
    let extension = Path::new(path).extension().and_then(OsStr::to_str);
    if matches!(extension, Some("d" | "cmd" | "pyc"))
        || (GENERATED.iter().any(|part| is_below(path, part))
            && !(path.ends_with("/Makefile") || path.ends_with("/.gitignore")))
    {
        return Ok(true);
    }
    if from.is_symlink() {
        return Ok(false);
    }
    let mut first = Vec::new();
    File::open(from)
        .and_then(|file| file.take(7).read_to_end(&mut first))
        .with_context(|| format!("cannot read {}", from.display()))?;
    Ok(first.starts_with(b"\x7fELF") || first.starts_with(b"!<arch>"))
}

fn is_below(path: &str, part: &str) -> bool {
    path.strip_prefix(part)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Copies a file with its mode, or a symbolic link.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a path without a directory")?;
    fs::create_dir_all(parent)?;
    let copied = if from.is_symlink() {
        fs::read_link(from).and_then(|target| symlink(target, to))
    } else {
        fs::copy(from, to).map(drop)
    };
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    const PROGRAM: &str = "#!/usr/bin/env python3\n";

    fn write(top: &Path, path: &str, content: &[u8]) {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn executable(top: &Path, path: &str) {
        write(top, path, PROGRAM.as_bytes());
        fs::set_permissions(top.join(path), Permissions::from_mode(0o755)).unwrap();
    }

    /// A selftests directory with one listed program.
    fn selftests(top: &Path) {
        write(top, "lib.mk", b"");
        executable(top, "drivers/net/hw/old.py");
        write(top, "drivers/net/hw/helper.c", b"int main;");
        write(
            top,
            "drivers/net/hw/Makefile",
            b"TEST_PROGS = \\\n\told.py \\\n",
        );
    }

    fn keys(source: &Source) -> (String, String) {
        let compiled = source.compiled(Key::new("c")).unwrap();
        let all = source.scripts(compiled.clone()).unwrap();
        (compiled.to_string(), all.to_string())
    }

    #[test]
    fn a_tree_is_found_from_its_top_and_from_its_selftests() {
        let top = tempfile::tempdir().unwrap();
        selftests(&top.path().join(PLACE));
        write(top.path(), "Kbuild", b"");
        write(top.path(), "drivers/net/tun.c", b"");
        for place in ["", PLACE] {
            let source = Source::find(&top.path().join(place)).unwrap();
            assert!(!source.alone, "{place}");
            assert!(source.has("drivers/net/hw/old.py"));
            assert_eq!(source.items.len(), 5, "{place}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        selftests(elsewhere.path());
        let source = Source::find(elsewhere.path()).unwrap();
        assert!(source.alone && source.has("drivers/net/hw/old.py"));
        let Err(error) = Source::find(&elsewhere.path().join("drivers")) else {
            panic!("another directory is taken for selftests");
        };
        assert!(error.to_string().contains("neither a kernel tree nor"));
    }

    #[test]
    fn a_changed_script_compiles_nothing_again() {
        let top = tempfile::tempdir().unwrap();
        selftests(top.path());
        let keys_now = || keys(&Source::find(top.path()).unwrap());
        let (compiled, all) = keys_now();
        write(top.path(), "drivers/net/hw/old.py", b"#!/bin/true\n");
        let script = keys_now();
        assert!(script.0 == compiled && script.1 != all);
        write(top.path(), "drivers/net/hw/helper.c", b"int main();");
        assert_ne!(keys_now().0, compiled);
    }

    #[test]
    fn products_of_a_build_are_left_out() {
        let top = tempfile::tempdir().unwrap();
        selftests(top.path());
        let key = keys(&Source::find(top.path()).unwrap());
        write(top.path(), "drivers/net/hw/helper", b"\x7fELF...");
        write(top.path(), "drivers/net/hw/helper.d", b"helper: helper.c");
        assert_eq!(keys(&Source::find(top.path()).unwrap()), key);
    }

    #[test]
    fn a_new_program_is_installed_before_its_makefile_names_it() {
        let top = tempfile::tempdir().unwrap();
        selftests(top.path());
        executable(top.path(), "drivers/net/hw/zz_new.py");
        write(top.path(), "drivers/net/hw/data.py", b"");
        let tree = tempfile::tempdir().unwrap();
        let source = Source::find(top.path()).unwrap();
        let added = source
            .install_unlisted(&["drivers/net/hw"], tree.path())
            .unwrap();
        assert_eq!(added, ["drivers/net/hw/zz_new.py"]);
        let installed = fs::metadata(tree.path().join(&added[0])).unwrap();
        assert_ne!(installed.mode() & 0o111, 0);
        write(top.path(), "drivers/net/hw/zz_new.py", b"#!/bin/false\n");
        Source::find(top.path())
            .unwrap()
            .refresh(tree.path())
            .unwrap();
        let text = fs::read_to_string(tree.path().join(&added[0])).unwrap();
        assert_eq!(text, "#!/bin/false\n");
    }
}
