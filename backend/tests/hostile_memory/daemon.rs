//! The program itself, with what it logs.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use zcnic_ctl::client::Client;
use zcnic_model::vhost_user::PATIENCE;

/// `zcnic` with four ports and cables between 0 and 1 and between 2 and 3.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    directory: TempDir,
}

impl Daemon {
    /// Starts it with more options, and waits until its sockets listen.
    pub(crate) fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic"));
        for port in 0..4 {
            let path = directory.path().join(format!("{port}.sock"));
            command
                .arg("--port")
                .arg(format!("path={}", path.display()));
        }
        let mut child = command
            .args(["--cable", "0:1", "--cable", "2:3", "--control"])
            .arg(directory.path().join("control"))
            .args(options)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("zcnic starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("stderr");
        thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push(line);
                }
            }
        });
        let daemon = Self {
            child,
            log,
            directory,
        };
        daemon.await_lines("Control socket", 1);
        daemon
    }

    /// The path of a port's socket.
    pub(crate) fn path(&self, port: usize) -> PathBuf {
        self.directory.path().join(format!("{port}.sock"))
    }

    pub(crate) fn control(&self) -> Client {
        Client::connect(&self.directory.path().join("control")).expect("control")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many lines of its log contain `text`.
    pub(crate) fn lines(&self, text: &str) -> usize {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until `count` lines of its log contain `text`.
    pub(crate) fn await_lines(&self, text: &str, count: usize) {
        await_that(
            || self.lines(text) >= count,
            || format!("no {count} lines {text:?} in {:#?}", self.log),
        );
        assert_eq!(self.lines(text), count, "{text:?} in {:#?}", self.log);
    }

    /// Fails if it has ended.
    pub(crate) fn assert_running(&mut self) {
        let status = self.child.try_wait().expect("a child");
        assert!(status.is_none(), "zcnic ended: {status:?}, {:#?}", self.log);
    }

    /// Ends it with SIGTERM, and checks that it does so in order.
    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let mut status = None;
        await_that(
            || {
                status = self.child.try_wait().expect("a child");
                status.is_some()
            },
            || "SIGTERM did not end it".to_owned(),
        );
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `happened`, or fails with `complaint`.
pub(crate) fn await_that(mut happened: impl FnMut() -> bool, complaint: impl FnOnce() -> String) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{}", complaint());
        thread::sleep(Duration::from_millis(1));
    }
}
