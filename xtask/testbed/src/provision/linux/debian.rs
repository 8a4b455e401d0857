//! Debian's kernels from trixie-backports: images, modules and headers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::kernel::{Headers, Kernel, finish, modules_of};
use crate::{
    provision::{
        archive::{Archive, BACKPORTS, unpack, versions},
        cache::{Cache, Entry, Key},
    },
    step::{download, step},
};

/// Bump when this file makes something else of the same packages.
const RECIPE: &str = "kernel 1";

/// The Linux series of Debian's that zcnic.ko supports, oldest first.
pub const SERIES: [&str; 2] = ["7.2", "7.3"];

/// Parts of Debian's module tree for hardware that guests do not have: three quarters of it.
const UNNEEDED_MODULES: [&str; 24] = [
    "sound",
    "drivers/accel",
    "drivers/ata",
    "drivers/bluetooth",
    "drivers/edac",
    "drivers/gpu",
    "drivers/hid",
    "drivers/hwmon",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/input",
    "drivers/media",
    "drivers/message",
    "drivers/mfd",
    "drivers/mmc",
    "drivers/mtd",
    "drivers/net/wireless",
    "drivers/platform",
    "drivers/power",
    "drivers/scsi",
    "drivers/soundwire",
    "drivers/staging",
    "drivers/thunderbolt",
    "drivers/usb",
];

/// Returns the newest kernel, or the newest of a `series`, which may be one release.
pub(super) fn kernel(cache: &Cache, series: Option<&str>) -> Result<Kernel> {
    let mut key = Key::new(RECIPE);
    if let Some(series) = series {
        key = key.text(series);
    }
    let entry = cache.entry("kernel", &key, |directory| {
        let archive = Archive::open(cache)?;
        let (release, binary) = newest(&archive, series)?;
        download(&format!("download Linux {release}"), || {
            fetch(&archive, &release, &binary, directory)
        })?;
        step("make the image of its modules", || {
            finish(directory, &release)
        })
    })?;
    let headers = files_in(&entry.join("headers"))?;
    Kernel::load(entry, Headers::Debian(headers))
}

/// The header packages of one kernel, without the kernel.
#[derive(Debug)]
pub struct DebianHeaders {
    /// The kernel's release.
    pub release: String,
    /// The package files, as in [`Headers::Debian`].
    pub debs: Vec<PathBuf>,
    _entry: Entry,
}

/// Returns the newest headers of a `series` such as 7.2, or those of one release such as 7.2.6.
///
/// # Errors
///
/// Also if there are none; the error lists those that there are.
pub fn headers(cache: &Cache, series: &str) -> Result<DebianHeaders> {
    let entry = cache.entry("headers", &Key::new(RECIPE).text(series), |directory| {
        let archive = Archive::open(cache)?;
        let releases = releases(&archive, Some(series))?;
        let Some(release) = releases.first() else {
            bail!(
                "{BACKPORTS} has no Linux {series}; it has {}",
                self::releases(&archive, None)?.join(", ")
            );
        };
        let debs = directory.join("debs");
        fs::create_dir(&debs)?;
        download(&format!("download the headers of Linux {release}"), || {
            archive.fetch(
                &header_packages(release).each_ref().map(String::as_str),
                &debs,
            )
        })?;
        Ok(fs::write(directory.join("release"), release)?)
    })?;
    Ok(DebianHeaders {
        release: fs::read_to_string(entry.join("release"))?,
        debs: files_in(&entry.join("debs"))?,
        _entry: entry,
    })
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(directory)?
        .map(|item| Ok(item?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Whether a release is one of `series`, or that of a version such as 7.2.6.
fn is_of(release: &str, series: &str) -> bool {
    release
        .strip_prefix(series)
        .is_some_and(|rest| rest.starts_with(['.', '+']))
}

/// Returns the kernel releases (of a `series`) that trixie-backports has modules for, newest first.
fn releases(archive: &Archive, series: Option<&str>) -> Result<Vec<String>> {
    let mut releases: Vec<_> = archive
        .names("linux-modules-")?
        .into_iter()
        .filter_map(|name| Some(name.strip_prefix("linux-modules-")?.to_owned()))
        .filter(|release| series.is_none_or(|series| is_of(release, series)))
        .filter(|release| release.ends_with("+deb13-amd64"))
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    Ok(releases)
}

/// Returns the newest complete kernel of trixie-backports (of a `series`), and the package with its
/// image. A signed image is preferred, but it appears days later, and a guest without Secure Boot
/// takes either.
fn newest(archive: &Archive, series: Option<&str>) -> Result<(String, String)> {
    let releases = releases(archive, series)?;
    for release in &releases {
        for binary in ["linux-binary", "linux-binary-unsigned"] {
            let binary = format!("{binary}-{release}");
            let needed = [header_packages(release).to_vec(), vec![binary.clone()]].concat();
            let there = needed
                .iter()
                .map(|package| Ok(archive.version(package, BACKPORTS)?.is_some()))
                .collect::<Result<Vec<_>>>()?;
            if there.into_iter().all(|there| there) {
                return Ok((release.clone(), binary));
            }
        }
    }
    bail!(
        "{BACKPORTS} has no complete kernel{}; it has packages of {}",
        series.map_or(String::new(), |series| format!(" {series}")),
        self::releases(archive, None)?.join(", ")
    );
}

/// Returns the numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn header_packages(release: &str) -> [String; 4] {
    let version = release.trim_end_matches("-amd64");
    [
        format!("linux-base-{release}"),
        format!("linux-headers-{release}"),
        format!("linux-headers-{version}-common"),
        format!("linux-kbuild-{version}"),
    ]
}

/// Fills `directory` with `vmlinuz`, `config`, `lib/modules` and the header packages. These are
/// fetched now because the archive may have changed when a driver is built.
fn fetch(archive: &Archive, release: &str, binary: &str, directory: &Path) -> Result<()> {
    let headers = directory.join("headers");
    let scratch = directory.join("scratch");
    for path in [&headers, &scratch] {
        fs::create_dir(path)?;
    }
    let header_names = header_packages(release);
    let mut debs = archive.fetch(&header_names.each_ref().map(String::as_str), &headers)?;
    let image_names = [binary, &format!("linux-modules-{release}")];
    let images = archive.fetch(&image_names, &scratch)?;
    let tree = scratch.join("tree");
    unpack(&images, &tree)?;
    unpack(&debs[..1], &tree)?;
    debs.extend(images);
    fs::write(directory.join("versions"), versions(&debs)?)?;

    let unpacked = tree.join("usr/lib/modules").join(release);
    let image = ["vmlinuz", "vmlinuz.unsigned"].map(|name| unpacked.join(name));
    let image = image
        .iter()
        .find(|path| path.exists())
        .context("the package has no vmlinuz")?;
    fs::rename(image, directory.join("vmlinuz"))?;
    fs::copy(unpacked.join("config"), directory.join("config"))?;
    for unneeded in UNNEEDED_MODULES {
        let path = unpacked.join("kernel").join(unneeded);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    let modules = modules_of(directory, release);
    fs::create_dir_all(modules.parent().context("no parent")?)?;
    fs::rename(unpacked, modules)?;
    Ok(fs::remove_dir_all(scratch)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_or_one_release_is_found() {
        assert!(is_of("7.2.12+deb13-amd64", "7.2"));
        assert!(is_of("7.2.1+deb13-amd64", "7.2.1"));
        assert!(!is_of("7.2.12+deb13-amd64", "7.2.1"));
        assert!(!is_of("7.20.1+deb13-amd64", "7.2"));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("7.10.1+deb13-amd64") > numbers("7.9.12+deb13-amd64"));
        assert!(numbers("7.3.4+deb13-amd64") > numbers("7.2.12+deb13-amd64"));
    }
}
