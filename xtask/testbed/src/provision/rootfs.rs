//! The guest's root file system: an ext4 image by the recipe in `images/rootfs`, which every guest
//! mounts read-only. With packages of the user it is another image, made in the same way, so that the
//! guest's package database lists them.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};

use crate::{
    paths,
    provision::{
        archive::{Archive, RELEASE},
        bootstrap::{TreeRecipe, ext4_image},
        cache::{Cache, Entry, Key},
        host,
    },
    step::{run, step},
};

/// Bump when this file makes something else of the same recipe.
const RECIPE: &str = "rootfs 1";

/// What `--tools` adds.
pub const TOOLS: [&str; 9] = [
    "bpftrace",
    "gdb",
    "less",
    "linux-perf",
    "linuxptp",
    "python3-drgn",
    "trace-cmd",
    "vim-tiny",
    "xdp-tools",
];

/// The options `--packages` and `--tools`, for clap's `flatten`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PackageArgs {
    /// Add Debian packages to the guest: names with commas between them, or a file with a name per
    /// line. May be repeated
    #[arg(long, value_name = "NAME,...|FILE")]
    pub packages: Vec<PackageList>,
    /// Add bpftrace, drgn, gdb, less, linuxptp, perf, trace-cmd, vim and xdp-tools to the guest
    #[arg(long)]
    pub tools: bool,
}

/// The value of `--packages`.
#[derive(Clone, Debug)]
pub struct PackageList(Vec<String>);

impl FromStr for PackageList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = if text.contains('/') || Path::new(text).is_file() {
            lines(Path::new(text)).map_err(|error| format!("{error:#}"))?
        } else {
            text.split(',').map(str::to_owned).collect()
        };
        // Debian's policy, 5.6.1.
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            bytes.next().is_some_and(plain)
                && bytes.all(|byte| plain(byte) || b"+-.".contains(&byte))
        };
        if names.is_empty() {
            return Err(format!("{text} names no package"));
        }
        match names.iter().find(|name| !is_name(name)) {
            Some(wrong) => Err(format!("{wrong:?} is no name of a Debian package")),
            None => Ok(Self(names)),
        }
    }
}

impl PackageArgs {
    /// Returns all names in order, each once.
    fn names(&self) -> Vec<String> {
        let tools = TOOLS.iter().filter(|_| self.tools).copied();
        let given = self.packages.iter().flat_map(|list| &list.0);
        let mut names: Vec<String> = tools
            .chain(given.map(String::as_str))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the options as they are given on a command line.
    pub fn arguments(&self) -> Vec<String> {
        let tools = self.tools.then(|| "--tools".to_owned());
        let lists = self.packages.iter().map(|list| list.0.join(","));
        tools
            .into_iter()
            .chain(lists.flat_map(|names| ["--packages".to_owned(), names]))
            .collect()
    }
}

/// A root file system that may have to be made.
#[derive(Debug)]
pub struct RootFs {
    added: Vec<String>,
    key: Key,
}

impl RootFs {
    /// Chooses the file system with these packages.
    ///
    /// # Errors
    ///
    /// If it has to be made and Debian has no package of such a name.
    pub fn new(cache: &Cache, packages: &PackageArgs) -> Result<Self> {
        let added = packages.names();
        let mut key = Key::new(RECIPE).tree(&home())?;
        for name in &added {
            key = key.text(name);
        }
        let rootfs = Self { added, key };
        if !rootfs.added.is_empty() && !cache.has(rootfs.kind(), &rootfs.key) {
            let archive = Archive::open(cache)?;
            let mut unknown = Vec::new();
            for name in &rootfs.added {
                if archive.version(name, RELEASE)?.is_none() {
                    unknown.push(name.as_str());
                }
            }
            if !unknown.is_empty() {
                bail!(
                    "--packages: Debian {RELEASE} has no package {}",
                    unknown.join(", ")
                );
            }
        }
        Ok(rootfs)
    }

    /// Entries with packages have a kind of their own, so that trying many sets of packages does not
    /// evict the plain one.
    fn kind(&self) -> &'static str {
        if self.added.is_empty() {
            "rootfs"
        } else {
            "rootfs-packages"
        }
    }

    /// Returns the entry with the image, and makes it if there is none.
    pub fn ensure(&self, cache: &Cache) -> Result<Entry> {
        cache.entry(self.kind(), &self.key, |directory| {
            let archive = Archive::open(cache)?;
            let home = home();
            let mut packages = packages()?;
            packages.extend_from_slice(&self.added);
            let recipe = TreeRecipe {
                packages,
                exclude: lines(&home.join("exclude"))?,
            };
            let what = match self.added.len() {
                0 => "make the guest's root file system".to_owned(),
                more => format!("make the guest's root file system, with {more} more packages"),
            };
            let tree = step(&what, || recipe.make(&archive, directory))?;
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
}

/// Returns the packages of every guest, besides Debian's minbase; `name/suite` is unpacked from that
/// suite, without dependencies.
///
/// # Errors
///
/// The recipe can't be read.
pub fn packages() -> Result<Vec<String>> {
    lines(&home().join("packages"))
}

/// Returns the directory of the recipe.
fn home() -> PathBuf {
    paths::images().join("rootfs")
}

/// Returns the path of the image in an entry.
pub fn image(entry: &Path) -> PathBuf {
    entry.join("root.img")
}

/// Returns the lines of a recipe file, without comments and empty ones.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_in_the_option_or_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("list");
        fs::write(&file, "# mine\ngdb  # the debugger\n\nless\n").unwrap();
        let args = |values: &[&str]| PackageArgs {
            packages: values.iter().map(|value| value.parse().unwrap()).collect(),
            tools: false,
        };
        let from_file = args(&[file.to_str().unwrap()]);
        assert_eq!(from_file.names(), ["gdb", "less"]);
        let given = args(&["less,gdb", "g++,less"]);
        assert_eq!(given.names(), ["g++", "gdb", "less"]);
        assert_eq!(
            given.arguments(),
            ["--packages", "less,gdb", "--packages", "g++,less"]
        );
        let tools = PackageArgs {
            tools: true,
            ..args(&["zstd"])
        };
        assert_eq!(tools.names().len(), TOOLS.len() + 1);
    }

    #[test]
    fn wrong_names_are_refused() {
        for (text, reason) in [
            ("gdb,,less", r#""" is no name"#),
            ("gdb less", r#""gdb less" is no name"#),
            ("--help", r#""--help" is no name"#),
            ("/nonexistent/list", "cannot read /nonexistent/list"),
        ] {
            let error = text.parse::<PackageList>().unwrap_err();
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
