//! The guest's kernel: the newest bootable one of trixie-backports, or the user's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    archive::{Archive, BACKPORTS, unpack, versions},
    bootstrap::ext4_image,
    cache::{Cache, Entry, Key},
    host::find_program,
    step::{download, run, step},
};

/// Bump when this file makes something else of the same packages.
const RECIPE: &str = "kernel 1";

/// Parts of Debian's module tree that no guest of ours has hardware for: three quarters of it.
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

/// What a module is compiled against.
#[derive(Debug)]
pub(crate) enum Headers {
    /// Debian packages: linux-headers, its common part, linux-kbuild and linux-base.
    Debian(Vec<PathBuf>),
    /// A kernel tree that was built by its owner.
    Tree(PathBuf),
    /// None: a kernel image alone.
    Unknown,
}

/// A kernel that a guest can boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` will say.
    pub(crate) release: String,
    /// The image for `-kernel`.
    pub(crate) vmlinuz: PathBuf,
    /// `/lib/modules/RELEASE`: `kernel/…`, `modules.dep`.
    pub(crate) modules: PathBuf,
    /// The same as an ext4 image.
    pub(crate) modules_image: PathBuf,
    /// For building modules.
    pub(crate) headers: Headers,
    /// Its configuration, where known.
    pub(crate) config: Option<String>,
    _entry: Entry,
}

impl Kernel {
    /// The user's kernel if a path is given, Debian's otherwise; with `zcrx`, fails unless it has
    /// io_uring zero-copy receive. One whose configuration is not known gets the benefit of the doubt.
    pub(crate) fn ensure(cache: &Cache, own: Option<&Path>, zcrx: bool) -> Result<Self> {
        let kernel = match own {
            Some(path) => Self::own(cache, path, zcrx)?,
            None => Self::debian(cache)?,
        };
        if zcrx && let Some(config) = &kernel.config {
            require_zcrx(config, &kernel.release)?;
        }
        Ok(kernel)
    }

    fn debian(cache: &Cache) -> Result<Self> {
        let entry = cache.entry("kernel", &Key::new(RECIPE), |directory| {
            let archive = Archive::open(cache)?;
            let (release, binary) = newest(&archive)?;
            download(&format!("download Linux {release}"), || {
                fetch(&archive, &release, &binary, directory)
            })?;
            step("make the image of its modules", || {
                finish(directory, &release)
            })
        })?;
        let headers = files_in(&entry.join("headers"))?;
        Self::load(entry, Headers::Debian(headers))
    }

    /// A bzImage, or a kernel tree in which one was built; of a tree the modules are taken too.
    fn own(cache: &Cache, path: &Path, zcrx: bool) -> Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("--kernel {}", path.display()))?;
        let tree = path.is_dir();
        let image = if tree {
            path.join("arch/x86/boot/bzImage")
        } else {
            path.clone()
        };
        let content = fs::read(&image).with_context(|| {
            format!(
                "--kernel: cannot read {} (a bzImage or a built tree is wanted)",
                image.display()
            )
        })?;
        let Some(release) = release_of(&content) else {
            bail!(
                "--kernel: {} is not an x86 kernel image (bzImage)",
                image.display()
            );
        };
        let config = path.join(".config");
        if zcrx && tree {
            // Before anything is made of it.
            let text = fs::read_to_string(&config)
                .with_context(|| format!("--kernel: cannot read {}", config.display()))?;
            require_zcrx(&text, &release)?;
        }
        let key = Key::new(RECIPE)
            .text("own")
            .text(path.to_string_lossy())
            .file(&image)?;
        let entry = cache.entry("own-kernel", &key, |directory| {
            fs::copy(&image, directory.join("vmlinuz"))?;
            let modules = modules_of(directory, &release);
            fs::create_dir_all(&modules)?;
            if tree {
                fs::copy(&config, directory.join("config"))?;
                step(&format!("collect the modules of Linux {release}"), || {
                    run(Command::new("make")
                        .args(["-s", "INSTALL_MOD_STRIP=1", "modules_install"])
                        .arg(format!("INSTALL_MOD_PATH={}", directory.display()))
                        .current_dir(&path))
                })?;
            }
            finish(directory, &release)
        })?;
        Self::load(
            entry,
            if tree {
                Headers::Tree(path)
            } else {
                Headers::Unknown
            },
        )
    }

    fn load(entry: Entry, headers: Headers) -> Result<Self> {
        let release = fs::read_to_string(entry.join("release"))?;
        Ok(Self {
            vmlinuz: entry.join("vmlinuz"),
            modules: modules_of(&entry, &release),
            modules_image: entry.join("modules.img"),
            config: fs::read_to_string(entry.join("config")).ok(),
            headers,
            release,
            _entry: entry,
        })
    }
}

fn require_zcrx(config: &str, release: &str) -> Result<()> {
    if config.lines().any(|line| line == "CONFIG_IO_URING_ZCRX=y") {
        return Ok(());
    }
    bail!(
        "Linux {release} has no io_uring zero-copy receive: it needs CONFIG_IO_URING_ZCRX=y \
         (Linux 6.15 or newer with CONFIG_PAGE_POOL, CONFIG_INET and CONFIG_NET_RX_BUSY_POLL)"
    );
}

fn modules_of(entry: &Path, release: &str) -> PathBuf {
    entry.join("lib/modules").join(release)
}

/// The header packages of one kernel, without the kernel.
#[derive(Debug)]
pub(crate) struct DebianHeaders {
    /// The kernel's release.
    pub(crate) release: String,
    /// As in [`Headers::Debian`].
    pub(crate) debs: Vec<PathBuf>,
    _entry: Entry,
}

/// The newest headers of a `series` such as 7.2.
pub(crate) fn headers(cache: &Cache, series: &str) -> Result<DebianHeaders> {
    let entry = cache.entry("headers", &Key::new(RECIPE).text(series), |directory| {
        let archive = Archive::open(cache)?;
        let releases = releases(&archive)?;
        let release = releases
            .iter()
            .find(|release| release.starts_with(&format!("{series}.")))
            .with_context(|| format!("{BACKPORTS} has no Linux {series}"))?;
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

/// The kernel releases that trixie-backports has modules for, newest first.
fn releases(archive: &Archive) -> Result<Vec<String>> {
    let mut releases: Vec<_> = archive
        .names("linux-modules-")?
        .into_iter()
        .filter_map(|name| Some(name.strip_prefix("linux-modules-")?.to_owned()))
        .filter(|release| release.ends_with("+deb13-amd64"))
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    Ok(releases)
}

/// The newest kernel of trixie-backports that is complete, and the package with its image. A signed
/// image is preferred, but it appears days later, and a guest without Secure Boot takes either.
fn newest(archive: &Archive) -> Result<(String, String)> {
    let releases = releases(archive)?;
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
        "{BACKPORTS} has no complete kernel (of {})",
        releases.join(", ")
    );
}

/// The numbers of a version, for comparing.
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

/// Fills `directory` with `vmlinuz`, `config`, `lib/modules`, and the header packages, which are
/// fetched now because the archive may have moved on when a driver is built.
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

/// Adds the module index, the image and the release to an entry that has all else.
fn finish(directory: &Path, release: &str) -> Result<()> {
    let depmod = find_program("depmod").context("depmod is missing")?;
    run(Command::new(depmod).arg("-b").arg(directory).arg(release))?;
    ext4_image(
        &modules_of(directory, release),
        &directory.join("modules.img"),
        "modules",
    )?;
    Ok(fs::write(directory.join("release"), release)?)
}

/// The release in a bzImage's set-up header (Documentation/arch/x86/boot.rst, kernel_version).
fn release_of(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image
        .get(usize::from(offset) + 0x200..)?
        .split(|byte| *byte == 0)
        .next()?;
    let text = std::str::from_utf8(text).ok()?;
    text.split(' ')
        .next()
        .filter(|release| !release.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("7.10.1+deb13-amd64") > numbers("7.9.12+deb13-amd64"));
        assert!(numbers("7.3.4+deb13-amd64") > numbers("7.2.12+deb13-amd64"));
    }

    #[test]
    fn a_kernel_image_tells_its_release() {
        let mut image = vec![0; 0x400];
        assert_eq!(release_of(&image), None);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x30e].copy_from_slice(b"7.3.4-rc1 (me)");
        assert_eq!(release_of(&image).as_deref(), Some("7.3.4-rc1"));
        assert_eq!(release_of(b"\x7fELF"), None);
    }
}
