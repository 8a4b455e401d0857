//! A daemon under attack: two ports that a test attacks, and two whose traffic must not suffer.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;
use zcnic_ctl::{
    client::Client,
    protocol::{Status, command},
};
use zcnic_model::{
    Driver, Shape,
    frames::{broadcast, pattern},
    in_process::RING_SIZE,
    vhost_user::{Frontend, PATIENCE, connect},
};

use crate::usage::{Usage, wants_processor};

/// Queue pairs of the model drivers here, the command pair included.
pub(crate) const PAIRS: u16 = 3;

/// The data segment that the daemon may have, in bytes: an attack that makes it grow ends the
/// daemon, not the host.
const DATA_LIMIT: u64 = 3 << 30;

/// Memory of its own that the daemon may take beyond that of an idle one while it is attacked.
const PEAK: u64 = 512 << 20;

/// Log lines that an attack may cause at once: 20 warnings and 20 notices of each attacked port, 20
/// lines of vhost-user for each, and 20 of the control server.
const LINES_AT_ONCE: u64 = 140;

/// Log lines that it may cause for each second that it lasts; each of those limits allows one in
/// ten seconds.
const LINES_PER_SECOND: u64 = 1;

/// Exchanges of the neighbours that an attack must not keep from happening once it is over.
const EXCHANGES: u64 = 3;

/// Runs `attack` against the ports 0 and 1 of a daemon, whose ports 2 and 3 are used by honest
/// neighbours meanwhile. Asserts that
///
/// * the daemon lives, the neighbours' frames went both ways all the time, and the control socket
///   answered, also while the test keeps what the attack returns;
/// * the log did not grow faster than its budget;
/// * memory, address space, descriptors and threads are then what they were before;
/// * an honest driver is served on the attacked ports;
/// * SIGTERM ends the daemon.
pub(crate) fn attack<T>(attack: impl FnOnce(&Target) -> T) {
    let mut daemon = Daemon::start();
    let before = daemon.usage();
    let start = Instant::now();
    let lines = daemon.lines();
    let held = attack(&daemon.target);
    daemon.assert_unharmed(start, lines);
    drop(held);
    daemon.assert_back_to(before);
    daemon.assert_serves_attacked_ports();
    daemon.stop();
}

/// Like [`attack`], but keeps what `attack` returns until the daemon has ended: SIGTERM arrives
/// while the attack goes on.
pub(crate) fn attack_to_the_end<T>(attack: impl FnOnce(&Target) -> T) {
    let mut daemon = Daemon::start();
    let start = Instant::now();
    let lines = daemon.lines();
    let held = attack(&daemon.target);
    daemon.assert_unharmed(start, lines);
    daemon.stop();
    drop(held);
}

/// What an attacker reaches: the sockets of the ports 0 and 1, which have a cable, and the control
/// socket.
pub(crate) struct Target {
    directory: TempDir,
    pub(crate) pid: u32,
}

impl Target {
    /// The socket of port `number`.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("{number}.sock"))
    }

    /// The control socket.
    pub(crate) fn control_path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// A control client.
    pub(crate) fn control(&self) -> Client {
        Client::connect(&self.control_path()).expect("the control socket answers")
    }

    /// A model driver on port `number` that has said nothing yet.
    pub(crate) fn driver(&self, number: usize) -> Driver<Frontend> {
        connect(&self.path(number), PAIRS, RING_SIZE)
    }

    /// A model driver on port `number` with `buffers` buffers per queue.
    pub(crate) fn guest(&self, number: usize, buffers: usize) -> Driver<Frontend> {
        let mut driver = self.driver(number);
        driver.bring_up(Shape::SPLIT, buffers);
        driver
    }

    /// What the daemon takes of the host now.
    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.pid).expect("the daemon lives")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

/// A daemon, its target, and the neighbours of the target.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) target: Target,
    neighbours: Option<Neighbours>,
}

impl Daemon {
    fn start() -> Self {
        let mut daemon = Self::without_neighbours();
        daemon.neighbours = Some(Neighbours::start(&daemon.target));
        // Whatever a port allocates for its first driver is there before an attack.
        daemon.assert_serves_attacked_ports();
        daemon
    }

    /// A daemon on whose ports there is no driver yet.
    pub(crate) fn without_neighbours() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let log = File::create(directory.path().join("log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic"));
        for port in 0..4 {
            let path = directory.path().join(format!("{port}.sock"));
            command
                .arg("--port")
                .arg(format!("path={}", path.display()));
        }
        let child = command
            .args(["--cable", "0:1", "--cable", "2:3", "--control"])
            .arg(directory.path().join("control"))
            .env_remove("RUST_LOG")
            // One arena, so that address space can be compared.
            .env("MALLOC_ARENA_MAX", "1")
            .stderr(log)
            .spawn()
            .expect("zcnic runs");
        let limit = Rlimit {
            current: Some(DATA_LIMIT),
            maximum: Some(DATA_LIMIT),
        };
        let pid = Pid::from_child(&child);
        prlimit(Some(pid), Resource::Data, limit).expect("a limit may be lowered");
        let target = Target {
            pid: child.id(),
            directory,
        };
        let daemon = Self {
            child,
            target,
            neighbours: None,
        };
        let start = Instant::now();
        // The control socket is the last one that it makes.
        while Client::connect(&daemon.target.control_path()).is_err() {
            assert!(
                start.elapsed() < PATIENCE,
                "zcnic does not listen: {}",
                daemon.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.target.log()).unwrap_or_default()
    }

    /// Lines in the log so far.
    fn lines(&self) -> u64 {
        self.log().lines().count() as u64
    }

    /// The usage once the daemon has noticed that drivers left.
    fn usage(&self) -> Usage {
        let mut last = self.target.usage();
        let start = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(20));
            let now = self.target.usage();
            if (now.descriptors, now.threads) == (last.descriptors, last.threads)
                || start.elapsed() > PATIENCE
            {
                return now;
            }
            last = now;
        }
    }

    fn assert_unharmed(&mut self, start: Instant, lines: u64) {
        let ended = self.child.try_wait().expect("a child");
        assert!(
            ended.is_none(),
            "the attack ended zcnic with {ended:?}: {}",
            self.log()
        );
        let neighbours = self.neighbours.as_ref().expect("running neighbours");
        if !neighbours.go_on() {
            // With their panic.
            self.stop_neighbours();
        }
        let logged = self.lines() - lines;
        let allowed = LINES_AT_ONCE + LINES_PER_SECOND * start.elapsed().as_secs();
        assert!(
            logged <= allowed,
            "{logged} log lines, {allowed} are allowed"
        );
        let log = self.log();
        assert!(!log.contains("panicked"), "a thread panicked: {log}");
    }

    /// Ends the neighbours, and passes their panic on if they had one.
    fn stop_neighbours(&mut self) {
        let Some(neighbours) = self.neighbours.take() else {
            return;
        };
        neighbours.done.store(true, Ordering::Release);
        let peak = neighbours
            .thread
            .join()
            .unwrap_or_else(|_| panic!("the neighbours suffered; zcnic's log: {}", self.log()));
        assert!(
            peak <= PEAK,
            "the daemon took {} MiB while it was attacked",
            peak >> 20
        );
    }

    fn assert_back_to(&self, before: Usage) {
        let start = Instant::now();
        loop {
            let now = self.target.usage();
            if now.is_back_to(&before) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the attack left {now} behind; before it there were {before}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn assert_serves_attacked_ports(&self) {
        let mut client = self.target.control();
        for port in ["0", "1"] {
            // What a control client changed on purpose is no damage.
            for (name, arguments) in [
                (command::FAULT_REMOVE, serde_json::json!({ "port": port })),
                (
                    command::LINK_SET,
                    serde_json::json!({ "port": port, "up": true }),
                ),
                (command::FEATURES_SET, serde_json::json!({ "port": port })),
            ] {
                client
                    .execute::<serde_json::Value>(name, Some(&arguments))
                    .expect("the control socket answers");
            }
        }
        let mut drivers = [0, 1].map(|number| self.target.guest(number, 8));
        exchange(&mut drivers, 1);
    }

    /// Ends the daemon by SIGTERM.
    pub(crate) fn stop(&mut self) {
        self.stop_neighbours();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        // A second in which zcnic waits for anything but a processor, so that a busy host does not
        // count; and no more than that of a process that spins.
        let (start, mut waited) = (Instant::now(), 0);
        while waited < 100 && start.elapsed() < 3 * PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(
                    status.success(),
                    "zcnic ended with {status}: {}",
                    self.log()
                );
                return;
            }
            waited += u32::from(!wants_processor(self.target.pid));
            thread::sleep(Duration::from_millis(10));
        }
        panic!("SIGTERM does not end zcnic within a second: {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(neighbours) = &self.neighbours {
            neighbours.done.store(true, Ordering::Release);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a frame each way on a queue and receives it.
pub(crate) fn exchange(drivers: &mut [Driver<Frontend>; 2], mark: u64) {
    let frame = broadcast(&pattern(100 + (mark % 1000) as usize));
    for (from, to) in [(0, 1), (1, 0)] {
        drivers[from].send(0, &frame);
        let received = drivers[to].receive(0);
        assert_eq!(received.frame, frame);
        drivers[to].post(0, Shape::SPLIT, received.chains);
    }
}

/// Honest drivers on the ports 2 and 3, which exchange frames all the time and ask the control
/// socket. Each waits for an answer no longer than [`PATIENCE`].
struct Neighbours {
    /// Frames that went both ways.
    exchanges: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    /// Returns the most memory that the daemon took beyond that at the start, in bytes.
    thread: JoinHandle<u64>,
}

impl Neighbours {
    /// Waits for further exchanges; returns `false` if the neighbours gave up.
    fn go_on(&self) -> bool {
        let done = self.exchanges.load(Ordering::Acquire);
        while self.exchanges.load(Ordering::Acquire) < done + EXCHANGES {
            if self.thread.is_finished() {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn start(target: &Target) -> Self {
        let (exchanges, done) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut drivers = [2, 3].map(|number| target.guest(number, 8));
        let (mut client, pid) = (target.control(), target.pid);
        exchange(&mut drivers, 0);
        let (counter, end) = (Arc::clone(&exchanges), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let taken = || Usage::of(pid).map_or(0, |usage| usage.anonymous);
            let before = taken();
            let mut peak = before;
            while !end.load(Ordering::Acquire) {
                let mark = counter.load(Ordering::Acquire);
                exchange(&mut drivers, mark);
                if mark.is_multiple_of(8) {
                    client
                        .query::<Status>(command::QUERY_STATUS)
                        .expect("the control socket answers");
                }
                peak = peak.max(taken());
                counter.fetch_add(1, Ordering::AcqRel);
                thread::sleep(Duration::from_millis(2));
            }
            peak - before
        });
        Self {
            exchanges,
            done,
            thread,
        }
    }
}
