//! Compiles kernel source, Debian's or the user's, with a configuration from `images/kernel`.
//!
//! The source is only read. The output goes into a directory of the cache that stays, so that make
//! decides what a second compilation has to do. Compiler and tools come from a build root, whatever
//! the host has, and the paths that make sees are always the same.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use thiserror::Error;

use super::source;
use crate::{
    paths,
    provision::{
        buildroot::{Bind, BuildRoot, Recipe, WORK},
        cache::{Cache, Entry, Key},
    },
    step::{output, step, tail},
};

/// The path at which a command in the build root finds the source.
const SOURCE: &str = "/mnt/source";
/// The path of the output directory there.
const OUTPUT: &str = "/mnt/output";

/// Packages that compile a kernel.
const PACKAGES: [&str; 9] = [
    "bc",
    "bison",
    "flex",
    "gcc",
    "gzip",
    "libc6-dev",
    "libelf-dev",
    "perl-base",
    "python3-minimal",
];

/// A file in an output directory, which has the path of the source and marks the directory as one
/// of ours.
const MARK: &str = "zcnic-source";
/// A file with the configuration that `.config` was made from.
const WANTED: &str = "zcnic-config";

/// Options without which no guest boots or has ports. A tree where one has another name can't be
/// tested, which is not the same as being bad.
const ESSENTIAL: [&str; 17] = [
    "BINFMT_SCRIPT",
    "BLK_DEV_INITRD",
    "DEVTMPFS",
    "EXT4_FS",
    "INET",
    "IPV6",
    "MODULES",
    "MODULE_UNLOAD",
    "NETDEVICES",
    "NET_NS",
    "OVERLAY_FS",
    "PCI_MSI",
    "SERIAL_8250_CONSOLE",
    "TMPFS",
    "VIRTIO_BLK",
    "VIRTIO_CONSOLE",
    "VIRTIO_PCI",
];

/// Lines of make's messages in an error.
const COMPLAINT_LINES: usize = 40;

/// A kind of test kernel, by the bugs that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// No bugs in particular: quick to compile and to run
    Plain,
    /// Locks, contexts, DMA mappings, use after free (KFENCE); fails functions on demand
    Debug,
    /// Every access to memory (KASAN); fails functions on demand
    Kasan,
}

impl Profile {
    /// Its parts below `images/kernel`; later ones override earlier ones.
    fn fragments(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["guest.config"],
            Self::Debug => &["guest.config", "debug.config"],
            Self::Kasan => &["guest.config", "debug.config", "kasan.config"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Debug => "debug",
            Self::Kasan => "kasan",
        }
    }

    /// Returns the configuration, with the user's `fragments` last.
    fn config(self, fragments: &[PathBuf]) -> Result<String> {
        let home = paths::images().join("kernel");
        let own = self.fragments().iter().map(|name| home.join(name));
        let paths: Vec<_> = own.chain(fragments.iter().cloned()).collect();
        read(&paths)
    }
}

/// Returns the lines of several configurations.
fn read(fragments: &[PathBuf]) -> Result<String> {
    let read = |path: &PathBuf| {
        let mut text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        // The last line may not end.
        text.push('\n');
        Ok(text)
    };
    fragments.iter().map(read).collect()
}

/// Returns those of [`ESSENTIAL`] that `config` does not have built in.
fn lacking_essentials(config: &str) -> Vec<String> {
    let lines = ESSENTIAL.map(|option| format!("CONFIG_{option}=y"));
    let lacks = |line: &String| !config.lines().any(|own| own == line);
    lines.into_iter().filter(lacks).collect()
}

/// Fails if a fragment of the user's can't be read, or a line of it is no option.
pub fn check_fragments(fragments: &[PathBuf]) -> Result<()> {
    for path in fragments {
        let text =
            fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
        let is_comment = |line: &str| line.trim().is_empty() || line.starts_with('#');
        let wrong = text.lines().find(|line| {
            let set = line.starts_with("CONFIG_") && line.contains('=');
            !(set || is_comment(line))
        });
        if let Some(line) = wrong {
            bail!(
                "--config {}: {line:?} is no line of a configuration (CONFIG_…=… or \
                 `# CONFIG_… is not set`)",
                path.display()
            );
        }
    }
    Ok(())
}

/// The error if a source tree or its configuration does not compile.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct DoesNotBuild(String);

/// Messages of a compilation that failed because of the host.
const HOST_TROUBLE: [&str; 5] = [
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "Killed signal terminated program",
    "(signal: 9",
];

impl DoesNotBuild {
    /// Returns the error for a failed compilation with these messages. It is another one if a full
    /// disk or lacking memory is to blame, because that says nothing about the source.
    pub fn because(complaint: String) -> anyhow::Error {
        if HOST_TROUBLE.iter().any(|text| complaint.contains(text)) {
            anyhow!(complaint)
        } else {
            Self(complaint).into()
        }
    }
}

/// A source and its output directory.
#[derive(Debug)]
pub struct Tree {
    source: PathBuf,
    output: PathBuf,
    root: BuildRoot,
    /// Held so that they are not pruned.
    _entries: Vec<Entry>,
}

impl Tree {
    /// Checks that `source` can be compiled here, without compiling it.
    ///
    /// # Errors
    ///
    /// If it is no kernel's source, or something was built in it.
    pub fn check(source: &Path) -> Result<PathBuf> {
        let source = source
            .canonicalize()
            .with_context(|| format!("the kernel tree {}", source.display()))?;
        require_clean(&source)?;
        Ok(source)
    }

    /// Compiles `source` for `profile` and the configuration `fragments`, or the part of it that
    /// changed since the last time.
    ///
    /// # Errors
    ///
    /// [`DoesNotBuild`] among the causes if the source or its configuration is to blame, or does not
    /// take an option of a fragment; others if something was built in the source.
    pub fn compile(
        cache: &Cache,
        source: &Path,
        profile: Profile,
        fragments: &[PathBuf],
    ) -> Result<Self> {
        let source = Self::check(source)?;
        let root = root(cache)?;
        let key = Key::new("tree 1")
            .text(source.to_string_lossy())
            .text(profile.name());
        let workshop = cache.workshop("trees", &key, |output| {
            fs::write(output.join(MARK), source.to_string_lossy().as_bytes())?;
            let tree = Self {
                source: source.clone(),
                output: output.to_owned(),
                root: root.clone(),
                _entries: Vec::new(),
            };
            let release = tree.configure(&profile.config(fragments)?)?;
            tree.require(profile, fragments)?;
            let what = format!("compile Linux {release} ({})", profile.name());
            step(&what, || tree.make(&["bzImage", "modules"]).map(drop))
        })?;
        Ok(Self {
            output: workshop.to_path_buf(),
            source,
            root,
            _entries: vec![workshop],
        })
    }

    /// Compiles Debian's kernel source for `profile`.
    ///
    /// # Errors
    ///
    /// Also if the configuration ends without an option that `profile` asks for.
    pub fn debian(cache: &Cache, profile: Profile) -> Result<Self> {
        let source = source::unpacked(cache)?;
        let mut tree = Self::compile(cache, &source, profile, &[])?;
        tree._entries.push(source);
        let missing = missing(&profile.config(&[])?, &tree.config()?);
        if !missing.is_empty() {
            bail!(
                "the {} kernel does not have what images/kernel asks for: {}",
                profile.name(),
                missing.join(", ")
            );
        }
        Ok(tree)
    }

    /// Returns the tree whose output directory is `path`; None if [`Self::compile`] did not make
    /// that.
    pub fn open(cache: &Cache, path: &Path) -> Result<Option<Self>> {
        let Ok(source) = fs::read_to_string(path.join(MARK)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            source: source.into(),
            output: path.to_owned(),
            root: root(cache)?,
            _entries: Vec::new(),
        }))
    }

    /// Returns the output directory, which `--kernel` takes.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Returns the `.config` that the kernel was compiled with.
    pub fn config(&self) -> Result<String> {
        let path = self.output.join(".config");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Returns a make that compiles the module in `directory`; the caller adds a target.
    pub fn module(&self, directory: &Path) -> Command {
        let binds = [
            Bind::write(directory, WORK),
            Bind::read(&self.source, SOURCE),
            Bind::read(&self.output, OUTPUT),
        ];
        let mut make = self.root.command_among(&binds, "make");
        make.args(["-C", OUTPUT]).arg(format!("M={WORK}"));
        make
    }

    /// Returns a make that installs modules below `directory`; the caller adds the target.
    pub fn install_modules(&self, directory: &Path) -> Command {
        let binds = [
            Bind::write(directory, WORK),
            Bind::read(&self.source, SOURCE),
            Bind::write(&self.output, OUTPUT),
        ];
        let mut make = self.root.command_among(&binds, "make");
        make.args(["-C", OUTPUT])
            .arg(format!("INSTALL_MOD_PATH={WORK}"));
        make
    }

    /// Fails if the configuration does not have all options of the user's `fragments`, or lacks what
    /// a guest needs: the tree has no such option, or one that it depends on is off. Then this
    /// commit can't be tested. Other options of the profile that it lacks are only named.
    fn require(&self, profile: Profile, fragments: &[PathBuf]) -> Result<()> {
        let config = self.config()?;
        let source = self.source.display();
        let refused = missing(&read(fragments)?, &config);
        if !refused.is_empty() {
            return Err(DoesNotBuild(format!(
                "--config: {source} does not take {} (no such option, or one that it depends on is \
                 off)",
                refused.join(", ")
            ))
            .into());
        }
        let lacking = lacking_essentials(&config);
        if !lacking.is_empty() {
            return Err(DoesNotBuild(format!(
                "the configuration of {source} lacks what every guest needs: {}",
                lacking.join(", ")
            ))
            .into());
        }
        let dropped = missing(&profile.config(fragments)?, &config);
        if !dropped.is_empty() {
            eprintln!(
                "         the tree does not take all of images/kernel: {}",
                dropped.join(", ")
            );
        }
        Ok(())
    }

    /// Makes `.config` and returns the release that the kernel will have.
    fn configure(&self, wanted: &str) -> Result<String> {
        let record = self.output.join(WANTED);
        if fs::read_to_string(&record).ok().as_deref() != Some(wanted) {
            fs::write(self.output.join(".config"), wanted)?;
            fs::write(record, wanted)?;
        }
        self.make(&["olddefconfig"])?;
        let release = self.make(&["-s", "kernelrelease"])?;
        Ok(release.lines().last().unwrap_or_default().to_owned())
    }

    /// Runs make in the output directory and returns its standard output.
    fn make(&self, targets: &[&str]) -> Result<String> {
        let binds = [
            Bind::write(&self.output, OUTPUT),
            Bind::read(&self.source, SOURCE),
        ];
        let jobs = thread::available_parallelism().map_or(1, NonZero::get);
        let mut make = self.root.command_among(&binds, "make");
        make.args(["-C", SOURCE])
            .arg(format!("O={OUTPUT}"))
            .arg(format!("-j{jobs}"))
            // Keeps the image the same if the source is the same.
            .args(["KBUILD_BUILD_USER=zcnic", "KBUILD_BUILD_HOST=zcnic"])
            .args(["KBUILD_BUILD_VERSION=1", "LOCALVERSION="])
            .args(targets);
        let result = output(&mut make)?;
        if result.status.success() {
            return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
        }
        let complaint = format!(
            "{} does not build: make {} failed ({})\n{}",
            self.source.display(),
            targets.join(" "),
            result.status,
            tail(&String::from_utf8_lossy(&result.stderr), COMPLAINT_LINES)
        );
        Err(DoesNotBuild::because(complaint))
    }
}

fn root(cache: &Cache) -> Result<BuildRoot> {
    let recipe = Recipe {
        kind: "kernel-root",
        packages: &PACKAGES,
        ..Recipe::default()
    };
    BuildRoot::ensure(cache, &recipe, "make the build root for kernels")
}

/// Fails unless `source` is a kernel's source in which nothing was built: kbuild refuses another
/// output directory otherwise, and the owner decides about cleaning up.
fn require_clean(source: &Path) -> Result<()> {
    if !source.join("Kbuild").is_file() || !source.join("scripts/kconfig").is_dir() {
        bail!("{} is not a kernel's source tree", source.display());
    }
    for trace in [".config", "include/config", "arch/x86/include/generated"] {
        if source.join(trace).exists() {
            bail!(
                "{} was built in (there is {trace}): kernels are compiled outside of their source \
                 here, and that needs a clean one. `make mrproper` cleans it (and removes .config); \
                 `git worktree add` makes a second one",
                source.display()
            );
        }
    }
    Ok(())
}

/// Returns the options of `wanted`, each by its last line, that `config` does not set so.
fn missing(wanted: &str, config: &str) -> Vec<String> {
    let name = |line: &str| {
        let option = line.strip_prefix("# ").unwrap_or(line);
        let end = option.find(['=', ' ']).unwrap_or(option.len());
        option
            .get(..end)
            .filter(|name| name.starts_with("CONFIG_"))
            .map(str::to_owned)
    };
    let mut last = std::collections::BTreeMap::new();
    for line in wanted.lines() {
        if let Some(option) = name(line) {
            last.insert(option, line);
        }
    }
    last.into_iter()
        .filter(|(option, line)| {
            let off = line.starts_with('#');
            let has = |prefix: &str| config.lines().any(|own| own.starts_with(prefix));
            if off {
                has(&format!("{option}="))
            } else {
                !config.lines().any(|own| own == *line)
            }
        })
        .map(|(_, line)| line.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_was_dropped_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=\"x\"\n";
        assert_eq!(
            missing("# Says what\nCONFIG_A=y\n# CONFIG_B is not set\n", config),
            [""; 0]
        );
        assert_eq!(missing("# CONFIG_C is not set\n", config), [""; 0]);
        assert_eq!(missing("CONFIG_A=m\n", config), ["CONFIG_A=m"]);
        assert_eq!(
            missing("# CONFIG_A is not set\n", config),
            ["# CONFIG_A is not set"]
        );
        assert_eq!(missing("CONFIG_D=y\n", config), ["CONFIG_D=y"]);
        // A later fragment overrides.
        assert_eq!(
            missing("CONFIG_D=y\n# CONFIG_D is not set\n", config),
            [""; 0]
        );
    }

    #[test]
    fn a_full_disk_is_not_the_fault_of_the_source() {
        let of_source = |text: &str| DoesNotBuild::because(text.to_owned()).is::<DoesNotBuild>();
        assert!(of_source("net/core/dev.c:1: error: expected ';'"));
        assert!(!of_source(
            "fatal error: can't write: No space left on device"
        ));
        assert!(!of_source(
            "gcc: fatal error: Killed signal terminated program cc1"
        ));
    }

    #[test]
    fn every_profile_is_a_configuration() {
        for profile in [Profile::Plain, Profile::Debug, Profile::Kasan] {
            let config = profile.config(&[]).unwrap();
            let foreign = config.lines().find(|line| {
                !(line.is_empty() || line.starts_with("CONFIG_") || line.starts_with('#'))
            });
            assert_eq!(foreign, None);
            assert_eq!(lacking_essentials(&config), [""; 0]);
        }
    }

    #[test]
    fn a_tree_without_a_guests_options_is_named() {
        let config = Profile::Plain.config(&[]).unwrap();
        let renamed = config.replace("CONFIG_VIRTIO_BLK=y", "CONFIG_VIRTIO_DISK=y");
        assert_eq!(lacking_essentials(&renamed), ["CONFIG_VIRTIO_BLK=y"]);
    }

    #[test]
    fn a_fragment_has_options_and_comments_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.config");
        let check = |text: &str| {
            fs::write(&path, text).unwrap();
            check_fragments(std::slice::from_ref(&path))
        };
        check("# Why\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=\"x\"\n").unwrap();
        let complaint = check("CONFIG_A=y\nNET=y\n").unwrap_err().to_string();
        assert!(complaint.contains("\"NET=y\" is no line"), "{complaint}");
        fs::remove_file(&path).unwrap();
        assert!(check_fragments(std::slice::from_ref(&path)).is_err());
        // The last of two lines counts.
        let fragments = [path];
        fs::write(&fragments[0], "CONFIG_ZCRX=n\n").unwrap();
        let config = Profile::Plain.config(&fragments).unwrap();
        assert!(config.ends_with("\nCONFIG_ZCRX=n\n\n"), "{config}");
    }

    #[test]
    fn only_a_clean_source_tree_is_compiled() {
        let tree = tempfile::tempdir().unwrap();
        let complaint = |path: &Path| require_clean(path).unwrap_err().to_string();
        assert!(complaint(tree.path()).ends_with("is not a kernel's source tree"));
        fs::create_dir_all(tree.path().join("scripts/kconfig")).unwrap();
        fs::write(tree.path().join("Kbuild"), "").unwrap();
        require_clean(tree.path()).unwrap();
        fs::write(tree.path().join(".config"), "").unwrap();
        assert!(complaint(tree.path()).contains("there is .config"));
    }
}
