//! Debian's kernel source.

use std::process::Command;

use anyhow::Result;

use crate::{
    provision::{
        archive::{Archive, unpack},
        cache::{Cache, Entry, Key},
    },
    step::{download, run, step},
};

/// The source package of the selftests and of test kernels.
pub const SOURCE: &str = "linux-source-7.3";

/// Returns the entry with the whole source, whose directory is the top of the tree.
pub fn unpacked(cache: &Cache) -> Result<Entry> {
    cache.entry("linux-source", &Key::new(SOURCE), |directory| {
        let scratch = tempfile::tempdir_in(cache.root())?;
        let archive = Archive::open(cache)?;
        let debs = download(&format!("download {SOURCE}"), || {
            archive.fetch(&[SOURCE], scratch.path())
        })?;
        step(&format!("unpack {SOURCE}"), || {
            unpack(&debs, scratch.path())?;
            run(Command::new("tar")
                .arg("-C")
                .arg(directory)
                .args(["--strip-components=1", "--no-same-owner", "-xf"])
                .arg(scratch.path().join(format!("usr/src/{SOURCE}.tar.xz"))))
        })?;
        Ok(())
    })
}
