//! `--put` and `--get`: files and directories into the guest and out of it.
//!
//! A file passes as bytes, so that pipes and files of /proc and tracefs, which have no length, can be
//! copied as well. A directory passes as a tar archive. Names follow `cp`: a destination that is a
//! directory, or ends in a slash, gets the copy inside.

use std::{
    fs,
    fs::{File, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, access};
use tempfile::NamedTempFile;
use zcnic_testbed::agent::{Agent, Exec, Input, Output, Process, Status};

/// Bytes that are copied at once.
const CHUNK: usize = 64 * 1024;
/// Permissions that are kept: a guest makes no file of ours set-user-id.
const MODE: u32 = 0o777;

/// A file or directory of the host, and where the guest gets it.
#[derive(Clone, Debug)]
pub(super) struct Put {
    host: PathBuf,
    /// Last component of the path as it was given.
    name: String,
    guest: Option<String>,
}

impl FromStr for Put {
    type Err = String;

    /// Reads HOST[:GUEST]. A HOST that exists may contain colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = if fs::symlink_metadata(text).is_ok() {
            (text, None)
        } else {
            split(text)?
        };
        let host = PathBuf::from(host);
        // `.` and `..` have a name only in their full path. A pipe in /dev/fd has no full path.
        let full = host.canonicalize().unwrap_or_default();
        let name = host.file_name().or(full.file_name());
        let name = name
            .and_then(|name| name.to_str())
            .ok_or_else(|| format!("{} has no name in UTF-8", host.display()))?
            .to_owned();
        let readable = if host.is_dir() {
            fs::read_dir(&host).map(drop)
        } else {
            access(&host, Access::READ_OK).map_err(io::Error::from)
        };
        readable.map_err(|error| format!("{}: {error}", host.display()))?;
        Ok(Self { host, name, guest })
    }
}

/// A path in the guest, and where the host gets it.
#[derive(Clone, Debug)]
pub(super) struct Get {
    guest: String,
    host: PathBuf,
}

impl FromStr for Get {
    type Err = String;

    /// Reads GUEST[:HOST].
    fn from_str(text: &str) -> Result<Self, String> {
        let (guest, host) = split(text)?;
        let host = host.unwrap_or_else(|| ".".to_owned());
        let name = Path::new(guest)
            .file_name()
            .ok_or_else(|| format!("{guest:?} has no name"))?;
        let mut path = PathBuf::from(&host);
        if path.is_dir() {
            path.push(name);
        } else if host.ends_with('/') {
            return Err(format!("{host}: no such directory"));
        }
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(format!("{host} has no parent directory")),
        };
        // The copy is made beside it, and then takes its place.
        tempfile::tempfile_in(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        Ok(Self {
            guest: guest.to_owned(),
            host: path,
        })
    }
}

/// Splits at the last colon.
fn split(text: &str) -> Result<(&str, Option<String>), String> {
    let (source, target) = match text.rsplit_once(':') {
        Some((source, target)) => (source, Some(target.to_owned())),
        None => (text, None),
    };
    if source.is_empty() || target.as_deref() == Some("") {
        return Err(format!("{text:?} is neither SOURCE nor SOURCE:TARGET"));
    }
    Ok((source, target))
}

impl Put {
    /// Copies it into the guest, which has it in root's home if no place was given.
    pub(super) fn run(&self, agent: &Agent) -> Result<()> {
        self.copy(agent)
            .with_context(|| format!("--put {}", self.host.display()))
    }

    fn copy(&self, agent: &Agent) -> Result<()> {
        let wanted = self.guest.as_deref().unwrap_or("/root/");
        // The final path, whose parent exists then.
        let script = r#"case $1 in */) mkdir -p "$1" ;; esac
            if [ -d "$1" ]; then set -- "${1%/}/$2"; fi
            mkdir -p "$(dirname "$1")" && printf %s "$1""#;
        let target = text(agent, &["sh", "-c", script, "sh", wanted, &self.name])?;
        if self.host.is_dir() {
            return self.archive(agent, &target);
        }
        let mut file = File::open(&self.host)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        // An existing file may be running: it is replaced, not written.
        let script = r#"set -e; new=$(mktemp "$1.XXXXXX"); cat > "$new"; chmod "$2" "$new"
            mv -fT "$new" "$1""#;
        let exec = Exec::new(["sh", "-c", script, "sh", &target, &format!("{mode:o}")]);
        write(agent, exec, |input| io::copy(&mut file, input).map(drop))
    }

    /// Passes a directory. If the guest has a directory of this name, they become one.
    fn archive(&self, agent: &Agent, target: &str) -> Result<()> {
        let script = r#"mkdir -p "$1" && exec tar -xp --no-same-owner -C "$1""#;
        let exec = Exec::new(["sh", "-c", script, "sh", target]);
        write(agent, exec, |input| {
            let mut archive = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, input));
            archive.follow_symlinks(false);
            archive.append_dir_all(".", &self.host)?;
            archive.into_inner()?.flush()
        })
    }
}

impl Get {
    /// Copies it out of the guest.
    pub(super) fn run(&self, agent: &Agent) -> Result<()> {
        self.copy(agent)
            .with_context(|| format!("--get {}", self.guest))
    }

    fn copy(&self, agent: &Agent) -> Result<()> {
        let script = r#"test -e "$1" || { echo "no such file in the guest" >&2; exit 1; }
            if [ -d "$1" ]; then echo directory; else stat -Lc %a "$1"; fi"#;
        let kind = text(agent, &["sh", "-c", script, "sh", &self.guest])?;
        let parent = match self.host.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if kind.trim() == "directory" {
            return self.unpack(agent);
        }
        let mode =
            u32::from_str_radix(kind.trim(), 8).context("the guest's stat printed no mode")?;
        if self.host.is_dir() {
            bail!("{} is a directory", self.host.display());
        }
        let mut file = NamedTempFile::new_in(parent)?;
        read(agent, &Exec::new(["cat", "--", &self.guest]), |output| {
            io::copy(output, &mut file).map(drop)
        })?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode & MODE))?;
        file.persist(&self.host)
            .with_context(|| format!("cannot write {}", self.host.display()))?;
        Ok(())
    }

    /// Unpacks a directory, over one of this name if there is one. Of what a guest may send, only
    /// files, directories and links are made, and nothing outside of the directory.
    fn unpack(&self, agent: &Agent) -> Result<()> {
        fs::create_dir_all(&self.host)
            .with_context(|| format!("cannot make {}", self.host.display()))?;
        let exec = Exec::new(["tar", "-c", "-C", &self.guest, "."]);
        read(agent, &exec, |output| {
            let mut archive = tar::Archive::new(output);
            archive.set_preserve_ownerships(false);
            let mut directories = Vec::new();
            for entry in archive.entries()? {
                let mut entry = entry?;
                let kind = entry.header().entry_type();
                if kind.is_dir() {
                    // Last, because its mode may forbid to fill it.
                    directories.push(entry);
                } else if kind.is_file() || kind.is_symlink() || kind.is_hard_link() {
                    entry.unpack_in(&self.host)?;
                } else {
                    let path = entry.path()?;
                    eprintln!("--get leaves {} out: {kind:?}", path.display());
                }
            }
            directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
            for mut directory in directories {
                directory.unpack_in(&self.host)?;
            }
            Ok(())
        })
    }
}

/// Runs a short command and returns what it prints.
fn text(agent: &Agent, argv: &[&str]) -> Result<String> {
    let ended = agent.spawn(&Exec::new(argv))?.wait()?;
    if !ended.status.success() {
        bail!("{}", ended.stderr.trim_end());
    }
    Ok(ended.stdout)
}

/// Runs a command with the input that `fill` writes.
fn write(agent: &Agent, exec: Exec, fill: impl FnOnce(&mut Input) -> io::Result<()>) -> Result<()> {
    let process = agent.spawn(&exec.stdin().timeout(None))?;
    let mut input = process.input();
    match fill(&mut input) {
        Ok(()) => input.end()?,
        // The command has ended, and says why.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        // Dropping the process kills it, so that it does not take a part for the whole.
        Err(error) => return Err(error.into()),
    }
    let ended = process.wait()?;
    if !ended.status.success() {
        bail!(
            "in the guest: {}: {}",
            ended.status,
            ended.stderr.trim_end()
        );
    }
    Ok(())
}

/// Runs a command and lets `take` read its standard output.
fn read(
    agent: &Agent,
    exec: &Exec,
    take: impl FnOnce(&mut Stdout) -> io::Result<()>,
) -> Result<()> {
    let mut stdout = Stdout {
        process: agent.spawn(&exec.clone().timeout(None))?,
        unread: Vec::new(),
        errors: Vec::new(),
        end: None,
    };
    let taken = take(&mut stdout);
    if taken.is_ok() {
        // An archive ends before its padding does.
        io::copy(&mut stdout, &mut io::sink())?;
    }
    match stdout.end {
        Some(status) if !status.success() => {
            let errors = String::from_utf8_lossy(&stdout.errors);
            bail!("in the guest: {status}: {}", errors.trim_end());
        }
        _ => Ok(taken?),
    }
}

/// Standard output of a command, to be read.
struct Stdout {
    process: Process,
    unread: Vec<u8>,
    errors: Vec<u8>,
    end: Option<Status>,
}

/// Most bytes of a command's errors that are shown.
const ERRORS: usize = 4096;

impl Read for Stdout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() && self.end.is_none() {
            match self.process.next_output().map_err(io::Error::other)? {
                Output::Stdout(bytes) => self.unread = bytes,
                Output::Stderr(bytes) => {
                    let room = ERRORS.saturating_sub(self.errors.len());
                    self.errors.extend(bytes.into_iter().take(room));
                }
                Output::Ended(status) => self.end = Some(status),
            }
        }
        let length = buffer.len().min(self.unread.len());
        buffer[..length].copy_from_slice(&self.unread[..length]);
        self.unread.drain(..length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_split_from_its_destination_at_the_last_colon() {
        assert_eq!(split("a").unwrap(), ("a", None));
        assert_eq!(split("a:b:c").unwrap(), ("a:b", Some("c".to_owned())));
        for wrong in ["", ":b", "a:"] {
            assert!(split(wrong).unwrap_err().contains("SOURCE:TARGET"));
        }
    }

    #[test]
    fn what_can_not_be_copied_is_refused_at_once() {
        let error = |result: Result<Put, String>| result.unwrap_err();
        assert!(error("/nonexistent".parse()).starts_with("/nonexistent: No such file"));
        assert!(error("/nonexistent:/tmp".parse()).starts_with("/nonexistent: No such file"));
        let error = |result: Result<Get, String>| result.unwrap_err();
        assert!(error("/etc/passwd:/nonexistent/a".parse()).starts_with("/nonexistent: No such"));
        assert!(error("/etc/passwd:/nonexistent/".parse()).starts_with("/nonexistent/: no such"));
        assert!(error("/etc/passwd:/proc/a".parse()).starts_with("/proc: No such"));
        assert!(error("/:/tmp".parse()).contains("no name"));
    }

    #[test]
    fn a_host_path_may_have_a_colon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a:b");
        fs::write(&path, "").unwrap();
        let put: Put = path.to_str().unwrap().parse().unwrap();
        assert_eq!((put.name.as_str(), put.guest), ("a:b", None));
    }
}
