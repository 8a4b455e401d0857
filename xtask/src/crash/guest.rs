//! The level of guests: the backend, QEMU, a program in the guest, or a control client of the
//! backend is hit while the guest's kernel is at work.

use std::{
    ops::Range,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use zcnic_testbed::{
    agent::{Exec, Process},
    backend::{Backend, Cable, Wiring},
    control::Control,
    guest::Guest,
    process::Running,
    sandbox::Sandbox,
    setup::Setup,
    step::step,
    stream::Stream,
};

use super::{
    point::{Blow, Point, Victim, Work},
    tally::{Tally, Trial},
};

/// The blow falls at most this long after the work has begun.
const LATEST: Duration = Duration::from_secs(1);
/// Longer than every time-out of the driver, of which a device reset after ten seconds is the
/// longest, and of the backend.
const PAUSE: Duration = Duration::from_secs(12);
/// Time limit for the work to begin.
const BEGINS: Duration = Duration::from_secs(60);
/// Time limit for the descriptors of a connection to be closed.
const CLOSES: Duration = Duration::from_secs(10);
/// Bytes of the stream that shows that everything works.
const BYTES: u64 = 8 << 20;

/// Tries points with all seeds, and adds each trial.
pub(super) fn run(
    setup: &Setup,
    points: &[Point],
    seeds: &Range<u64>,
    tally: &mut Tally,
) -> Result<()> {
    let mut world = None;
    for point in points {
        for seed in seeds.clone() {
            let mut now = match world.take() {
                Some(world) => world,
                None => World::new(setup)?,
            };
            let delay = fastrand::Rng::with_seed(seed).u64(..LATEST.as_millis() as u64);
            let result = now.strike(*point, Duration::from_millis(delay));
            tally.add(Trial {
                point: point.to_string(),
                seed,
                seconds: result.as_ref().map_or(0.0, Duration::as_secs_f64),
                error: result.as_ref().err().map(|error| now.explain(error)),
            });
            // A guest that has not recovered is not used again.
            if result.is_ok() {
                world = Some(now);
            }
        }
        tally.print_last();
    }
    match world {
        Some(world) => world.finish(),
        None => Ok(()),
    }
}

/// A guest on a backend that outlives it.
struct World<'a> {
    setup: &'a Setup,
    /// None only while it is replaced.
    guest: Option<Guest>,
    backend: Backend,
    sandbox: Sandbox,
    /// The backend's descriptors with the guest's ports up.
    descriptors: usize,
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let machine = setup.machine();
        let wiring = Wiring::cabled(&machine.ports, Cable::Drop);
        let backend = Backend::start(&setup.programs, wiring, &sandbox)?;
        let mut this = Self {
            setup,
            guest: None,
            backend,
            sandbox,
            descriptors: 0,
        };
        this.boot()?;
        this.descriptors = this.backend.descriptors()?;
        Ok(this)
    }

    fn boot(&mut self) -> Result<()> {
        let (setup, place) = (self.setup, self.sandbox.directory());
        let mut guest = step(&setup.boot_step(), || {
            setup.boot_on(&setup.machine(), None, Sandbox::new()?, Some(place))
        })?;
        guest.bring_up(setup.driver())?;
        self.guest = Some(guest);
        self.keep_ledger()
    }

    fn keep_ledger(&self) -> Result<()> {
        let set = ["--port=0", "ledger", "set", "full", "--sanitize"];
        self.control().run(&set)
    }

    fn control(&self) -> Control {
        self.backend.control(&self.sandbox)
    }

    fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().context("no guest")
    }

    /// Returns the failure with what the guest's kernel reported.
    fn explain(&mut self, error: &anyhow::Error) -> String {
        let log = self.sandbox.log("zcnic");
        match &mut self.guest {
            Some(guest) => format!("{:#}\n{log}", guest.explain(error)),
            None => format!("{error:#}\n{log}"),
        }
    }

    fn finish(mut self) -> Result<()> {
        let guest = self.guest.take().context("no guest")?;
        guest.finish()
    }

    /// Strikes once; returns the time from the blow, or from the end of a pause, until everything
    /// works as before.
    fn strike(&mut self, point: Point, delay: Duration) -> Result<Duration> {
        let Point { victim, work, blow } = point;
        let program = self.start(work)?;
        let client = match victim {
            Victim::Client => Some(self.client()?),
            _ => None,
        };
        if work == Work::Suspend {
            self.guest()?.qmp().execute("stop", &json!({}))?;
        }
        thread::sleep(delay);
        if work == Work::Suspend && victim == Victim::Program {
            // Its signal is sent by the guest.
            self.guest()?.qmp().execute("cont", &json!({}))?;
        }
        match (victim, blow) {
            (Victim::Backend, Blow::Kill) => self.backend.kill()?,
            (Victim::Backend, Blow::Pause) => self.backend.pause(PAUSE)?,
            (Victim::Qemu, Blow::Kill) => {
                self.guest.take().context("no guest")?.discard()?;
            }
            (Victim::Qemu, Blow::Pause) => self.guest()?.pause(PAUSE)?,
            (Victim::Program, Blow::Kill) => program.kill(9)?,
            (Victim::Program, Blow::Pause) => {
                program.kill(19)?;
                thread::sleep(PAUSE);
                program.kill(18)?;
            }
            (Victim::Client, _) => {
                let mut client = client.context("no client")?;
                match blow {
                    Blow::Kill => client.kill()?,
                    Blow::Pause => client.pause(PAUSE)?,
                }
            }
        }
        let struck = Instant::now();
        match (victim, blow) {
            (Victim::Backend, Blow::Kill) => {
                self.backend.restart(&self.sandbox)?;
                self.keep_ledger()?;
            }
            (Victim::Qemu, Blow::Kill) => self.boot()?,
            _ => {}
        }
        if !point.ends_guest() {
            if work == Work::Suspend {
                self.guest()?.qmp().execute("cont", &json!({}))?;
            }
            program.kill(9)?;
            program.wait()?;
        }
        self.works().map(|()| struck.elapsed())
    }

    /// Checks that everything works as before.
    fn works(&mut self) -> Result<()> {
        let guest = self.guest()?;
        // A loop may have been killed between two of its commands, and the kernel releases the
        // queue some time after a program was killed.
        let script = "ip link set eth0 up; pkill -9 -f 'zcnic-guest (receive|send)'; \
            eventually() { for attempt in $(seq 60); do \"$@\" && return; sleep 0.2; done; exit 1; }; \
            eventually ip netns exec peer ping -q -c 1 -W 1 192.0.2.1; \
            eventually ethtool -L eth0 combined 4";
        let reached = Exec::new(["bash", "-c", script]).timeout(Duration::from_secs(120));
        guest.check(&reached).context("eth0 does not answer")?;
        let stream = Stream {
            bytes: BYTES,
            ..Stream::default()
        };
        stream.prepare(guest)?;
        let result = stream.start(guest)?.finish()?;
        ensure!(
            result.bytes_copied == Some(0),
            "the kernel copied: {result:?}"
        );
        let problems = guest.gate()?;
        ensure!(
            problems.is_empty(),
            "the gate found problems: {}",
            problems.join("; ")
        );
        self.ledger_is_clean()?;
        self.descriptors_are_back()
    }

    fn ledger_is_clean(&self) -> Result<()> {
        #[derive(Debug, Deserialize)]
        struct Ledger {
            queues: Vec<Queue>,
        }
        #[derive(Debug, Deserialize)]
        struct Queue {
            violations: u64,
        }
        let ledger: Ledger = self.control().ask(&["--port=0", "ledger"])?;
        let clean = ledger.queues.iter().all(|queue| queue.violations == 0);
        ensure!(clean, "the ledger has {ledger:?}");
        Ok(())
    }

    fn descriptors_are_back(&self) -> Result<()> {
        let deadline = Instant::now() + CLOSES;
        loop {
            let now = self.backend.descriptors()?;
            if now <= self.descriptors {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the backend has {now} descriptors, and {} at first",
                    self.descriptors
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A client that captures the frames of a port.
    fn client(&self) -> Result<Running> {
        let control = self.control();
        let mut command = control.command(&["--port=0", "capture", "/dev/null"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Running::start("zcnicctl", &mut command)
    }

    /// Starts the work of the guest, which goes on until it is killed.
    fn start(&mut self, work: Work) -> Result<Process> {
        let guest = self.guest()?;
        let stream = Stream::default();
        stream.prepare(guest)?;
        // Until the kernel has released the queue of an earlier program.
        let until = |command: &str| format!("until {command}; do sleep 0.1; done");
        let endless = "--bytes=17592186044416 --stall-limit=0";
        let bind = format!("zcnic-guest receive --interface=eth0 --queue=3 --port=4433 {endless}");
        let send = format!("zcnic-guest send --netns=peer --to=192.0.2.1:4433 {endless}");
        let forever = |commands: &str| format!("echo begun; while :; do {commands}; done");
        let (script, begun) = match work {
            Work::Idle => (until(&bind), "listening"),
            Work::Traffic | Work::Suspend => {
                let both = format!("{} & {}; wait", until(&bind), until(&send));
                (both, "progress")
            }
            Work::Command => {
                let commands = "ethtool -X eth0 equal 2; ethtool -C eth0 rx-usecs 5; \
                    ethtool -X eth0 equal 3; ethtool -C eth0 rx-usecs 9";
                (forever(commands), "begun")
            }
            Work::Bind => (forever(&format!("timeout -s KILL 0.3 {bind}")), "begun"),
            Work::QueueStop => {
                let commands = "ethtool -L eth0 combined 8; ethtool -L eth0 combined 4";
                (forever(commands), "begun")
            }
            Work::Teardown => {
                let commands = "ip link set eth0 down; ip link set eth0 up";
                (forever(commands), "begun")
            }
        };
        let mut process = guest.spawn(&Exec::new(["bash", "-c", &script]).timeout(None))?;
        process.expect_within(BEGINS);
        process.wait_for_line(|line| line.contains(begun))?;
        Ok(process)
    }
}
