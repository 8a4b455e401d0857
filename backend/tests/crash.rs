//! The backend as a process that is killed and started again under its frontends, as QEMU with
//! `reconnect-ms` experiences it: memory and rings stay, each ring resumes at its used index.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use zcnic_device::abi::{self, RuleAction, RuleType, Status};
use zcnic_model::{
    Driver, Failure, Shape,
    frames::{Flow, pattern},
    vhost_user::{self, Frontend, PATIENCE, used_indices},
};

const PAIRS: u16 = 4;
const RING_SIZE: u16 = 1024;

/// `zcnic` with two cabled ports.
struct Process {
    child: Child,
    directory: TempDir,
}

impl Process {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let child = run(directory.path());
        Self { child, directory }
    }

    fn path(&self, port: usize) -> PathBuf {
        socket(self.directory.path(), port)
    }

    /// Kills it with SIGKILL: it cleans nothing up.
    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    fn restart(&mut self) {
        self.child = run(self.directory.path());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(directory: &Path, port: usize) -> PathBuf {
    directory.join(format!("{port}.sock"))
}

fn run(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zcnic"));
    for port in 0..2 {
        command
            .arg("--port")
            .arg(format!("path={}", socket(directory, port).display()));
    }
    let child = command
        .args(["--cable", "0:1"])
        .env("RUST_LOG", "error")
        .stdout(Stdio::null())
        .spawn()
        .expect("zcnic runs");
    // A frontend learns only from the socket that a backend is there.
    let start = Instant::now();
    while (0..2)
        .any(|port| std::os::unix::net::UnixStream::connect(socket(directory, port)).is_err())
    {
        assert!(start.elapsed() < PATIENCE, "zcnic does not listen");
        thread::sleep(Duration::from_millis(1));
    }
    child
}

/// What the driver replays after every HELLO: one flow is steered to queue 2, everything else to
/// queue 0.
fn replay(driver: &mut Driver<Frontend>) {
    driver.bring_up(Shape::SPLIT, 64);
    let mut rule = abi::Rule {
        rule_type: RuleType::Tcp4.into(),
        action: RuleAction::Queue.into(),
        queue: 2.into(),
        ..Default::default()
    };
    rule.value.l4_dst = 2000.into();
    rule.mask.l4_dst = u16::MAX.into();
    driver.set_rules(&[rule]).expect("a rule");
}

/// Checks that a frame of the steered flow arrives on its queue, behind those in flight.
fn assert_steered(from: &mut Driver<Frontend>, to: &mut Driver<Frontend>, mark: u8) {
    let frame = Flow::tcp4().frame(&[mark; 900]);
    from.send(1, &frame);
    assert_eq!(to.receive(2).frame, frame);
}

#[test]
fn a_killed_backend_leaves_rings_that_its_successor_resumes() {
    let mut process = Process::start();
    let mut drivers = [0, 1].map(|port| vhost_user::connect(&process.path(port), PAIRS, RING_SIZE));
    drivers.iter_mut().for_each(replay);
    let mut delivered = 0;
    for round in 0..6 {
        let [a, b] = &mut drivers;
        assert_steered(a, b, round);
        assert_steered(b, a, round);
        for number in 0..150 {
            a.enqueue(number % 3, Flow::tcp4().frame(&pattern(3000)));
            b.enqueue(number % 3, Flow::udp6().frame(&pattern(200)));
            // The backend is killed while there is traffic, later in each round.
            if number == 20 * u16::from(round) + 5 {
                process.kill();
            }
        }
        for driver in &mut drivers {
            driver.backend_died();
            delivered += driver.receive_all().len();
        }

        process.restart();
        for (port, driver) in drivers.iter_mut().enumerate() {
            let (_, pairs, frontend) = driver.parts();
            let used = used_indices(pairs);
            frontend.reconnect(&process.path(port), |ring| used[ring]);
        }
        let [a, b] = &mut drivers;
        for driver in [&mut *a, b] {
            let stale = Err(Failure::refused(Status::Stale, 0));
            assert_eq!(
                driver.stop_receive(0),
                stale,
                "the new backend knows no session"
            );
            // No buffer may have been written to since, and every chain is returned: HELLO checks
            // both.
            replay(driver);
        }
        assert_steered(a, b, 0xee);
        assert_steered(b, a, 0xdd);
    }
    assert!(delivered > 0, "there was traffic when the backend died");
}
