//! A daemon with two honest ports, two for an attacker and its peer, and a control socket.

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use vmm_sys_util::eventfd::EventFd;
use zcnic_ctl::client::Client;
use zcnic_model::{
    Driver, Shape,
    frames::{broadcast, pattern},
    in_process::RING_SIZE,
    vhost_user::{Frontend, connect, message},
};

/// For what must happen on a busy host, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const PAIRS: u16 = 2;

/// The port of an attacker, and the port at the other end of its cable.
pub(crate) const ATTACKER: usize = 2;
pub(crate) const PEER: usize = 3;

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) directory: TempDir,
    honest: Option<[Driver<Frontend>; 2]>,
}

/// The command of a daemon with sockets and log in `directory`.
pub(crate) fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    for port in 0..4 {
        command.arg("--port").arg(format!(
            "path={}",
            directory.join(format!("{port}.sock")).display()
        ));
    }
    let log = File::create(directory.join("log")).expect("log");
    command
        .args(["--cable", "0:1", "--cable", "2:3", "--control"])
        .arg(directory.join("control"))
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// The daemon's program.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_zcnic"))
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::configured(|_| {})
    }

    /// Starts a daemon whose command `configure` changed.
    pub(crate) fn configured(configure: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let mut command = command(program(), directory.path());
        configure(&mut command);
        Self::run(command, directory)
    }

    /// Starts a daemon whose limit of open files is `limit`.
    pub(crate) fn with_descriptors(limit: usize) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let inner = command(program(), directory.path());
        let mut outer = Command::new("sh");
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        outer.args(["-c", &script]).arg(program());
        outer.args(inner.get_args());
        let log = File::create(directory.path().join("log")).expect("log");
        outer.stdout(Stdio::null()).stderr(log);
        Self::run(outer, directory)
    }

    /// Runs `command` and waits until two honest drivers exchange frames.
    pub(crate) fn run(mut command: Command, directory: TempDir) -> Self {
        let child = command.spawn().expect("zcnic runs");
        let mut daemon = Self {
            child,
            directory,
            honest: None,
        };
        daemon.wait_for("the control socket", |daemon| {
            UnixStream::connect(daemon.control_path()).is_ok()
        });
        daemon.honest = Some([0, 1].map(|port| daemon.driver(port)));
        daemon.assert_unharmed();
        daemon
    }

    pub(crate) fn path(&self, port: usize) -> PathBuf {
        self.directory.path().join(format!("{port}.sock"))
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    pub(crate) fn control(&self) -> Client {
        Client::connect(&self.control_path()).expect("control")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log has a line with `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        self.wait_for(text, |daemon| daemon.log().contains(text));
    }

    /// Waits until `happened`.
    pub(crate) fn wait_for(&mut self, what: &str, happened: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !happened(self) {
            let ended = self.child.try_wait().expect("a child");
            assert_eq!(ended, None, "the daemon ended: {}", self.log());
            assert!(start.elapsed() < PATIENCE, "no {what}: {}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A driver with its queues up.
    pub(crate) fn driver(&self, port: usize) -> Driver<Frontend> {
        let mut driver = connect(&self.path(port), PAIRS, RING_SIZE);
        driver.bring_up(Shape::linear(2048), 32);
        driver
    }

    /// The driver of the first honest port.
    pub(crate) fn honest(&mut self) -> &mut [Driver<Frontend>; 2] {
        self.honest.as_mut().expect("connected")
    }

    /// A connection that introduced itself as a frontend.
    pub(crate) fn raw(&self, port: usize) -> UnixStream {
        let stream = UnixStream::connect(self.path(port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        (&stream)
            .write_all(&message(GET_FEATURES, &[]))
            .expect("sent");
        (&stream).read_exact(&mut [0; 20]).expect("features");
        (&stream).write_all(&message(SET_OWNER, &[])).expect("sent");
        stream
    }

    /// As [`raw`](Self::raw), but the daemon may close the connection.
    pub(crate) fn raw_or_closed(&self, port: usize) -> UnixStream {
        let stream = UnixStream::connect(self.path(port)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
    }

    /// Checks that honest ports exchange frames in both directions and the control socket answers.
    pub(crate) fn assert_unharmed(&mut self) {
        let ended = self.child.try_wait().expect("a child");
        assert_eq!(ended, None, "the daemon ended: {}", self.log());
        let [a, b] = self.honest();
        for number in 0..3 {
            let frame = broadcast(&pattern(100 + number));
            pass(a, b, &frame);
            pass(b, a, &frame);
        }
        assert!(self.control().status().expect("status").ports.len() >= 4);
    }

    /// Sends SIGTERM; returns how the process ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "SIGTERM does not end it");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Checks that nothing suffered, and that SIGTERM ends the process in an orderly way.
    pub(crate) fn assert_unharmed_to_the_end(mut self) {
        self.assert_unharmed();
        let status = self.terminate();
        assert!(status.success(), "{status}: {}", self.log());
        let left: Vec<_> = (0..4).filter(|&port| self.path(port).exists()).collect();
        assert!(left.is_empty() && !self.control_path().exists(), "{left:?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Sends a frame from one honest driver to the other.
fn pass(from: &mut Driver<Frontend>, to: &mut Driver<Frontend>, frame: &[u8]) {
    from.send(0, frame.to_vec());
    assert_eq!(to.receive(0).frame, frame);
    to.post(0, Shape::linear(2048), 1);
}

/// The descriptor of an eventfd.
#[allow(unsafe_code, reason = "the type lacks AsFd")]
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: It is open as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Sends a message about a ring with a descriptor.
pub(crate) fn send_with_fd(stream: &UnixStream, request: u32, ring: u64, fd: impl AsFd) -> bool {
    send_bytes_with_fd(stream, &message(request, &ring.to_ne_bytes()), fd)
}

/// Sends a message with a descriptor; returns whether the connection still takes it.
pub(crate) fn send_bytes_with_fd(stream: &UnixStream, bytes: &[u8], fd: impl AsFd) -> bool {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: [BorrowedFd<'_>; 1] = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let part = [IoSlice::new(bytes)];
    sendmsg(stream, &part, &mut control, SendFlags::NOSIGNAL).is_ok()
}

/// Whether the daemon still serves a connection.
pub(crate) fn is_served(mut stream: &UnixStream) -> bool {
    stream.write_all(&message(GET_FEATURES, &[])).is_ok() && stream.read_exact(&mut [0; 20]).is_ok()
}

/// The file descriptors that the daemon has open.
pub(crate) fn descriptors(pid: Pid) -> usize {
    let path = format!("/proc/{}/fd", pid.as_raw_nonzero());
    std::fs::read_dir(path).expect("it runs").count()
}
