//! The processes of a world: the backend, and those that are hit beside it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use zcnic_ctl::Client;
use zcnic_model::vhost_user::PATIENCE;

use crate::point::{Blow, Moment};

/// Longer than every time-out of the backend, of which a client's five seconds are the longest,
/// and shorter than the model driver waits for an answer.
const PAUSE: Duration = Duration::from_secs(6);

/// Names of the ports' sockets.
const PORTS: [&str; 2] = ["0.sock", "1.sock"];

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the process runs");
    }

    /// Strikes it, and for a pause returns when it runs again.
    pub(crate) fn strike(&mut self, blow: Blow) {
        let ended = self.0.try_wait().expect("a status");
        assert_eq!(ended, None, "it had ended before the blow");
        match blow {
            Blow::Kill => {
                self.0.kill().expect("it runs");
                self.0.wait().expect("it ends");
            }
            Blow::Pause => {
                self.signal(Signal::STOP);
                thread::sleep(PAUSE);
                self.signal(Signal::CONT);
            }
        }
    }

    /// Descriptors and threads.
    fn resources(&self) -> [usize; 2] {
        ["fd", "task"].map(|what| {
            let entries = fs::read_dir(format!("/proc/{}/{what}", self.0.id()));
            entries.map_or(0, Iterator::count)
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `zcnic` with two cabled ports and a control socket.
pub(crate) struct Backend {
    pub(crate) process: Process,
    directory: TempDir,
    /// Descriptors and threads without any connection.
    idle: [usize; 2],
}

impl Backend {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let process = Process(spawn(&directory));
        let mut this = Self {
            process,
            directory,
            idle: [0; 2],
        };
        this.await_sockets();
        this
    }

    /// Starts it again after it was killed.
    pub(crate) fn restart(&mut self) {
        self.process = Process(spawn(&self.directory));
        self.await_sockets();
    }

    fn await_sockets(&mut self) {
        // A client learns only from the socket that a backend is there.
        let start = Instant::now();
        let [a, b] = self.ports();
        while [a.as_path(), &b, &self.control()]
            .iter()
            .any(|path| UnixStream::connect(path).is_err())
        {
            assert!(start.elapsed() < PATIENCE, "zcnic does not listen");
            thread::sleep(Duration::from_millis(1));
        }
        // It answers once all its threads run.
        let mut client = Client::connect(&self.control()).expect("control");
        client.status().expect("status");
        drop(client);
        // The connections that this made end first.
        loop {
            self.idle = self.process.resources();
            thread::sleep(Duration::from_millis(20));
            if self.process.resources() == self.idle {
                return;
            }
        }
    }

    /// The sockets of its ports.
    pub(crate) fn ports(&self) -> [PathBuf; 2] {
        PORTS.map(|name| self.directory.path().join(name))
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// Checks that descriptors and threads of all connections are gone, and that it has not
    /// panicked.
    pub(crate) fn assert_idle(&self) {
        let start = Instant::now();
        while self
            .process
            .resources()
            .iter()
            .zip(self.idle)
            .any(|(now, idle)| *now > idle)
        {
            let (now, idle) = (self.process.resources(), self.idle);
            assert!(
                start.elapsed() < PATIENCE,
                "the backend keeps descriptors and threads: {now:?}, at first {idle:?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
        let log = fs::read_to_string(self.directory.path().join("log")).expect("a log");
        assert!(!log.contains("panicked"), "{log}");
    }
}

fn spawn(directory: &TempDir) -> Child {
    let path = |name: &str| directory.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic"));
    for port in PORTS {
        command.arg("--port");
        command.arg(format!("path={}", path(port).display()));
    }
    let log = File::options().create(true).append(true).open(path("log"));
    command
        .args(["--cable", "0:1", "--control"])
        .arg(path("control"))
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .stderr(log.expect("a log"));
    command.spawn().expect("zcnic runs")
}

/// A frontend or control client in a process of its own, which works until its standard input is
/// closed.
#[derive(Debug)]
pub(crate) struct Other(pub(crate) Process);

impl Other {
    /// Starts it, and waits until it works.
    pub(crate) fn start(role: &str, path: &Path, moment: Moment) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .arg(role)
            .arg(path)
            .arg(moment.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test runs itself");
        let stdout = child.stdout.take().expect("standard output");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let mut this = Self(Process(child));
        if read.is_err() || line.is_empty() {
            panic!("the {role} ended: {}", this.errors());
        }
        this
    }

    /// Lets it end; returns what it printed if it failed.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        drop(self.0.0.stdin.take());
        let status = self.0.0.wait().expect("it ends");
        if status.success() {
            Ok(())
        } else {
            Err(self.errors())
        }
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.0.0.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }
}
