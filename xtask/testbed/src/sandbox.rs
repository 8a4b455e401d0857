//! The directory and the user that QEMU and the backend run with: an unprivileged user, and never
//! longer than this process.
//!
//! When we are root, both become `nobody`. What they read lies in the cache, perhaps below a
//! directory that only root may enter (`/root`). So they are started in the cache directory with
//! relative paths: such a path lookup begins at the working directory and never passes through its
//! parents. That needs neither a copy nor a mount namespace.

use std::{
    fs,
    fs::{File, Permissions},
    os::unix::{fs::PermissionsExt, fs::chown, net::UnixListener},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{progress, provision::host};

/// A user id and its group.
#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

/// Directories to remove when a signal ends this process, and where their logs are copied first.
static DIRECTORIES: Mutex<Vec<(PathBuf, Option<PathBuf>)>> = Mutex::new(Vec::new());

/// The files that remain of a guest.
const SAVED: [&str; 4] = ["console.log", "zcnic.log", "qemu.log", COMMANDS];
/// The file with the command lines of the backend and of QEMU.
pub const COMMANDS: &str = "commands.sh";

/// Makes SIGINT, SIGTERM and SIGHUP end this process without leaving directories behind. The kernel
/// kills its children with it.
pub fn clean_up_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        progress::clear();
        for (directory, artifacts) in directories().iter() {
            if let Some(artifacts) = artifacts {
                let _ = save(directory, artifacts);
            }
            let _ = fs::remove_dir_all(directory);
        }
        process::exit(130);
    })
    .context("cannot handle signals")
}

/// The prefix of the directories' names.
pub const PREFIX: &str = "zcnic-";
/// The file in each directory that is locked while it is in use.
const LOCK: &str = "lock";

/// A directory for the sockets, logs and programs of one guest, and the user that it belongs to.
/// Dropping it removes the directory.
#[derive(Debug)]
pub struct Sandbox {
    directory: TempDir,
    _in_use: File,
    /// None if we are unprivileged already.
    user: Option<User>,
    /// A group that the processes keep, so that they can open a device.
    extra_group: Option<u32>,
}

impl Sandbox {
    /// Creates the directory, and removes those that killed processes have left.
    pub fn new() -> Result<Self> {
        sweep();
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        // The lock file appears locked.
        let unlocked = directory.path().join("unlocked");
        let in_use = File::create(&unlocked)?;
        in_use.lock()?;
        fs::rename(unlocked, directory.path().join(LOCK))?;
        let user = if host::is_root() {
            Some(nobody()?)
        } else {
            None
        };
        if let Some(User { uid, gid }) = user {
            chown(directory.path(), Some(uid), Some(gid))?;
        }
        directories().push((directory.path().to_owned(), None));
        Ok(Self {
            directory,
            _in_use: in_use,
            user,
            extra_group: None,
        })
    }

    /// Has the logs copied to `artifacts` also when a signal ends this process.
    pub fn save_on_signals(&self, artifacts: &Path) {
        for (directory, place) in directories().iter_mut() {
            if directory == self.directory.path() {
                *place = Some(artifacts.to_owned());
            }
        }
    }

    /// Copies the logs to the directory `to`, and makes that.
    ///
    /// # Errors
    ///
    /// If a file can't be written.
    pub fn save(&self, to: &Path) -> Result<()> {
        save(self.directory(), to)
    }

    /// Returns the names of the logs that are there.
    pub fn saved(&self) -> Vec<&'static str> {
        saved(self.directory())
    }

    /// Lets the processes keep the supplementary group `group`.
    pub fn keep_group(&mut self, group: u32) {
        self.extra_group = Some(group);
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the path of `name` in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns a command that runs `program` as the unprivileged user in `directory`, with its
    /// output in the sandbox's file `NAME.log`.
    pub fn command(&self, name: &str, directory: &Path, program: &Path) -> Result<Command> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        let mut command = host::command("setpriv");
        command.args(["--no-new-privs", "--pdeathsig", "KILL"]);
        if let Some(User { uid, gid }) = self.user {
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"));
            match self.extra_group {
                Some(group) => command.arg(format!("--groups={group}")),
                None => command.arg("--clear-groups"),
            };
        }
        command
            .arg("--")
            .arg(program)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Returns a listening socket that the processes may connect to.
    pub fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path(name);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        Ok(listener)
    }

    /// Copies a program into the directory, so that the user can run it wherever the original lies.
    /// Returns the copy.
    pub fn install(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().unwrap_or_default();
        let copy = self.directory.path().join(name);
        if !copy.exists() {
            fs::copy(program, &copy)
                .with_context(|| format!("cannot copy {}", program.display()))?;
            fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        }
        Ok(copy)
    }

    /// Returns the output of the process `name`; it is empty if there is none.
    pub fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.path(&format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        directories().retain(|(directory, _)| directory != self.directory.path());
    }
}

fn directories() -> MutexGuard<'static, Vec<(PathBuf, Option<PathBuf>)>> {
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn saved(directory: &Path) -> Vec<&'static str> {
    SAVED
        .into_iter()
        .filter(|name| directory.join(name).exists())
        .collect()
}

/// Copies the logs in the sandbox `directory` to `to`.
fn save(directory: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for name in saved(directory) {
        let copy = to.join(name);
        let content = fs::read(directory.join(name))?;
        fs::write(&copy, content).with_context(|| format!("cannot write {}", copy.display()))?;
    }
    Ok(())
}

/// Removes directories whose process was killed before it could remove them.
fn sweep() {
    let Ok(items) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for item in items.flatten() {
        let path = item.path();
        // Other users' directories may have such names: ours have a lock file that we may open.
        if item.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(lock) = File::options().write(true).open(path.join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Returns the ids of the user and the group that QEMU and the backend run with when we are root.
pub(crate) fn unprivileged() -> Result<(u32, u32)> {
    let User { uid, gid } = nobody()?;
    Ok((uid, gid))
}

fn nobody() -> Result<User> {
    let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    // "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"
    for line in users.lines() {
        let fields: Vec<_> = line.split(':').collect();
        if let ["nobody", _, uid, gid, ..] = fields[..] {
            return Ok(User {
                uid: uid.parse()?,
                gid: gid.parse()?,
            });
        }
    }
    bail!("/etc/passwd has no user `nobody` to run QEMU as");
}
