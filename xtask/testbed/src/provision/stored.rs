//! What the cache holds, and how it is made smaller. An entry that a running command uses, and a kind
//! of which one is being made, are left alone.

use std::{
    collections::HashSet,
    fs,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use super::cache::{Cache, KIND_LOCK, UNFINISHED, discard, is_entry, lock_of, open_lock};

/// The directory of the archive's lists and package files.
const APT: &str = "apt";
/// Age at which the leftovers of killed commands are removed.
const LEFTOVERS_KEPT_FOR: Duration = Duration::from_hours(24);

/// A part of the cache.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The kind of entry, such as `kernel`; `apt` for lists and package files.
    pub kind: String,
    /// Its name within the kind.
    pub name: String,
    /// Bytes on the disk. Files that several parts share count for the first one.
    pub bytes: u64,
    /// When a command last used it.
    pub used: SystemTime,
    /// Whether a running command uses it.
    pub in_use: bool,
    path: PathBuf,
}

/// A choice of parts to remove.
#[derive(Clone, Copy, Debug)]
pub enum Prune {
    /// Those that were not used for this long.
    Unused(Duration),
    /// The least recently used ones, until the rest has at most so many bytes.
    UntilSize(u64),
    /// All.
    All,
}

/// Returns all parts, the most recently used first.
pub fn stored(cache: &Cache) -> Result<Vec<Stored>> {
    let mut parts = Vec::new();
    for kind in directories(cache.root())? {
        if kind.ends_with(APT) {
            parts.extend(apt_parts(&kind)?);
            continue;
        }
        for entry in directories(&kind)?
            .into_iter()
            .filter(|path| is_entry(path))
        {
            let lock = open_lock(&lock_of(&entry))?;
            parts.push(Stored {
                kind: name_of(&kind),
                name: name_of(&entry),
                bytes: 0,
                used: lock.metadata()?.modified()?,
                in_use: lock.try_lock().is_err(),
                path: entry,
            });
        }
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.used));
    let mut counted = HashSet::new();
    for part in &mut parts {
        part.bytes = bytes_of(&part.path, &mut counted)?;
    }
    Ok(parts)
}

/// The lists, and the package files.
fn apt_parts(home: &Path) -> Result<Vec<Stored>> {
    let in_use = open_lock(&home.join(KIND_LOCK))?.try_lock().is_err();
    let mut parts = Vec::new();
    for (name, directory) in [("lists", "state"), ("packages", "archives")] {
        let path = home.join(directory);
        if path.is_dir() {
            parts.push(Stored {
                kind: APT.to_owned(),
                name: name.to_owned(),
                bytes: 0,
                used: newest(&path)?,
                in_use,
                path,
            });
        }
    }
    Ok(parts)
}

/// Returns when a file of the directory, or its list of files, was last modified: package files are
/// at each use.
fn newest(directory: &Path) -> Result<SystemTime> {
    let mut newest = fs::metadata(directory)?.modified()?;
    for item in fs::read_dir(directory)? {
        newest = newest.max(item?.metadata()?.modified()?);
    }
    Ok(newest)
}

/// Removes parts of the cache, and what killed commands have left. Returns those that are gone.
///
/// # Errors
///
/// If a file can't be removed. The others stay then.
pub fn prune(cache: &Cache, which: Prune) -> Result<Vec<Stored>> {
    remove_leftovers(cache.root())?;
    let parts = stored(cache)?;
    let mut left: u64 = parts.iter().map(|part| part.bytes).sum();
    let mut gone = Vec::new();
    for part in parts.into_iter().rev() {
        let wanted = match which {
            Prune::Unused(age) => part.used.elapsed().is_ok_and(|since| since >= age),
            Prune::UntilSize(bytes) => left > bytes,
            Prune::All => true,
        };
        if wanted && remove(&part)? {
            left = left.saturating_sub(part.bytes);
            gone.push(part);
        }
    }
    Ok(gone)
}

/// Removes a part unless a command uses it; returns whether it did.
fn remove(part: &Stored) -> Result<bool> {
    let home = part.path.parent().context("a part in no directory")?;
    let Some(_making) = lock(&home.join(KIND_LOCK))? else {
        return Ok(false);
    };
    if part.kind == APT {
        let stamp = home.join("updated");
        if part.name == "lists" && stamp.exists() {
            // Without it the lists are read again.
            fs::remove_file(stamp)?;
        }
        fs::remove_dir_all(&part.path)?;
        return Ok(true);
    }
    let Some(_unused) = lock(&lock_of(&part.path))? else {
        return Ok(false);
    };
    discard(&part.path)?;
    Ok(true)
}

/// Takes a lock, if no other process has it.
fn lock(path: &Path) -> Result<Option<File>> {
    let file = open_lock(path)?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// Removes temporary directories, and entries whose making or removal was interrupted.
fn remove_leftovers(root: &Path) -> Result<()> {
    for kind in directories(root)? {
        if name_of(&kind).starts_with(".tmp") {
            let since = fs::metadata(&kind)?.modified()?.elapsed();
            if since.is_ok_and(|since| since > LEFTOVERS_KEPT_FOR) {
                fs::remove_dir_all(&kind)?;
            }
            continue;
        }
        let Some(_making) = lock(&kind.join(KIND_LOCK))? else {
            continue;
        };
        for leftover in directories(&kind)? {
            if name_of(&leftover).starts_with(UNFINISHED) {
                fs::remove_dir_all(leftover)?;
            }
        }
    }
    Ok(())
}

fn directories(path: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut found = Vec::new();
    for item in listing {
        let item = item?;
        if item.file_type()?.is_dir() {
            found.push(item.path());
        }
    }
    found.sort();
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the disk space below `path`, without files that are in `counted`, to which it adds those
/// with several names. What disappears meanwhile does not count.
fn bytes_of(path: &Path, counted: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(0);
    };
    let mut bytes = meta.blocks() * 512;
    if meta.is_dir() {
        for item in fs::read_dir(path).into_iter().flatten() {
            bytes += bytes_of(&item?.path(), counted)?;
        }
    } else if meta.nlink() > 1 && !counted.insert((meta.dev(), meta.ino())) {
        return Ok(0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::cache::{Entry, Key};

    /// A cache with an entry of `kilobytes` for each of these names, used in this order.
    fn cache_with(entries: &[(&str, usize)]) -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path()).unwrap();
        let now = SystemTime::now();
        for (age, (kind, kilobytes)) in entries.iter().rev().enumerate() {
            let entry = make(&cache, kind, *kilobytes);
            let used = now - Duration::from_hours(1 + age as u64);
            open_lock(&lock_of(&entry))
                .unwrap()
                .set_modified(used)
                .unwrap();
        }
        (directory, cache)
    }

    fn make(cache: &Cache, kind: &str, kilobytes: usize) -> Entry {
        let fill = |path: &Path| Ok(fs::write(path.join("data"), vec![1; kilobytes * 1024])?);
        cache.entry(kind, &Key::new("test"), fill).unwrap()
    }

    fn kinds(parts: &[Stored]) -> Vec<&str> {
        parts.iter().map(|part| part.kind.as_str()).collect()
    }

    #[test]
    fn parts_are_listed_with_size_and_last_use() {
        let (_directory, cache) = cache_with(&[("old", 100), ("new", 300)]);
        let parts = stored(&cache).unwrap();
        assert_eq!(kinds(&parts), ["new", "old"]);
        assert!((300..400).contains(&(parts[0].bytes / 1024)), "{parts:?}");
        assert!(parts.iter().all(|part| !part.in_use));
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let (_directory, cache) = cache_with(&[("a", 100), ("b", 100), ("c", 100)]);
        let gone = prune(&cache, Prune::UntilSize(250 * 1024)).unwrap();
        assert_eq!(kinds(&gone), ["a"]);
        let gone = prune(&cache, Prune::Unused(Duration::from_secs(90 * 60))).unwrap();
        assert_eq!(kinds(&gone), ["b"]);
        assert_eq!(kinds(&stored(&cache).unwrap()), ["c"]);
    }

    #[test]
    fn what_a_command_uses_or_makes_stays() {
        let (directory, cache) = cache_with(&[("free", 1), ("made", 1)]);
        let _held = make(&cache, "held", 1);
        // Another process makes an entry of this kind.
        let making = directory.path().join("made").join(KIND_LOCK);
        let _making = lock(&making).unwrap().unwrap();
        let gone = prune(&cache, Prune::All).unwrap();
        assert_eq!(kinds(&gone), ["free"]);
    }

    #[test]
    fn half_removed_entries_go_at_the_next_time() {
        let (directory, cache) = cache_with(&[("a", 1)]);
        let half = directory.path().join("a").join(format!("{UNFINISHED}x"));
        fs::create_dir(&half).unwrap();
        assert!(
            prune(&cache, Prune::UntilSize(u64::MAX))
                .unwrap()
                .is_empty()
        );
        assert!(!half.exists());
    }

    #[test]
    fn files_with_several_names_count_once() {
        let (directory, cache) = cache_with(&[("a", 200)]);
        let files = directory.path().join("apt/archives");
        fs::create_dir_all(&files).unwrap();
        let entry = stored(&cache)
            .unwrap()
            .into_iter()
            .find(|part| part.kind == "a")
            .unwrap();
        fs::hard_link(entry.path.join("data"), files.join("x.deb")).unwrap();
        let total: u64 = stored(&cache).unwrap().iter().map(|part| part.bytes).sum();
        assert!((200..300).contains(&(total / 1024)), "{total}");
    }
}
