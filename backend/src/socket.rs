//! Listening sockets in the file system that come and go with the process.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixDatagram, UnixListener},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode as FileMode, chmodat},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, listen, shutdown,
        socket_with,
    },
};
use thiserror::Error;

/// Why a socket can't be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// A running process listens there.
    #[error("Socket {0} is in use by a running process")]
    InUse(PathBuf),
    /// Another kind of file is there, which must not be removed.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("Can't listen on {0}")]
    Listen(PathBuf, #[source] io::Error),
}

/// A listening socket whose file is removed with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, which another process may have replaced.
    file: (u64, u64),
}

impl Socket {
    /// Listens at `path`; replaces a stale socket that no process listens on. With `private` only
    /// the owner may connect.
    pub(crate) fn listen(path: &Path, private: bool) -> Result<Self, SocketError> {
        let failed = |error: io::Error| SocketError::Listen(path.to_owned(), error);
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
        let attempt = || -> io::Result<Self> {
            let socket = socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            if private {
                // Before any client can connect.
                chmodat(
                    CWD,
                    path,
                    FileMode::RUSR | FileMode::WUSR,
                    rustix::fs::AtFlags::empty(),
                )?;
            }
            let found = fs::symlink_metadata(path)?;
            listen(&socket, 16)?;
            let file = (found.dev(), found.ino());
            Ok(Self {
                listener: socket.into(),
                path: path.to_owned(),
                file,
            })
        };
        attempt().map_err(failed)
    }

    /// The path of its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Ends a blocked accept.
    pub(crate) fn shut_down(&self) {
        // It can fail only if it was shut down before.
        let _ = shutdown(self.listener.as_fd(), Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
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
        let first = Socket::listen(&path, false).expect("listen");
        assert!(matches!(
            Socket::listen(&path, false),
            Err(SocketError::InUse(_))
        ));
        drop(first);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).expect("bind"));
        assert!(
            path.exists(),
            "std leaves the file behind, as a killed process does"
        );
        let socket = Socket::listen(&path, true).expect("replace a stale socket");
        assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o777, 0o600);
        drop(socket);
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("precious");
        fs::write(&path, "data").expect("write");
        assert!(matches!(
            Socket::listen(&path, false),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(fs::read(&path).expect("read"), b"data");
    }

    #[test]
    fn replaced_file_is_not_removed() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let socket = Socket::listen(&path, false).expect("listen");
        fs::remove_file(&path).expect("remove");
        let other = UnixListener::bind(&path).expect("bind");
        drop(socket);
        assert!(path.exists());
        drop(other);
    }
}
