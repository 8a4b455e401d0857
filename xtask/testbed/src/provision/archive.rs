//! The Debian archive, read through an apt with sources, lists and status of its own below the
//! cache. The host's configuration is neither used for resolving nor changed. Signatures are
//! checked; proxies in the host's apt.conf still apply.
//!
//! The lists are fetched only when something has to be resolved, and then at most once a day. A
//! second run needs no network, because cache entries stay until they are pruned. Package files stay
//! for some days as well, so that a command that failed does not download them again.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    progress,
    provision::{
        cache::{Cache, require_free},
        host::{self, KEYRING},
    },
    step::{describe, download, output, run},
};

/// The mirror.
pub const MIRROR: &str = "http://deb.debian.org/debian";
/// The release of the guest, the build roots and (on older hosts) QEMU.
pub const RELEASE: &str = "trixie";
/// The suite of the kernels.
pub const BACKPORTS: &str = "trixie-backports";
/// The suite of packages whose version in trixie is too old for the selftests.
pub const NEXT: &str = "forky";

/// A file whose modification time is when the lists were read.
const STAMP: &str = "updated";
const LISTS_GOOD_FOR: Duration = Duration::from_hours(24);
/// A package that is missing although the lists are younger than this is missing in the archive.
const LISTS_FRESH_FOR: Duration = Duration::from_mins(10);
/// Package files that no command has used for this long are removed when the lists are read.
const FILES_KEPT_FOR: Duration = Duration::from_hours(7 * 24);

/// Directories below the archive's own: package files, and an empty one.
const FILES: &str = "archives";
const EMPTY: &str = "empty";
const DIRECTORIES: [&str; 5] = [
    "sources",
    "state/lists/partial",
    "cache",
    "archives/partial",
    "empty/partial",
];
/// apt's output when it failed.
const LOG: &str = "apt.log";

/// A file that apt can download.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PackageFile {
    name: String,
    bytes: u64,
}

/// An apt with its own sources, lists and (empty) status.
#[derive(Debug)]
pub struct Archive {
    home: PathBuf,
}

impl Archive {
    /// Opens the archive with lists that are at most a day old, or older ones if the network is
    /// away.
    pub fn open(cache: &Cache) -> Result<Self> {
        let archive = Self {
            home: cache.root().join("apt"),
        };
        let _lock = archive.lock()?;
        archive.update_if_old()?;
        Ok(archive)
    }

    /// Waits until no other process uses our apt, and keeps others from it. Makes its files,
    /// which may have been pruned since the last time.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.home)
            .with_context(|| format!("cannot create {}", self.home.display()))?;
        let lock = File::create(self.home.join("lock"))?;
        lock.lock()?;
        for directory in DIRECTORIES {
            let directory = self.home.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        fs::write(self.home.join("state/status"), "")?;
        // Packages come from a newer suite only if named as `name/suite`.
        fs::write(
            self.home.join("preferences"),
            format!("Package: *\nPin: release n={RELEASE}\nPin-Priority: 990\n"),
        )?;
        Ok(lock)
    }

    /// Returns the keyring that verifies all suites used here.
    pub fn keyring(&self) -> PathBuf {
        let newer = self.home.join("debian-archive-keyring.gpg");
        if newer.exists() {
            newer
        } else {
            PathBuf::from(KEYRING)
        }
    }

    fn update_if_old(&self) -> Result<()> {
        let age = self.age();
        if age.is_some_and(|age| age < LISTS_GOOD_FOR) {
            return Ok(());
        }
        match download("read the Debian archive's lists", || self.update()) {
            Err(_) if age.is_some() => {
                progress::note("the archive can't be reached: going on with older lists");
                Ok(())
            }
            other => {
                other?;
                remove_older(&self.home.join(FILES), FILES_KEPT_FOR)
            }
        }
    }

    /// Returns the age of the lists, if there are any.
    fn age(&self) -> Option<Duration> {
        let read = fs::metadata(self.home.join(STAMP)).ok()?.modified().ok()?;
        SystemTime::now().duration_since(read).ok()
    }

    /// Calls `attempt` to download; if it fails, reads the lists again and retries, since the
    /// archive may have changed.
    fn with_fresh_lists<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        let first = attempt();
        if first.is_ok() || self.age().is_some_and(|age| age < LISTS_FRESH_FOR) {
            return first;
        }
        self.update()?;
        attempt()
    }

    /// Fetches all lists. A host older than a suite may lack the key that signs it. Then the key
    /// comes from the keyring package of the release, which the host's keys verify.
    fn update(&self) -> Result<()> {
        let all = [RELEASE, BACKPORTS, NEXT];
        self.write_sources(&all)?;
        let Err(error) = self.apt_get_update() else {
            return Ok(fs::write(self.home.join(STAMP), "")?);
        };
        let log = fs::read_to_string(self.home.join(LOG)).unwrap_or_default();
        if !log.contains("NO_PUBKEY") {
            return Err(error);
        }
        self.write_sources(&[RELEASE])?;
        self.apt_get_update().context(
            "the host's debian-archive-keyring is too old to verify Debian trixie; upgrade it",
        )?;
        let unpacked = self.home.join("keyring");
        for deb in self.fetch_once(&["debian-archive-keyring"], &self.home)? {
            run(host::command("dpkg-deb").arg("-x").arg(deb).arg(&unpacked))?;
        }
        fs::copy(
            unpacked.join("usr/share/keyrings/debian-archive-keyring.gpg"),
            self.home.join("debian-archive-keyring.gpg"),
        )?;
        self.write_sources(&all)?;
        self.apt_get_update()?;
        Ok(fs::write(self.home.join(STAMP), "")?)
    }

    fn write_sources(&self, suites: &[&str]) -> Result<()> {
        let text = format!(
            "Types: deb\nURIs: {MIRROR}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
            suites.join(" "),
            self.keyring().display()
        );
        Ok(fs::write(self.home.join("sources/debian.sources"), text)?)
    }

    fn apt_get_update(&self) -> Result<()> {
        let mut apt = self.apt("apt-get");
        self.run_apt(
            apt.args(["--error-on=any", "update"]),
            "read the Debian archive's lists",
        )?;
        Ok(())
    }

    /// Runs an apt program to its end and returns its standard output.
    ///
    /// # Errors
    ///
    /// If it fails; the error is one line, and apt's output is kept in a file that it names.
    fn run_apt(&self, apt: &mut Command, what: &str) -> Result<String> {
        let ended = output(apt)?;
        self.result(apt, &ended, what)
    }

    /// As [`Self::run_apt`], for output that is no progress.
    fn ask_apt(&self, apt: &mut Command, what: &str) -> Result<String> {
        let ended = apt
            .output()
            .with_context(|| format!("cannot run `{}`", describe(apt)))?;
        self.result(apt, &ended, what)
    }

    fn result(&self, apt: &Command, ended: &Output, what: &str) -> Result<String> {
        let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
        if ended.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&ended.stderr);
        let log = self.home.join(LOG);
        fs::write(&log, format!("{}\n{stdout}{stderr}", describe(apt)))?;
        bail!(
            "cannot {what} ({MIRROR}): {}; apt's output is in {}",
            first_error(&stderr).map_or_else(|| ended.status.to_string(), str::to_owned),
            log.display()
        );
    }

    /// Returns an apt program that reads only our files.
    fn apt(&self, program: &str) -> Command {
        let mut command = host::command(program);
        command.env("LC_ALL", "C");
        for (option, value) in [
            ("Dir::Etc::sourcelist", Path::new("/dev/null").to_owned()),
            ("Dir::Etc::sourceparts", self.home.join("sources")),
            ("Dir::Etc::preferences", self.home.join("preferences")),
            (
                "Dir::Etc::preferencesparts",
                Path::new("/dev/null").to_owned(),
            ),
            ("Dir::State", self.home.join("state")),
            ("Dir::State::status", self.home.join("state/status")),
            ("Dir::Cache", self.home.join("cache")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        for option in [
            "APT::Architecture=amd64",
            "APT::Architectures=amd64",
            // apt's own user may not be able to write to the cache.
            "APT::Sandbox::User=root",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
            "Acquire::Retries=3",
        ] {
            command.args(["-o", option]);
        }
        command
    }

    /// Returns the names of all packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = run(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Returns the version of `package` in `suite`, if the suite has it.
    pub fn version(&self, package: &str, suite: &str) -> Result<Option<String>> {
        // "ethtool | 1:7.2-1 | http://deb.debian.org/debian forky/main amd64 Packages"
        let table = run(self.apt("apt-cache").args(["madison", package]))?;
        Ok(table.lines().find_map(|line| {
            let columns: Vec<_> = line.split('|').map(str::trim).collect();
            let [_, version, origin] = columns[..] else {
                return None;
            };
            origin
                .contains(&format!(" {suite}/"))
                .then(|| version.to_owned())
        }))
    }

    /// Downloads `packages` (`name`, `name/suite` or `name=version`) without dependencies into
    /// `directory`, and returns the files in that order.
    pub fn fetch(&self, packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
        let _lock = self.lock()?;
        self.with_fresh_lists(|| self.fetch_once(packages, directory))
    }

    fn fetch_once(&self, packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
        let debs = self.obtain(&["download"], packages, directory)?;
        packages
            .iter()
            .map(|package| {
                let name = package.split(['/', '=']).next().unwrap_or(package);
                debs.iter()
                    .find(|deb| deb_name(deb) == name)
                    .cloned()
                    .ok_or_else(|| anyhow!("apt-get did not download {package}"))
            })
            .collect()
    }

    /// Downloads `packages` and all their dependencies into `directory`, as if nothing were
    /// installed, and returns the files. Packages come from `suite` where it has them, and from the
    /// release otherwise. A package may be a pattern of apt's.
    pub fn fetch_closure(
        &self,
        packages: &[&str],
        suite: &str,
        directory: &Path,
    ) -> Result<Vec<PathBuf>> {
        let install = ["install", "-y", "--no-install-recommends", "-t", suite];
        let _lock = self.lock()?;
        self.with_fresh_lists(|| self.obtain(&install, packages, directory))
    }

    /// Has apt-get download the files of `packages`, but for those that are already here, and links
    /// them into `directory`. The caller holds the lock.
    fn obtain(
        &self,
        request: &[&str],
        packages: &[&str],
        directory: &Path,
    ) -> Result<Vec<PathBuf>> {
        let files = self.home.join(FILES);
        let what = match packages {
            [] => "download nothing".to_owned(),
            [one] => format!("download {one}"),
            [first, others @ ..] => format!("download {first} and {} others", others.len()),
        };
        let apt = |archives: &Path| {
            let mut apt = self.apt("apt-get");
            apt.arg("-o")
                .arg(format!("Dir::Cache::archives={}", archives.display()))
                .current_dir(archives);
            apt
        };
        // With a directory that has none of them it prints them all.
        let empty = self.home.join(EMPTY);
        let printed = self.ask_apt(
            apt(&empty)
                .args(["--print-uris", "-qq"])
                .args(request)
                .args(packages),
            &what,
        )?;
        let wanted: Vec<_> = printed.lines().filter_map(package_file).collect();
        if wanted.is_empty() {
            bail!("cannot {what}: apt-get names no file");
        }
        let total: u64 = wanted.iter().map(|file| file.bytes).sum();
        let present = present(&files, &wanted);
        if present < total {
            require_free(&files, total - present, &what)?;
        }
        let gauge = {
            let (files, wanted) = (files.clone(), wanted.clone());
            move || {
                of_total(
                    present_now(&files, &wanted).saturating_sub(present),
                    total - present,
                )
            }
        };
        let measured = (present < total).then(|| progress::measure(gauge));
        // It also compares the files that are here with the lists' hashes.
        self.run_apt(
            apt(&files)
                .arg("--download-only")
                .args(request)
                .args(packages),
            &what,
        )?;
        drop(measured);

        fs::create_dir_all(directory)?;
        let mut debs = Vec::new();
        for PackageFile { name, .. } in &wanted {
            let kept = files.join(name);
            let deb = directory.join(name);
            File::options()
                .append(true)
                .open(&kept)?
                .set_modified(SystemTime::now())?;
            if fs::hard_link(&kept, &deb).is_err() {
                fs::copy(&kept, &deb).with_context(|| format!("cannot copy {}", kept.display()))?;
            }
            debs.push(deb);
        }
        debs.sort();
        Ok(debs)
    }

    /// Links the release's lists into `directory`, for an apt of a guest.
    pub fn lists_of_release(&self, directory: &Path) -> Result<()> {
        let _lock = self.lock()?;
        fs::create_dir_all(directory)?;
        for item in fs::read_dir(self.home.join("state/lists"))? {
            let path = item?.path();
            let name = path.file_name().unwrap_or_default();
            if name
                .to_string_lossy()
                .contains(&format!("_dists_{RELEASE}_"))
            {
                fs::copy(&path, directory.join(name))?;
            }
        }
        Ok(())
    }
}

/// Reads a line of `apt-get --print-uris`: `'URI' NAME BYTES HASH`. A file of this machine is not
/// downloaded.
fn package_file(line: &str) -> Option<PackageFile> {
    let rest = line.strip_prefix("'http")?;
    let mut words = rest.split(' ').skip(1);
    let name = words.next()?.to_owned();
    let bytes = words.next()?.parse().ok()?;
    name.ends_with(".deb")
        .then_some(PackageFile { name, bytes })
}

/// Returns the bytes of those `wanted` files that are complete in `files`.
fn present(files: &Path, wanted: &[PackageFile]) -> u64 {
    let size = |name: &str| fs::metadata(files.join(name)).map_or(0, |meta| meta.len());
    let complete = wanted.iter().filter(|file| size(&file.name) == file.bytes);
    complete.map(|file| file.bytes).sum()
}

/// As [`present`], with the parts of those that are being downloaded.
fn present_now(files: &Path, wanted: &[PackageFile]) -> u64 {
    let partial = files.join("partial");
    let begun = wanted
        .iter()
        .map(|file| fs::metadata(partial.join(&file.name)).map_or(0, |meta| meta.len()));
    present(files, wanted) + begun.sum::<u64>()
}

/// Returns such as `12 of 85 MB`.
fn of_total(bytes: u64, total: u64) -> String {
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    format!("{} of {} MB", megabytes(bytes), megabytes(total))
}

/// Returns apt's first error, without its mark.
fn first_error(stderr: &str) -> Option<&str> {
    let mut lines = stderr.lines();
    let error = lines.find_map(|line| line.strip_prefix("E: "))?;
    Some(error.trim())
}

/// Removes files of `directory` that were not modified for `age`.
fn remove_older(directory: &Path, age: Duration) -> Result<()> {
    for item in fs::read_dir(directory)? {
        let item = item?;
        let meta = item.metadata()?;
        let old = meta.modified()?.elapsed().is_ok_and(|since| since > age);
        if meta.is_file() && old {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

/// Unpacks `debs` over `directory`. None of their scripts run.
pub fn unpack(debs: &[PathBuf], directory: &Path) -> Result<()> {
    for deb in debs {
        progress::detail(&format!("unpack {}", deb_name(deb)));
        run(host::command("dpkg-deb").arg("-x").arg(deb).arg(directory))?;
    }
    Ok(())
}

/// Returns `name version` lines of `debs`, for the record in a cache entry.
pub fn versions(debs: &[PathBuf]) -> Result<String> {
    let mut lines = Vec::new();
    for deb in debs {
        let show = "--showformat=${Package} ${Version}\n";
        lines.push(run(host::command("dpkg-deb").args(["-W", show]).arg(deb))?);
    }
    lines.sort();
    Ok(lines.concat())
}

/// Returns the package's name: file names are `name_version_architecture.deb`.
fn deb_name(deb: &Path) -> &str {
    let file = deb
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    file.split('_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_apt_prints() {
        let line = "'http://deb.debian.org/debian/pool/main/e/ethtool/ethtool_7.2-1_amd64.deb' \
                    ethtool_1%3a7.2-1_amd64.deb 309516 SHA256:16899557";
        let file = PackageFile {
            name: "ethtool_1%3a7.2-1_amd64.deb".to_owned(),
            bytes: 309_516,
        };
        assert_eq!(package_file(line), Some(file));
        for other in [
            "Reading package lists...",
            "'file:/a/b_1_amd64.deb' b_1_amd64.deb 10 ",
        ] {
            assert_eq!(package_file(other), None);
        }
    }

    #[test]
    fn of_apt_s_errors_the_first_is_told() {
        let offline = "Err:1 http://deb.debian.org/debian trixie InRelease\n\
                       E: Failed to fetch http://deb.debian.org/x  Could not resolve 'deb.debian.org'\n\
                       E: Some index files failed to download.\n";
        let error = first_error(offline).unwrap();
        assert!(
            error.ends_with("Could not resolve 'deb.debian.org'"),
            "{error}"
        );
        assert_eq!(first_error("W: careful\n"), None);
    }

    #[test]
    fn only_what_is_complete_counts_as_present() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("partial")).unwrap();
        fs::write(directory.path().join("a.deb"), [0; 10]).unwrap();
        fs::write(directory.path().join("b.deb"), [0; 3]).unwrap();
        fs::write(directory.path().join("partial/c.deb"), [0; 4]).unwrap();
        let wanted = ["a.deb", "b.deb", "c.deb"].map(|name| PackageFile {
            name: name.to_owned(),
            bytes: 10,
        });
        assert_eq!(present(directory.path(), &wanted), 10);
        assert_eq!(present_now(directory.path(), &wanted), 14);
        assert_eq!(of_total(14, 30_000_000), "1 of 30 MB");
    }
}
