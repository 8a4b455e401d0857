//! A directory of the host in the guest, by QEMU's own 9p server.
//!
//! QEMU gets the directory as an open file, so that no parent of it has to be searchable for QEMU's
//! user. When we are root, QEMU runs as `nobody`, and the open file is an idmapped mount in which
//! root's files are `nobody`'s: a file that the guest makes belongs to root, and nothing outside of
//! the directory becomes accessible.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    fs::{CWD, OFlags},
    io::{FdFlags, fcntl_setfd},
    mount::{OpenTreeFlags, open_tree},
};

use crate::{agent::Exec, provision::host, sandbox};

/// A directory that a guest may read, and perhaps write.
#[derive(Debug)]
pub struct Share {
    name: String,
    writable: bool,
    directory: OwnedFd,
}

impl Share {
    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// If it can't be opened, has no name, or, when we are root, can't be mounted as QEMU's user
    /// needs it.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        let real = path
            .canonicalize()
            .with_context(|| format!("{}", path.display()))?;
        if !real.is_dir() {
            bail!("{} is no directory", path.display());
        }
        let name = real
            .file_name()
            .with_context(|| format!("{} has no name for /mnt/NAME", path.display()))?
            .to_str()
            .with_context(|| format!("the name of {} is not UTF-8", path.display()))?
            .to_owned();
        let directory = if host::is_root() {
            match mapped(&real) {
                Ok(mount) => mount,
                Err(error) if writable => {
                    return Err(error.context(format!(
                        "{}: root can't share it rw here, but an ordinary user can",
                        path.display()
                    )));
                }
                // What all users may read can be shared still.
                Err(_) => plain(&real)?,
            }
        } else {
            plain(&real)?
        };
        Ok(Self {
            name,
            writable,
            directory,
        })
    }

    /// Returns the last component of its path; the guest has it at `/mnt/NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns QEMU's arguments for the share with this number.
    pub(crate) fn arguments(&self, index: usize) -> [String; 4] {
        let path = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let readonly = if self.writable { "off" } else { "on" };
        [
            "-fsdev".to_owned(),
            format!(
                "local,id=share{index},path={path},security_model=none,multidevs=remap,\
                 readonly={readonly}"
            ),
            "-device".to_owned(),
            format!("virtio-9p-pci,fsdev=share{index},mount_tag=share{index}"),
        ]
    }

    /// Lets processes that are started from now on inherit the open directory, or no longer.
    pub(crate) fn inherit(&self, inherit: bool) -> Result<()> {
        let flags = if inherit {
            FdFlags::empty()
        } else {
            FdFlags::CLOEXEC
        };
        Ok(fcntl_setfd(&self.directory, flags)?)
    }

    /// Returns the command that mounts the share with this number in the guest.
    pub fn mount(&self, index: usize) -> Exec {
        let mode = if self.writable { "rw" } else { "ro" };
        let options = format!("trans=virtio,version=9p2000.L,msize=262144,cache=mmap,{mode}");
        let target = format!("/mnt/{}", self.name);
        let script = r#"mkdir -p "$3" && mount -t 9p -o "$1" "$2" "$3""#;
        let tag = format!("share{index}");
        Exec::new(["sh", "-c", script, "sh", &options, &tag, &target])
    }
}

/// Opens a directory as it is.
fn plain(path: &Path) -> Result<OwnedFd> {
    let flags = (OFlags::PATH | OFlags::DIRECTORY).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.into())
}

/// Opens a directory as a mount of its own, in which root and QEMU's user have changed places.
fn mapped(path: &Path) -> Result<OwnedFd> {
    let tree = open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .context("cannot mount it (open_tree)")?;
    let namespace = swapped_users()?;
    composefs_ioctls::mount::mount_setattr_idmap(tree.as_fd(), namespace.as_fd())
        .context("cannot map owners in a mount of it (mount_setattr)")?;
    Ok(tree)
}

/// Returns a user namespace that maps root to QEMU's user, QEMU's user to root, and others to
/// themselves. In an idmapped mount the left-hand id is the one on disk.
fn swapped_users() -> Result<File> {
    let (uid, gid) = sandbox::unprivileged()?;
    let mut holder = host::command("unshare")
        .args(["--user", "--", "sh", "-c", "echo; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run unshare")?;
    let process = format!("/proc/{}", holder.id());
    let map = |id: u32| format!("0 {id} 1\n1 1 {}\n{id} 0 1\n", id - 1);
    let write = |name: &str, text: String| -> Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .open(format!("{process}/{name}"))?;
        Ok(file.write_all(text.as_bytes())?)
    };
    let made = (|| -> Result<File> {
        // The namespace exists when the shell in it has printed its line.
        let mut line = [0];
        let pipe = holder.stdout.as_mut().context("no pipe")?;
        pipe.read_exact(&mut line)
            .map_err(|_| anyhow!("this kernel gives no user namespace"))?;
        write("uid_map", map(uid)).context("cannot map users")?;
        write("gid_map", map(gid)).context("cannot map groups")?;
        Ok(File::open(format!("{process}/ns/user"))?)
    })();
    let _ = holder.kill();
    holder.wait()?;
    made
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[test]
    fn a_directory_is_refused_by_name() {
        for (path, reason) in [
            ("/nonexistent", "/nonexistent"),
            ("/etc/passwd", "/etc/passwd is no directory"),
            ("/", "/ has no name"),
        ] {
            let error = format!("{:#}", Share::open(Path::new(path), false).unwrap_err());
            assert!(error.starts_with(reason), "{error}");
        }
    }

    /// The mechanism of root's shares, with another program in QEMU's place.
    #[test]
    fn what_qemus_user_writes_belongs_to_the_caller() {
        if !host::is_root() {
            return;
        }
        // Below a directory that other users may not enter.
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("with,comma");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("secret"), "text").unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(directory.join("secret"), mode).unwrap();
        let share = Share::open(&directory, true).unwrap();
        share.inherit(true).unwrap();
        let (uid, gid) = sandbox::unprivileged().unwrap();
        let inside = format!("/proc/self/fd/{}", share.directory.as_raw_fd());
        let output = host::command("setpriv")
            .args([&format!("--reuid={uid}"), &format!("--regid={gid}")])
            .args(["--clear-groups", "sh", "-c"])
            .arg("cd $0/ && cat secret && echo new > made && mkdir dir && chmod 640 made")
            .arg(inside)
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"text", "{output:?}");
        assert!(output.status.success(), "{output:?}");
        for name in ["made", "dir"] {
            let made = fs::metadata(directory.join(name)).unwrap();
            assert_eq!((made.uid(), made.gid()), (0, 0), "{name}");
        }
    }
}
