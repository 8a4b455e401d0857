//! The byte stream of the protocol: a Unix socket, or its virtio-serial port in a guest.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Name of the virtio-serial port that a control socket is wired to.
pub const PORT_NAME: &str = "zcnic.control";

/// Where the kernel lists such ports, with or without udev.
const PORTS: &str = "/sys/class/virtio-ports";

/// A bidirectional stream of bytes.
#[derive(Debug)]
pub(crate) struct Stream {
    file: File,
    /// The deadline for the peer; `None`: no deadline.
    pub(crate) deadline: Option<Instant>,
}

impl Stream {
    pub(crate) fn over(file: File) -> Self {
        Self {
            file,
            deadline: None,
        }
    }

    pub(crate) fn socket(path: &Path) -> io::Result<Self> {
        Ok(Self::over(OwnedFd::from(UnixStream::connect(path)?).into()))
    }

    pub(crate) fn port(path: &Path) -> io::Result<Self> {
        Ok(Self::over(
            File::options().read(true).write(true).open(path)?,
        ))
    }

    fn wait(&self, wanted: PollFlags) -> io::Result<()> {
        let Some(deadline) = self.deadline else {
            return Ok(());
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut fds = [PollFd::new(&self.file, wanted)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                // The other end of the port is closed: a write would block until it is opened.
                Ok(_) if fds[0].revents() == PollFlags::HUP && wanted == PollFlags::OUT => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN)?;
        self.file.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::OUT)?;
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The virtio-serial port of this machine that is wired to a backend, if it is a guest with one.
#[must_use]
pub fn find_port() -> Option<PathBuf> {
    let named = |port: &Path| {
        fs::read_to_string(port.join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    };
    let port = fs::read_dir(PORTS)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|port| named(port))?;
    Some(Path::new("/dev").join(port.file_name()?))
}

/// The time `patience` from now; `None` if that can't be represented.
pub(crate) fn deadline(patience: Duration) -> Option<Instant> {
    Instant::now().checked_add(patience)
}
