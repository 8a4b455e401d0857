//! The Debian archive, read through an apt with sources, lists and status of its own below the
//! cache. The host's configuration is neither used for resolving nor changed. Signatures are
//! checked; proxies in the host's apt.conf still apply.
//!
//! The lists are fetched only when something has to be resolved, and then at most once a day. A
//! second run needs no network, because cache entries stay until they are pruned.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    provision::{
        cache::Cache,
        host::{self, KEYRING},
    },
    step::{download, run},
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
        for directory in ["sources", "state/lists/partial", "cache/archives/partial"] {
            let directory = archive.home.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        fs::write(archive.home.join("state/status"), "")?;
        // Packages come from a newer suite only if named as `name/suite`.
        fs::write(
            archive.home.join("preferences"),
            format!("Package: *\nPin: release n={RELEASE}\nPin-Priority: 990\n"),
        )?;
        let lock = fs::File::create(archive.home.join("lock"))?;
        lock.lock()?;
        archive.update_if_old()?;
        Ok(archive)
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
                eprintln!("         the archive can't be reached: going on with older lists");
                Ok(())
            }
            other => other,
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
        if !format!("{error:#}").contains("NO_PUBKEY") {
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
        run(self.apt("apt-get").args(["--error-on=any", "update"])).map(drop)
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
        self.with_fresh_lists(|| self.fetch_once(packages, directory))
    }

    fn fetch_once(&self, packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
        run(self
            .apt("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(directory))?;
        let debs = debs_in(directory)?;
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
    /// release otherwise.
    pub fn fetch_closure(
        &self,
        packages: &[&str],
        suite: &str,
        directory: &Path,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(directory.join("partial"))?;
        self.with_fresh_lists(|| {
            run(self
                .apt("apt-get")
                .arg("-o")
                .arg(format!("Dir::Cache::archives={}", directory.display()))
                .args([
                    "install",
                    "-y",
                    "--download-only",
                    "--no-install-recommends",
                ])
                .args(["-t", suite])
                .args(packages))
        })?;
        debs_in(directory)
    }
}

/// Unpacks `debs` over `directory`. None of their scripts run.
pub fn unpack(debs: &[PathBuf], directory: &Path) -> Result<()> {
    for deb in debs {
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

fn debs_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    if debs.is_empty() {
        bail!("apt-get downloaded nothing into {}", directory.display());
    }
    debs.sort();
    Ok(debs)
}

/// Returns the package's name: file names are `name_version_architecture.deb`.
fn deb_name(deb: &Path) -> &str {
    let file = deb
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    file.split('_').next().unwrap_or_default()
}
