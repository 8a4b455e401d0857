//! The initrd: a few megabytes, rebuilt whenever our own programs change, so that the images need
//! not be.
//!
//! `/init` is `zcnic-guest`. `/modules` holds the modules for the disks, decompressed, in the order
//! of loading. `/carry` holds the files that init copies to `/run/zcnic` of the running guest.

use std::{
    fs,
    fs::File,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cpio::{NewcBuilder, newc::trailer};

use crate::{
    provision::{
        cache::{Cache, Entry, Key},
        host,
        linux::kernel::Kernel,
        programs,
    },
    step::output,
};

/// Modules that are needed before the module tree is mounted; modules.dep adds their dependencies.
const MODULES: [&str; 3] = ["virtio_blk", "ext4", "overlay"];

/// Returns the entry with the initrd for `kernel`, which carries `drivers` (`.ko` files) along.
/// Builds the guest's programs first.
pub fn ensure(cache: &Cache, kernel: &Kernel, drivers: &[PathBuf]) -> Result<Entry> {
    let built = programs::build()?;
    let programs = [built.zcnic_guest, built.zcnicctl];
    let mut key = Key::new("initrd 3")
        .text(&kernel.release)
        .text(PYTHON_SOURCE);
    for program in &programs {
        key = key.file(program)?;
    }
    key = key.file(&kernel.modules.join("modules.dep"))?;
    for driver in drivers {
        key = key.file(driver)?;
    }
    cache.entry("initrd", &key, |directory| {
        let mut archive = CpioArchive(File::create(image(directory))?);
        archive.directory("modules")?;
        for (place, module) in load_order(&kernel.modules)?.iter().enumerate() {
            let content = decompressed(&kernel.modules.join(module))?;
            let name = Path::new(module)
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let name = name.split(".ko").next().unwrap_or_default();
            archive.file(&format!("modules/{place:02}-{name}.ko"), 0o644, &content)?;
        }
        archive.directory("carry")?;
        for (name, program) in PROGRAMS.iter().zip(&programs) {
            archive.file(&format!("carry/{name}"), 0o755, &fs::read(program)?)?;
        }
        archive.file(
            &format!("carry/{PYTHON_CLIENT}"),
            0o644,
            PYTHON_SOURCE.as_bytes(),
        )?;
        for driver in drivers {
            let name = driver.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&format!("carry/{name}"), 0o644, &fs::read(driver)?)?;
        }
        archive.file("init", 0o755, &fs::read(&programs[0])?)?;
        archive.finish()
    })
}

/// Returns the path of the image in an entry.
pub fn image(entry: &Path) -> PathBuf {
    entry.join("initrd.img")
}

/// Our programs in the guest; the first one is its init.
const PROGRAMS: [&str; 2] = ["zcnic-guest", "zcnicctl"];

/// Returns the paths below `modules` of all that [`MODULES`] need, dependencies first. Modules that
/// are built into the kernel are not listed there and not needed here.
fn load_order(modules: &Path) -> Result<Vec<String>> {
    let index = modules.join("modules.dep");
    let index =
        fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))?;
    Ok(order(&index, &MODULES))
}

/// The Python client of the control socket, which init makes importable.
const PYTHON_CLIENT: &str = "zcnic.py";
/// Its source, compiled in for an installation without the sources.
const PYTHON_SOURCE: &str = include_str!("../../../../ctl/python/zcnic.py");

/// Returns the order of loading by modules.dep. Its lines are `module: dependency …`, direct and
/// indirect dependencies, each after the modules that need it.
fn order(index: &str, wanted: &[&str]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let Some((module, dependencies)) = index
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| {
                file(module)
                    .split(".ko")
                    .next()
                    .unwrap_or_default()
                    .replace('-', "_")
                    == *name
            })
        else {
            continue;
        };
        for path in dependencies.split_whitespace().rev().chain([module]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    order
}

fn decompressed(module: &Path) -> Result<Vec<u8>> {
    let extension = module.extension().unwrap_or_default().to_string_lossy();
    let tool = match &*extension {
        "ko" => return Ok(fs::read(module)?),
        "xz" => "xz",
        "zst" => "zstd",
        "gz" => "gzip",
        other => bail!("{}: no way to decompress .{other}", module.display()),
    };
    let result = output(host::command(tool).arg("-dc").arg(module))?;
    if !result.status.success() {
        bail!("{tool} cannot decompress {}", module.display());
    }
    Ok(result.stdout)
}

/// A cpio archive that is written, in the kernel's format ("newc").
struct CpioArchive(File);

impl CpioArchive {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(NewcBuilder::new(name).mode(0o040_755).nlink(2), &[])
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.entry(
            NewcBuilder::new(name)
                .mode(0o100_000 | permissions)
                .nlink(1),
            content,
        )
    }

    fn entry(&mut self, header: NewcBuilder, content: &[u8]) -> Result<()> {
        let length = u32::try_from(content.len()).context("too large for an initrd")?;
        let mut buffer = Cursor::new(Vec::new());
        let mut writer = header.write(&mut buffer, length);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(self.0.write_all(buffer.get_ref())?)
    }

    fn finish(mut self) -> Result<()> {
        trailer(&mut self.0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let index = "kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz kernel/lib/crc16.ko.xz\n\
                     kernel/fs/mbcache.ko.xz: kernel/lib/crc16.ko.xz\n\
                     kernel/lib/crc16.ko.xz:\n\
                     kernel/drivers/block/virtio-blk.ko.xz:\n";
        assert_eq!(
            order(index, &["ext4", "virtio_blk", "builtin", "mbcache"]),
            [
                "kernel/lib/crc16.ko.xz",
                "kernel/fs/mbcache.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz",
                "kernel/drivers/block/virtio-blk.ko.xz",
            ]
        );
    }
}
