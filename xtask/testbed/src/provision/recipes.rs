//! A key over all recipes, for a CI service or another program that stores the cache as a whole.

use anyhow::Result;

use super::cache::Key;
use crate::paths;

/// The sources that decide what entries hold, except for the user's own kernels.
const SOURCES: [&str; 15] = [
    include_str!("archive.rs"),
    include_str!("bootstrap.rs"),
    include_str!("buildroot.rs"),
    include_str!("cache.rs"),
    include_str!("driver.rs"),
    include_str!("driver_checks.rs"),
    include_str!("initrd.rs"),
    include_str!("qemu.rs"),
    include_str!("rootfs.rs"),
    include_str!("selftests.rs"),
    include_str!("linux/debian.rs"),
    include_str!("linux/kernel.rs"),
    include_str!("linux/own.rs"),
    include_str!("linux/source.rs"),
    include_str!("linux/tree.rs"),
];

/// Directories below `images` with recipes. The driver's sources change often, and compiling them
/// takes seconds.
const IMAGES: [&str; 2] = ["rootfs", "kernel"];

/// Returns a key that changes whenever a recipe does. A cache that was stored under another key is
/// still of use: entries have keys of their own.
pub fn key() -> Result<Key> {
    let mut key = SOURCES.iter().fold(Key::new("cache 1"), Key::text);
    for directory in IMAGES {
        key = key.tree(&paths::workspace().join("images").join(directory))?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_source_of_provision_is_in_the_key() {
        // Neither of them makes entries.
        let others = [
            "host.rs",
            "mod.rs",
            "programs.rs",
            "recipes.rs",
            "stored.rs",
        ];
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/provision");
        let mut found = 0;
        for directory in [home.clone(), home.join("linux")] {
            for item in fs::read_dir(directory).unwrap() {
                let path = item.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() || others.contains(&name.as_str()) {
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                assert!(SOURCES.contains(&text.as_str()), "{name} is missing");
                found += 1;
            }
        }
        assert_eq!(found, SOURCES.len());
    }
}
