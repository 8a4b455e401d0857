//! The user's own kernel: a bzImage, or a tree in which one was built.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    kernel::{Headers, Kernel, finish, modules_of, require_zcrx},
    tree::Tree,
};
use crate::{
    provision::{
        cache::{Cache, Key},
        host,
    },
    step::{run, step},
};

/// Bump when this file makes something else of the same files.
const RECIPE: &str = "own kernel 2";

/// The user's kernel, as found.
pub(super) struct Own {
    path: PathBuf,
    is_tree: bool,
    image: PathBuf,
    release: String,
}

/// Finds the kernel at `path`, without making anything of it.
pub(super) fn find(path: &Path, zcrx: bool) -> Result<Own> {
    let path = path
        .canonicalize()
        .with_context(|| format!("--kernel {}", path.display()))?;
    let is_tree = path.is_dir();
    let image = if is_tree {
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
    if zcrx && is_tree {
        let text = fs::read_to_string(&config)
            .with_context(|| format!("--kernel: cannot read {}", config.display()))?;
        require_zcrx(&text, &release)?;
    }
    Ok(Own {
        path,
        is_tree,
        image,
        release,
    })
}

/// Packs the kernel at `path` for a guest, and the modules if `path` is a tree.
pub(super) fn kernel(cache: &Cache, path: &Path, zcrx: bool) -> Result<Kernel> {
    let Own {
        path,
        is_tree,
        image,
        release,
    } = find(path, zcrx)?;
    let config = path.join(".config");
    let headers = match Tree::open(cache, &path)? {
        Some(tree) => Headers::Tree(tree),
        None if is_tree => Headers::Own(path.clone()),
        None => Headers::Unknown,
    };
    let mut key = Key::new(RECIPE).text(path.to_string_lossy()).file(&image)?;
    if is_tree {
        key = key.text(state_of_modules(&path)?);
    }
    let entry = cache.entry("own-kernel", &key, |directory| {
        fs::copy(&image, directory.join("vmlinuz"))?;
        fs::create_dir_all(modules_of(directory, &release))?;
        if is_tree {
            fs::copy(&config, directory.join("config"))?;
            step(&format!("collect the modules of Linux {release}"), || {
                let mut install = match &headers {
                    Headers::Tree(tree) => tree.install_modules(directory),
                    _ => {
                        let mut make = host::command("make");
                        make.arg(format!("INSTALL_MOD_PATH={}", directory.display()))
                            .current_dir(&path);
                        make
                    }
                };
                run(install.args([
                    "-s",
                    "INSTALL_MOD_STRIP=1",
                    "DEPMOD=true",
                    "modules_install",
                ]))
            })?;
        }
        finish(directory, &release)
    })?;
    Kernel::load(entry, headers)
}

/// Returns size and time of every module in the tree: modules may change while the image stays the
/// same.
fn state_of_modules(tree: &Path) -> Result<String> {
    let Ok(order) = fs::read_to_string(tree.join("modules.order")) else {
        return Ok(String::new());
    };
    let state = |line: &str| {
        let module = tree.join(line).with_extension("ko");
        let meta =
            fs::metadata(&module).with_context(|| format!("cannot read {}", module.display()))?;
        Ok(format!("{line} {} {:?}\n", meta.len(), meta.modified()?))
    };
    order.lines().map(state).collect()
}

/// Returns the release in a bzImage's set-up header (Documentation/arch/x86/boot.rst,
/// kernel_version).
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
