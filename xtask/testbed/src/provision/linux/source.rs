//! Debian's kernel source.

use anyhow::Result;

use crate::{
    provision::{
        archive::{Archive, unpack},
        cache::{Cache, Entry, Key},
        host,
    },
    step::{download, run, step},
};

/// The source package of the selftests and of test kernels.
pub const SOURCE: &str = "linux-source-7.3";

/// Returns the entry with the whole source, whose directory is the top of the tree.
pub fn unpacked(cache: &Cache) -> Result<Entry> {
    ensure(cache, "linux-source", &[])
}

/// Returns the entry of this `kind` with these `parts` of the source, relative to the top of the tree;
/// without any, with the whole.
pub fn ensure(cache: &Cache, kind: &str, parts: &[&str]) -> Result<Entry> {
    let key = parts
        .iter()
        .fold(Key::new(SOURCE), |key, part| key.text(part));
    cache.entry(kind, &key, |directory| {
        let scratch = tempfile::tempdir_in(cache.root())?;
        let archive = Archive::open(cache)?;
        let debs = download(&format!("download {SOURCE}"), || {
            archive.fetch(&[SOURCE], scratch.path())
        })?;
        step(&format!("unpack {SOURCE}"), || {
            unpack(&debs, scratch.path())?;
            run(host::command("tar")
                .arg("-C")
                .arg(directory)
                .args(["--strip-components=1", "--no-same-owner", "-xf"])
                .arg(scratch.path().join(format!("usr/src/{SOURCE}.tar.xz")))
                .args(parts.iter().map(|part| format!("{SOURCE}/{part}"))))
        })?;
        Ok(())
    })
}
