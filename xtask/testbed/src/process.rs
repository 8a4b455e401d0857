//! Processes on the host that end with us.

use std::{
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    /// A pidfd, readable once the process has ended.
    ended: OwnedFd,
}

impl Running {
    /// Starts `command`; errors call it `name`.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_raw(child.id().cast_signed()).context("no process id")?;
        let ended = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        Ok(Self { name, child, ended })
    }

    /// Accepts the connection that the process opens.
    ///
    /// # Errors
    ///
    /// If it ends first, or does not connect within `patience`.
    pub fn accept(&mut self, listener: &UnixListener, patience: Duration) -> Result<UnixStream> {
        if !self.wait_or(listener.as_fd(), patience)? {
            bail!(
                "{} did not connect within {} s",
                self.name,
                patience.as_secs()
            );
        }
        Ok(listener.accept()?.0)
    }

    /// Waits until the process has made the file `path`.
    ///
    /// # Errors
    ///
    /// If it ends first, or the file is not there within `patience`.
    pub fn wait_for_file(&mut self, path: &Path, patience: Duration) -> Result<()> {
        let directory = path.parent().context("a file in no directory")?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, directory, inotify::WatchFlags::CREATE)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        let deadline = Instant::now() + patience;
        while !path.exists() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if !self.wait_or(watch.as_fd(), remaining)? {
                bail!("{} did not make {}", self.name, path.display());
            }
            events.next()?;
        }
        Ok(())
    }

    /// Waits until `other` is readable; returns false after `patience`, and fails if the process
    /// ends.
    fn wait_or(&mut self, other: std::os::fd::BorrowedFd<'_>, patience: Duration) -> Result<bool> {
        let mut fds = [
            PollFd::from_borrowed_fd(other, PollFlags::IN),
            PollFd::new(&self.ended, PollFlags::IN),
        ];
        let some = poll(&mut fds, Some(&Timespec::try_from(patience)?)).context("poll")?;
        if some == 0 {
            return Ok(false);
        }
        if fds[0].revents().is_empty() {
            bail!("{} ended with {}", self.name, self.child.wait()?);
        }
        Ok(true)
    }

    /// Waits for the process to end by itself, for at most `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut fds = [PollFd::new(&self.ended, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(patience)?)).context("poll")? == 0 {
            bail!("{} did not end within {} s", self.name, patience.as_secs());
        }
        Ok(self.child.wait()?)
    }

    /// Returns its exit status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Returns a pidfd of it, readable once it has ended.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        Ok(self.ended.try_clone()?)
    }

    /// Returns the id of the user that it runs as.
    pub fn user(&self) -> Result<u32> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(format!("/proc/{}", self.child.id()))?.uid())
    }

    /// Returns the number of its open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Returns its resident memory in bytes, shared pages included.
    pub fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path)?;
        // "VmRSS:     1234 kB"
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(1024 * kib.context("the kernel does not report its resident memory")?)
    }

    /// Sends it SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Stops it for a time.
    pub fn pause(&self, time: Duration) -> Result<()> {
        self.signal(Signal::STOP)?;
        thread::sleep(time);
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
