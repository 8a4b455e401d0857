//! The guest's root file system: an ext4 image by the recipe in `images/rootfs`, which every guest
//! mounts read-only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{
    paths,
    provision::{
        archive::Archive,
        bootstrap::{TreeRecipe, ext4_image},
        cache::{Cache, Entry, Key},
        host,
    },
    step::{run, step},
};

/// Bump when this file makes something else of the same recipe.
const RECIPE: &str = "rootfs 1";

/// Returns the entry with the image, and makes it if there is none.
pub fn ensure(cache: &Cache) -> Result<Entry> {
    let home = paths::images().join("rootfs");
    let key = Key::new(RECIPE).tree(&home)?;
    cache.entry("rootfs", &key, |directory| {
        let archive = Archive::open(cache)?;
        let recipe = TreeRecipe {
            packages: lines(&home.join("packages"))?,
            exclude: lines(&home.join("exclude"))?,
        };
        let tree = step("make the guest's root file system", || {
            recipe.make(&archive, directory)
        })?;
        run(host::command("cp")
            .arg("-rT")
            .arg(home.join("files"))
            .arg(&tree))?;
        for mount_point in ["lib/modules", "opt/selftests"] {
            fs::create_dir_all(tree.join(mount_point))?;
        }
        step("make its image", || {
            ext4_image(&tree, &image(directory), "root")
        })?;
        Ok(fs::remove_dir_all(tree)?)
    })
}

/// Returns the path of the image in an entry.
pub fn image(entry: &Path) -> PathBuf {
    entry.join("root.img")
}

/// Returns the lines of a recipe file, without comments and empty ones.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}
