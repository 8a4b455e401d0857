//! Finds a QEMU that can carry zcnic: 10.0 or newer, with vhost-user.
//!
//! In this order: the user's choice, the host's, the host's archive's, and that of
//! trixie-backports, unpacked into the cache and run by its own dynamic linker, so that an old host
//! needs nothing else.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    acceleration::Acceleration,
    provision::{
        archive::{Archive, BACKPORTS, unpack, versions},
        cache::{Cache, Entry, Key},
        host::{self, find_program},
    },
    step::{download, output},
};

/// Older ones crash with MSI-X under TCG (7.2) or are untested (8.x, 9.x).
const OLDEST: (u32, u32) = (10, 0);
/// Under TCG one boot in twenty of QEMU 10.0 ends in its assertion `iotlb_to_section`, when a
/// processor meets a change of the memory map. There only the user's own choice may be older.
const STEADY_UNDER_TCG: (u32, u32) = (11, 1);
const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// A QEMU that can carry zcnic.
#[derive(Debug)]
pub struct Qemu {
    /// The program and the arguments that must come first.
    command: Vec<OsString>,
    /// The version, as `--version` prints it.
    pub version: String,
    _entry: Option<Entry>,
}

impl Qemu {
    /// Finds or unpacks one. `chosen` is the user's choice.
    ///
    /// # Errors
    ///
    /// If `chosen` is unsuitable; no other is tried then.
    pub fn ensure(
        cache: &Cache,
        chosen: Option<&Path>,
        acceleration: Acceleration,
    ) -> Result<Self> {
        if let Some(path) = chosen {
            return Self::chosen(path);
        }
        let wanted = match acceleration {
            Acceleration::Kvm { .. } => OLDEST,
            Acceleration::Tcg => STEADY_UNDER_TCG,
        };
        let will_do = |version: &str| parse_version(version).is_some_and(|own| own >= wanted);
        if let Some(own) = find_program(PROGRAM)
            && let Ok(qemu) = Self::check(vec![own.into()], None)
            && will_do(&qemu.version)
        {
            return Ok(qemu);
        }
        if host::candidate(PACKAGE).is_some_and(|version| will_do(&version)) && host::may_install()
        {
            host::install(&[PACKAGE])?;
            let own = find_program(PROGRAM).unwrap_or_else(|| PROGRAM.into());
            return Self::check(vec![own.into()], None);
        }
        let entry = Self::unpacked(cache)?;
        Self::check(Self::within(&entry.join("tree")), Some(entry))
    }

    /// Returns the entry with that of [`BACKPORTS`], whose `tree` has everything that it needs, and
    /// makes it if there is none.
    ///
    /// # Errors
    ///
    /// It can't be downloaded.
    pub fn unpacked(cache: &Cache) -> Result<Entry> {
        cache.entry("qemu", &Key::new("qemu 3"), |directory| {
            let archive = Archive::open(cache)?;
            download("download Debian's QEMU", || {
                let scratch = directory.join("scratch");
                let debs = archive.fetch_closure(&[PACKAGE], BACKPORTS, &scratch)?;
                unpack(&debs, &directory.join("tree"))?;
                fs::write(directory.join("versions"), versions(&debs)?)?;
                Ok(fs::remove_dir_all(scratch)?)
            })
        })
    }

    /// Returns the command that runs the QEMU of such a `tree`, on a host whose C library may be
    /// older.
    pub fn within(tree: &Path) -> Vec<OsString> {
        let libraries = tree.join("usr/lib/x86_64-linux-gnu");
        vec![
            libraries.join("ld-linux-x86-64.so.2").into(),
            "--library-path".into(),
            libraries.into(),
            tree.join("usr/bin").join(PROGRAM).into(),
            "-L".into(),
            tree.join("usr/share/qemu").into(),
            "-L".into(),
            tree.join("usr/share/seabios").into(),
        ]
    }

    /// Returns the user's choice.
    ///
    /// # Errors
    ///
    /// If it is unsuitable.
    pub fn chosen(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("--qemu {}", path.display()))?;
        Self::check(vec![path.into()], None).context("--qemu")
    }

    /// Returns the command that runs it in `directory`. Paths below `directory` are relative.
    pub fn command(&self, directory: &Path) -> Vec<OsString> {
        let relative = |word: &OsString| match Path::new(word).strip_prefix(directory) {
            // A name without a directory would be looked up in PATH.
            Ok(inside) => Path::new(".").join(inside).into(),
            Err(_) => word.clone(),
        };
        self.command.iter().map(relative).collect()
    }

    fn check(command: Vec<OsString>, entry: Option<Entry>) -> Result<Self> {
        let name = PathBuf::from(&command[0]).display().to_string();
        let ask = |question: &[&str]| {
            let mut program = Command::new(&command[0]);
            let answer = output(program.args(&command[1..]).args(question))?;
            anyhow::Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
        };
        let text = ask(&["--version"])?;
        // "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)"
        let version = text
            .strip_prefix("QEMU emulator version ")
            .and_then(|rest| rest.lines().next())
            .with_context(|| format!("{name} is not a QEMU system emulator"))?;
        let (major, minor) = OLDEST;
        if parse_version(version).is_none_or(|version| version < OLDEST) {
            bail!("{name} is QEMU {version}; zcnic needs {major}.{minor} or newer");
        }
        if !ask(&["-M", "none", "-netdev", "help"])?
            .lines()
            .any(|line| line.trim() == "vhost-user")
        {
            bail!("{name} was built without vhost-user (-netdev help doesn't list it)");
        }
        Ok(Self {
            version: version.to_owned(),
            command,
            _entry: entry,
        })
    }
}

/// Returns major and minor number of `10.0.2 (Debian …)` or, with an epoch, `1:10.0.2+ds-2`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let text = text
        .split_once(':')
        .filter(|(epoch, _)| epoch.len() == 1)
        .map_or(text, |(_, v)| v);
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_qemu_and_of_its_package() {
        assert_eq!(
            parse_version("10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)"),
            Some((10, 0))
        );
        assert_eq!(parse_version("1:7.2+dfsg-7+deb12u13"), Some((7, 2)));
        assert_eq!(parse_version("11.1.3"), Some((11, 1)));
        assert_eq!(parse_version("unknown"), None);
    }

    #[test]
    fn something_else_is_not_taken_for_qemu() {
        let error = Qemu::check(vec!["/bin/echo".into()], None).unwrap_err();
        assert_eq!(error.to_string(), "/bin/echo is not a QEMU system emulator");
    }
}
