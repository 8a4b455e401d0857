//! Watches a guest from outside, so that no command waits for one that is dead: its console, for a
//! panic after which it does not reboot, and its agent, for a guest that hangs.

use std::{
    fs::File,
    io::{Read, Write, stderr},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    process::{Signal, pidfd_send_signal},
};

use crate::{
    agent::{Agent, Exec, Process},
    process::Running,
};

/// The kernel's last words after a panic, which it prints only if it stays: with `panic=0` or when
/// rebooting failed.
const PANICKED: &str = "---[ end Kernel panic";
/// How often a guest is asked whether it runs.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// From the question to the end of a guest that does not answer. The host's end of the agent waits
/// for half a minute more.
const ANSWER: Duration = Duration::from_secs(90);

/// The reason for which QEMU was killed.
#[derive(Clone, Debug, Default)]
pub struct Reason(Arc<Mutex<Option<String>>>);

impl Reason {
    /// Returns it, if QEMU was killed.
    pub fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }
}

/// A thread that reads the console until QEMU's end. Dropping it after that waits until it has read
/// everything.
#[derive(Debug)]
pub struct ConsoleWatch {
    thread: Option<JoinHandle<()>>,
    /// QEMU's pidfd.
    ended: OwnedFd,
}

/// What is done about the console.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watching {
    /// Copies it to standard error as it comes.
    pub live: bool,
    /// Leaves a guest alone that panicked, for a debugger.
    pub keep_panicked: bool,
}

impl ConsoleWatch {
    /// Follows `console`, a file that QEMU makes, and kills QEMU after a panic.
    pub fn start(
        console: &Path,
        qemu: &Running,
        watching: Watching,
        reason: &Reason,
    ) -> Result<Self> {
        let ended = qemu.pidfd()?;
        let reason = reason.clone();
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let directory = console.parent().context("a console in no directory")?;
        let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MODIFY;
        inotify::add_watch(&watch, directory, events)?;
        let mut follower = Follower {
            path: console.to_owned(),
            file: None,
            line: Vec::new(),
            live: watching.live,
        };
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || {
                let mut buffer = [MaybeUninit::uninit(); 4096];
                let mut events = inotify::Reader::new(&watch, &mut buffer);
                loop {
                    let over = wait(&watch, &ended);
                    while events.next().is_ok() {}
                    let panicked = follower.follow();
                    if over {
                        break;
                    }
                    if panicked && !watching.keep_panicked {
                        reason.set("the guest's kernel panicked, and does not reboot");
                        let _ = pidfd_send_signal(&ended, Signal::KILL);
                    }
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            ended: qemu.pidfd()?,
        })
    }
}

impl Drop for ConsoleWatch {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && within(&self.ended, Duration::ZERO)
        {
            let _ = thread.join();
        }
    }
}

/// Waits for a change of the console; returns whether QEMU ended.
fn wait(watch: &OwnedFd, ended: &OwnedFd) -> bool {
    let mut fds = [
        PollFd::new(watch, PollFlags::IN),
        PollFd::new(ended, PollFlags::IN),
    ];
    poll(&mut fds, None).is_err() || !fds[1].revents().is_empty()
}

/// Reads what is added to a file.
struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The last line, as far as it is there.
    line: Vec<u8>,
    live: bool,
}

impl Follower {
    /// Reads up to the file's end; returns whether the kernel panicked and stays.
    fn follow(&mut self) -> bool {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return false;
        };
        let mut text = Vec::new();
        // After an error a later call reads the rest.
        let _ = file.read_to_end(&mut text);
        if self.live {
            let _ = stderr().write_all(&text);
        }
        let mut panicked = false;
        for byte in text {
            if byte == b'\n' {
                panicked |= String::from_utf8_lossy(&self.line).contains(PANICKED);
                self.line.clear();
            } else if self.line.len() < 4096 {
                self.line.push(byte);
            }
        }
        panicked
    }
}

/// Asks the guest again and again whether it runs, and kills QEMU if it does not answer. Ends with
/// QEMU.
pub fn expect_answers(agent: &Agent, qemu: &Running, reason: &Reason) -> Result<()> {
    let ended = qemu.pidfd()?;
    let (agent, reason) = (agent.clone(), reason.clone());
    thread::Builder::new()
        .name("alive".to_owned())
        .spawn(move || {
            let question = Exec::new(["true"]).timeout(ANSWER);
            while !within(&ended, ASK_EVERY) {
                let answer = agent.spawn(&question).and_then(Process::wait);
                if answer.is_err() && !within(&ended, Duration::ZERO) {
                    reason.set(&format!(
                        "the guest hangs: it has not run `true` in {} s",
                        ANSWER.as_secs()
                    ));
                    let _ = pidfd_send_signal(&ended, Signal::KILL);
                }
            }
        })?;
    Ok(())
}

/// Returns whether the process of `ended` ends within `time`.
fn within(ended: &OwnedFd, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    poll(&mut fds, time.as_ref()).is_err() || !fds[0].revents().is_empty()
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn a_guest_that_panicked_and_stays_is_ended_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let console = directory.path().join("console.log");
        // It stands for QEMU.
        let mut qemu = Running::start("QEMU", Command::new("sleep").arg("1000")).unwrap();
        let reason = Reason::default();
        let watching = Watching::default();
        let watch = ConsoleWatch::start(&console, &qemu, watching, &reason).unwrap();
        fs::write(&console, "[    1.0] Kernel panic - not syncing: x\r\n").unwrap();
        let mut file = File::options().append(true).open(&console).unwrap();
        file.write_all(b"[    1.1] ---[ end Kernel panic - not")
            .unwrap();
        assert!(qemu.try_wait().unwrap().is_none());
        file.write_all(b" syncing: x ]---\r\n").unwrap();
        let status = qemu.wait(Duration::from_secs(600)).unwrap();
        assert_eq!(status.code(), None, "{status}");
        drop(watch);
        assert!(reason.get().unwrap().contains("panicked"));
    }

    #[test]
    fn a_guest_that_reboots_after_a_panic_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let console = directory.path().join("console.log");
        let text =
            "[    1.0] Kernel panic - not syncing: x\r\n[    1.1] Rebooting in 5 seconds..\r\n";
        fs::write(&console, text).unwrap();
        let mut follower = Follower {
            path: console,
            file: None,
            line: Vec::new(),
            live: false,
        };
        assert!(!follower.follow());
    }
}
