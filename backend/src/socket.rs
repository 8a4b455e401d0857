//! Listening sockets in the file system that come and go with the process, or that systemd passes to
//! it and keeps.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Mutex,
};

use listenfd::ListenFd;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{Mode, fchmod},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
        sockopt::socket_acceptconn,
    },
    process::umask,
};
use thiserror::Error;

use crate::{config::SocketMode, sync::lock};

/// Why a socket can't be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A running process listens there.
    #[error("Socket {0} is in use by a running process")]
    InUse(PathBuf),
    /// Another kind of file is there, which must not be removed.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// systemd passes something else than a listening Unix socket with a path.
    #[error("LISTEN_FDS: descriptor {0} is not a listening Unix socket with a path")]
    Passed(usize),
    /// systemd passes a socket that no option names.
    #[error("LISTEN_FDS: no --port or --control has the path {0}")]
    NotNamed(PathBuf),
    /// Anything else.
    #[error("Can't listen on {0}")]
    Listen(PathBuf, #[source] io::Error),
}

/// The listening sockets that systemd passed, by path, until [`Socket::listen`] takes them.
static PASSED: Mutex<Vec<(PathBuf, UnixListener)>> = Mutex::new(Vec::new());

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const FIRST_PASSED: usize = 3;

/// Takes over the listening sockets that the environment's `LISTEN_FDS` announces, as systemd's socket
/// activation does. A port or control socket with the path of one uses it. `named` are the paths of
/// all of them.
///
/// # Errors
///
/// One is of another kind, or its path is not among `named`: its clients would wait for ever.
pub fn adopt_passed<'a>(named: impl Iterator<Item = &'a Path>) -> Result<(), SocketError> {
    let mut descriptors = ListenFd::from_env();
    let named: Vec<_> = named.collect();
    for index in 0..descriptors.len() {
        let not_ours = || SocketError::Passed(FIRST_PASSED + index);
        let listener = descriptors.take_unix_listener(index);
        let listener = listener.ok().flatten().ok_or_else(not_ours)?;
        let address = listener.local_addr();
        let path = address
            .ok()
            .and_then(|it| Some(it.as_pathname()?.to_owned()));
        let path = path
            .filter(|_| socket_acceptconn(&listener) == Ok(true))
            .ok_or_else(not_ours)?;
        if !named.contains(&path.as_path()) {
            return Err(SocketError::NotNamed(path));
        }
        lock(&PASSED).push((path, listener));
    }
    Ok(())
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    /// Becomes readable when no more connections are to be accepted. A shutdown of the listener
    /// would end it for systemd, too.
    stopped: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file that is removed with the socket. Another process may have
    /// replaced it. None for a socket that systemd keeps.
    file: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`, or takes the socket that systemd passed with this path. Replaces a stale
    /// socket that no process listens on. Those may connect who have write permission by `mode`,
    /// whatever the umask; systemd's `SocketMode` says that of its own.
    pub(crate) fn listen(path: &Path, mode: SocketMode) -> Result<Self, SocketError> {
        let failed = |error: io::Error| SocketError::Listen(path.to_owned(), error);
        let stopped = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut passed = lock(&PASSED);
        if let Some(index) = passed.iter().position(|(known, _)| known == path) {
            let (path, listener) = passed.swap_remove(index);
            return Ok(Self {
                listener,
                stopped,
                path,
                file: None,
            });
        }
        drop(passed);
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            // A probe of the wrong type fails with EPROTOTYPE, and a listening process does not
            // notice it.
            Ok(_) => match UnixDatagram::unbound().and_then(|probe| probe.connect(path)) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) if error.raw_os_error() != Some(Errno::PROTOTYPE.raw_os_error()) => {
                    return Err(failed(error));
                }
                _ => return Err(SocketError::InUse(path.to_owned())),
            },
            Err(_) => {}
        }
        let attempt = || -> io::Result<_> {
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            bind_with_mode(&socket, path, mode)?;
            let found = fs::symlink_metadata(path)?;
            listen(&socket, 16)?;
            Ok((socket.into(), (found.dev(), found.ino())))
        };
        let (listener, file) = attempt().map_err(failed)?;
        Ok(Self {
            listener,
            stopped,
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// The path of its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file is removed with it.
    pub(crate) fn owns_file(&self) -> bool {
        self.file.is_some()
    }

    /// Waits for a connection. Fails after [`Self::shut_down`].
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let mut sources = [
            PollFd::new(&self.stopped, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        retry_on_intr(|| poll(&mut sources, None))?;
        if !sources[0].revents().is_empty() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(self.listener.accept()?.0)
    }

    /// Becomes readable at [`Self::shut_down`].
    pub(crate) fn stopped(&self) -> BorrowedFd<'_> {
        self.stopped.as_fd()
    }

    /// Ends a blocked accept, and all later ones.
    pub(crate) fn shut_down(&self) {
        // It can fail only if it was shut down 2^64 - 2 times before.
        let _ = rustix::io::write(&self.stopped, &1_u64.to_ne_bytes());
    }
}

/// Makes the file of `socket` at `path` with permissions of `mode`, from its first moment: a change
/// by path could hit a file that another process puts there meanwhile.
fn bind_with_mode(socket: &OwnedFd, path: &Path, mode: SocketMode) -> io::Result<()> {
    /// Held while the process has no umask.
    static UMASK: Mutex<()> = Mutex::new(());
    // The file inherits the permissions of the socket that has no name yet, less the umask.
    fchmod(socket, Mode::from_raw_mode(mode.bits()))?;
    let address = SocketAddrUnix::new(path)?;
    let _guard = lock(&UMASK);
    let before = umask(Mode::empty());
    let bound = bind(socket, &address);
    umask(before);
    Ok(bound?)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove_file();
    }
}

impl Socket {
    /// Removes its file, unless another process put another one there. Clients that wait to be
    /// accepted still are.
    pub(crate) fn remove_file(&self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| Some((found.dev(), found.ino())) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_socket_is_refused_and_stale_one_replaced() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let first = Socket::listen(&path, SocketMode::default()).expect("listen");
        assert!(matches!(
            Socket::listen(&path, SocketMode::default()),
            Err(SocketError::InUse(_))
        ));
        drop(first);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).expect("bind"));
        assert!(
            path.exists(),
            "std leaves the file behind, as a killed process does"
        );
        let socket = Socket::listen(&path, SocketMode::default());
        drop(socket.expect("replace a stale socket"));
    }

    #[test]
    fn mode_does_not_depend_on_the_umask() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        for (text, mode) in [("600", 0o600), ("660", 0o660), ("666", 0o666)] {
            let given = text.parse().expect("a mode");
            let socket = Socket::listen(&path, given).expect("listen");
            assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, mode);
            drop(socket);
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("precious");
        fs::write(&path, "data").expect("write");
        assert!(matches!(
            Socket::listen(&path, SocketMode::default()),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(fs::read(&path).expect("read"), b"data");
    }

    #[test]
    fn replaced_file_is_not_removed() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let socket = Socket::listen(&path, SocketMode::default()).expect("listen");
        fs::remove_file(&path).expect("remove");
        let other = UnixListener::bind(&path).expect("bind");
        drop(socket);
        assert!(path.exists());
        drop(other);
    }
}
