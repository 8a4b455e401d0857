//! A kernel that a guest can boot, as a cache entry holds it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::tree::Tree;
use crate::{
    provision::{bootstrap::ext4_image, cache::Entry, host},
    step::run,
};

/// The headers that a module is compiled against.
#[derive(Debug)]
pub enum Headers {
    /// Files of Debian packages: linux-headers, its common part, linux-kbuild and linux-base.
    Debian(Vec<PathBuf>),
    /// A kernel tree that its owner built, with the host's tools.
    Own(PathBuf),
    /// A kernel that was compiled here.
    Tree(Tree),
    /// None, because only a kernel image was given.
    Unknown,
}

/// A kernel that a guest can boot.
#[derive(Debug)]
pub struct Kernel {
    /// The release, as `uname -r` prints it.
    pub release: String,
    /// The image for `-kernel`.
    pub vmlinuz: PathBuf,
    /// `/lib/modules/RELEASE`: `kernel/…`, `modules.dep`.
    pub modules: PathBuf,
    /// The same as an ext4 image.
    pub modules_image: PathBuf,
    /// The headers for modules.
    pub headers: Headers,
    /// Its `.config`, if known.
    pub config: Option<String>,
    _entry: Entry,
}

impl Kernel {
    /// Returns the kernel of an entry that [`finish`] completed.
    pub(super) fn load(entry: Entry, headers: Headers) -> Result<Self> {
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

pub(super) fn require_zcrx(config: &str, release: &str) -> Result<()> {
    if config.lines().any(|line| line == "CONFIG_IO_URING_ZCRX=y") {
        return Ok(());
    }
    bail!(
        "Linux {release} has no io_uring zero-copy receive: it needs CONFIG_IO_URING_ZCRX=y \
         (Linux 6.15 or newer with CONFIG_PAGE_POOL, CONFIG_INET and CONFIG_NET_RX_BUSY_POLL)"
    );
}

pub(super) fn modules_of(entry: &Path, release: &str) -> PathBuf {
    entry.join("lib/modules").join(release)
}

/// Completes an entry that has `vmlinuz`, `lib/modules/RELEASE` and, where known, `config`: adds
/// the module index, the modules' image and the release.
pub(super) fn finish(directory: &Path, release: &str) -> Result<()> {
    run(host::command("depmod")
        .arg("-b")
        .arg(directory)
        .arg(release))?;
    ext4_image(
        &modules_of(directory, release),
        &directory.join("modules.img"),
        "modules",
    )?;
    Ok(fs::write(directory.join("release"), release)?)
}
