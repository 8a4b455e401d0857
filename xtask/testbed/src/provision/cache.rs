//! Keyed cache entries under `$XDG_CACHE_HOME/zcnic` (default `~/.cache/zcnic`).
//!
//! An entry is a directory `KIND/HASH`, where the hash covers everything that the content depends
//! on. It is built in a temporary directory beside it and renamed when complete, so an existing
//! entry is complete. A lock per kind keeps two processes from building the same entry; a shared
//! lock per entry, held as long as its [`Entry`] lives, keeps one process from pruning an entry
//! that another one uses.
//!
//! Directories are world-searchable, because QEMU and the backend run as another user when we are
//! root.

use std::{
    fmt, fs,
    fs::{File, Permissions, TryLockError},
    ops::Deref,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::statvfs;
use sha2::{Digest, Sha256};

use crate::{paths, step::step};

/// Unused entries of a kind that are kept besides the newest, so that alternating between two
/// kernels or two branches does not rebuild everything each time.
const KEPT_UNUSED: usize = 1;
/// The same for workshops: debug builds of several kernels, and a tree of the user.
const WORKSHOPS_KEPT: usize = 3;

/// Megabytes that making an entry of a kind takes, files that it removes at its end included.
const SPACE: [(&str, u64); 10] = [
    ("buildroot", 500),
    ("checks-root", 600),
    ("dpdk", 500),
    ("kernel", 1200),
    ("kernel-root", 500),
    ("linux-source", 2500),
    ("qemu", 400),
    ("rootfs", 700),
    ("selftests", 2000),
    ("selftests-root", 900),
];
/// The same for all other kinds.
const OTHER_SPACE: u64 = 100;

/// A hash over everything that an entry's content depends on, in the order of the calls.
#[derive(Clone, Debug)]
pub struct Key(Sha256);

impl Key {
    /// Starts a key for entries built by `recipe`. Its name has a version: change it when the
    /// builder's code makes something else of the same inputs.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).text(recipe)
    }

    /// Adds a string.
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        self.bytes(text.as_ref().as_bytes());
        self
    }

    /// Adds a file's content, but not its name.
    pub fn file(mut self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.bytes(&content);
        Ok(self)
    }

    /// Adds every file below `directory`: relative names and contents, in sorted order.
    pub fn tree(mut self, directory: &Path) -> Result<Self> {
        let mut pending = vec![directory.to_owned()];
        let mut files = Vec::new();
        while let Some(next) = pending.pop() {
            let listing =
                fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))?;
            for item in listing {
                let item = item?;
                if item.file_type()?.is_dir() {
                    pending.push(item.path());
                } else {
                    files.push(item.path());
                }
            }
        }
        files.sort();
        for file in files {
            let name = file.strip_prefix(directory).unwrap_or(&file);
            self = self.text(name.to_string_lossy()).file(&file)?;
        }
        Ok(self)
    }

    /// The length goes first, so that no two sequences of inputs hash alike.
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// The first 16 hex digits, the name of the entry's directory.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.0.clone().finalize();
        digest
            .iter()
            .take(8)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A complete entry. No process removes it as long as this value lives.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    _in_use: File,
}

impl Deref for Entry {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Finds or creates the cache directory of the calling user: `$XDG_CACHE_HOME/zcnic` or
    /// `~/.cache/zcnic`.
    ///
    /// # Errors
    ///
    /// Also as for [`paths::require`]: without recipes there is nothing to keep.
    pub fn open() -> Result<Self> {
        paths::require()?;
        let base = paths::base_directory("XDG_CACHE_HOME", ".cache")
            .ok_or_else(|| anyhow!("neither HOME nor an absolute XDG_CACHE_HOME is set"))?;
        Self::at(&base.join("zcnic"))
    }

    pub(super) fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("cannot create the cache directory {}", root.display()))?;
        let root = root.canonicalize()?;
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        Ok(Self { root })
    }

    /// Returns the cache's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Fails unless the disk has room for an entry of each of these kinds of which there is none yet.
    pub fn require_space(&self, kinds: &[&str]) -> Result<()> {
        let missing = kinds.iter().filter(|kind| {
            let entries = fs::read_dir(self.root.join(kind)).into_iter().flatten();
            !entries.flatten().any(|item| is_entry(&item.path()))
        });
        let bytes = missing.map(|kind| space_of(kind)).sum();
        require_free(&self.root, bytes, "make what guests need")
    }

    /// Returns whether [`Self::entry`] finds an entry of `kind` for `key` and need not build it.
    pub fn has(&self, kind: &str, key: &Key) -> bool {
        self.root.join(kind).join(key.to_string()).is_dir()
    }

    /// Returns the directory of `kind` for `key` after `update` has worked on it. Unlike an entry,
    /// it may exist half done, and stays when `update` fails, so that the next call goes on with
    /// it.
    pub fn workshop(
        &self,
        kind: &str,
        key: &Key,
        update: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Entry> {
        let home = self.root.join(kind);
        let path = home.join(key.to_string());
        let in_use = loop {
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            let lock = open_lock(&lock_of(&path))?;
            wait_for(&lock, &path)?;
            // Another process may have pruned the directory and its lock meanwhile.
            let same = fs::metadata(lock_of(&path))
                .is_ok_and(|now| lock.metadata().is_ok_and(|own| own.ino() == now.ino()));
            if path.is_dir() && same {
                break lock;
            }
        };
        in_use.set_modified(SystemTime::now())?;
        update(&path)?;
        in_use.lock_shared()?;
        prune(&home, &path, WORKSHOPS_KEPT)?;
        Ok(Entry {
            path,
            _in_use: in_use,
        })
    }

    /// Returns the entry of `kind` for `key`. If there is none, calls `build` with an empty
    /// directory to fill. Waits while another process builds an entry of the same kind. A failed
    /// `build` leaves nothing behind.
    pub fn entry(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Entry> {
        let home = self.root.join(kind);
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let building = open_lock(&home.join(KIND_LOCK))?;
        wait_for(&building, &home)?;

        let path = home.join(key.to_string());
        if !path.is_dir() {
            remove_leftovers(&home)?;
            require_free(&home, space_of(kind), &format!("make an entry of {kind}"))?;
            let unfinished = home.join(format!("{UNFINISHED}{key}"));
            fs::create_dir(&unfinished)?;
            fs::set_permissions(&unfinished, Permissions::from_mode(0o755))?;
            build(&unfinished).inspect_err(|_| {
                // The build's own error matters more; the next build removes a leftover.
                let _ = fs::remove_dir_all(&unfinished);
            })?;
            fs::rename(&unfinished, &path)?;
            prune(&home, &path, KEPT_UNUSED)?;
        }
        let in_use = open_lock(&lock_of(&path))?;
        in_use.lock_shared()?;
        // The lock file's modification time is when the entry was last used.
        in_use.set_modified(SystemTime::now())?;
        Ok(Entry {
            path,
            _in_use: in_use,
        })
    }
}

pub(super) const UNFINISHED: &str = ".unfinished-";
/// The lock of a kind, which the process holds that makes an entry.
pub(super) const KIND_LOCK: &str = "lock";

fn space_of(kind: &str) -> u64 {
    let known = SPACE.into_iter().find(|(name, _)| *name == kind);
    known.map_or(OTHER_SPACE, |(_, megabytes)| megabytes) * 1_000_000
}

/// Fails unless the file system of `directory` has `bytes` free. `purpose` is what they are for.
pub(super) fn require_free(directory: &Path, bytes: u64, purpose: &str) -> Result<()> {
    let system = statvfs(directory)
        .with_context(|| format!("cannot ask for the free space of {}", directory.display()))?;
    let free = system.f_bavail * system.f_frsize;
    if free < bytes {
        bail!(
            "not enough disk space to {purpose}: it needs {}, {} has {} free ({} removes what is old)",
            Size(bytes),
            directory.display(),
            Size(free),
            paths::invocation("cache prune")
        );
    }
    Ok(())
}

/// A number of bytes as people read it: `1.2 GB`, `35 MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.div_ceil(1_000_000) {
            megabytes @ 0..1000 => write!(f, "{megabytes} MB"),
            _ => write!(f, "{:.1} GB", self.0 as f64 / 1e9),
        }
    }
}

/// Takes a lock, and shows that it waits if another process holds it.
fn wait_for(lock: &File, path: &Path) -> Result<()> {
    let failed = || format!("cannot lock {}", path.display());
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => step(
            &format!("wait for another command that makes {}", path.display()),
            || lock.lock().with_context(failed),
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

/// Returns whether `path` in a kind's directory is an entry.
pub(super) fn is_entry(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.is_dir() && !name.starts_with('.')
}

pub(super) fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the lock file {}", path.display()))
}

pub(super) fn lock_of(entry: &Path) -> PathBuf {
    entry.with_extension("lock")
}

/// Removes the leftovers of interrupted builds. The caller holds the kind's lock.
fn remove_leftovers(home: &Path) -> Result<()> {
    for item in fs::read_dir(home)? {
        let item = item?;
        if item.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(item.path())
                .with_context(|| format!("cannot remove {}", item.path().display()))?;
        }
    }
    Ok(())
}

/// Removes the unused entries beside `current`, except the `kept` most recently used.
fn prune(home: &Path, current: &Path, kept: usize) -> Result<()> {
    let mut unused = Vec::new();
    for item in fs::read_dir(home)? {
        let path = item?.path();
        if path == current || !is_entry(&path) {
            continue;
        }
        let lock = open_lock(&lock_of(&path))?;
        match lock.try_lock() {
            Ok(()) => unused.push((lock.metadata()?.modified()?, path, lock)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    unused.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
    for (_, path, _lock) in unused.into_iter().skip(kept) {
        discard(&path)?;
    }
    Ok(())
}

/// Removes an entry, whose lock the caller holds. It disappears at once: one that is half removed
/// must not look complete.
pub(super) fn discard(path: &Path) -> Result<()> {
    let failed = || format!("cannot remove {}", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let doomed = path.with_file_name(format!("{UNFINISHED}removed-{name}"));
    fs::rename(path, &doomed).with_context(failed)?;
    fs::remove_file(lock_of(path)).with_context(failed)?;
    fs::remove_dir_all(&doomed).with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A cache in a directory of its own, removed at the end.
    struct Scratch(Cache);

    impl Scratch {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "zcnic-cache-test-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            Self(Cache::at(&std::env::temp_dir().join(name)).unwrap())
        }

        /// Makes or finds the entry of kind "k" for `input`; returns whether it was made.
        fn entry(&self, input: &str) -> (Entry, bool) {
            let mut built = false;
            let entry = self
                .0
                .entry("k", &Key::new("test").text(input), |dir| {
                    built = true;
                    Ok(fs::write(dir.join("content"), input)?)
                })
                .unwrap();
            (entry, built)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.root());
        }
    }

    #[test]
    fn an_entry_is_built_once() {
        let scratch = Scratch::new();
        assert!(scratch.entry("a").1);
        let (entry, built) = scratch.entry("a");
        assert!(!built);
        assert_eq!(fs::read_to_string(entry.join("content")).unwrap(), "a");
        assert!(scratch.entry("b").1);
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let scratch = Scratch::new();
        let key = Key::new("test");
        let error = scratch.0.entry("k", &key, |dir| {
            fs::write(dir.join("half"), "")?;
            Err(anyhow!("no"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no");
        let entry = scratch.0.entry("k", &key, |_| Ok(())).unwrap();
        assert!(!entry.join("half").exists());
    }

    #[test]
    fn pruning_spares_what_is_in_use() {
        let scratch = Scratch::new();
        let (held, _) = scratch.entry("held");
        for input in ["x", "y", "z"] {
            scratch.entry(input);
        }
        assert!(held.exists());
        assert!(!scratch.entry("z").1, "the newest stays");
        assert!(!scratch.entry("y").1, "and one before it");
        assert!(scratch.entry("x").1, "older ones go");
    }

    #[test]
    fn a_full_disk_is_told_before_the_work() {
        let scratch = Scratch::new();
        require_free(scratch.0.root(), 1, "test").unwrap();
        let error = require_free(scratch.0.root(), u64::MAX, "test")
            .unwrap_err()
            .to_string();
        let clear = error.starts_with("not enough disk space to test: it needs 1844674407")
            && error.contains(" free (");
        assert!(clear && error.lines().count() == 1, "{error}");
        let sizes = [0, 1, 35_000_000, 1_200_000_000].map(|bytes| Size(bytes).to_string());
        assert_eq!(sizes, ["0 MB", "1 MB", "35 MB", "1.2 GB"]);
    }

    #[test]
    fn inputs_are_delimited() {
        let one = Key::new("r").text("ab").text("c").to_string();
        let two = Key::new("r").text("a").text("bc").to_string();
        assert_ne!(one, two);
    }
}
