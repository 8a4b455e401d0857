//! Interleaves samples of zcnic and another backend, each with a testpmd as its frontend.
//!
//! All processes of a comparison live at the same time. The side that is not measured waits for
//! commands and uses no processor.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use zcnic_testbed::{
    backend::Programs,
    control::Control,
    process::Running,
    provision::buildroot::{BuildRoot, WORK},
};

use super::{
    figure::{Counters, Figure},
    method::Method,
    testpmd::{PATIENCE, RING, Testpmd, Vdev},
};

/// Bursts of 32 frames in a loop: fewer frames than a ring has room for, so that none is lost.
const BURSTS: u32 = 8;

/// Number of flows over several queues: as many as testpmd makes (it counts in six bits of the UDP
/// source port).
const FLOWS: u16 = 64;

/// How long frames are forwarded before they are counted.
const SETTLE: Duration = Duration::from_millis(50);

/// What both sides do with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarding {
    /// Backend and frontend send every frame back.
    Loop,
    /// The frontend sends, the backend drops.
    Sink,
    /// The backend sends, the frontend drops.
    Source,
}

impl Forwarding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Sink => "sink",
            Self::Source => "source",
        }
    }

    /// Returns testpmd's forwarding modes at the frontend and at the backend.
    fn modes(self) -> [&'static str; 2] {
        match self {
            Self::Loop => ["io", "io"],
            Self::Sink => ["txonly", "rxonly"],
            Self::Source => ["rxonly", "txonly"],
        }
    }

    /// Returns the wire of zcnic that does it, with several flows if there are several queues.
    fn wire(self, size: u16, queues: u16) -> String {
        match self {
            Self::Loop => "loopback".to_owned(),
            Self::Sink => "null".to_owned(),
            Self::Source if queues == 1 => format!("generate,size={size}"),
            Self::Source => format!("generate,size={size},flows={FLOWS}"),
        }
    }

    /// Returns the frontend's counter that counts the frames.
    fn counter(self) -> &'static str {
        match self {
            Self::Loop | Self::Source => "Rx",
            Self::Sink => "Tx",
        }
    }
}

/// A backend and its frontend.
pub(super) struct Pair {
    frontend: Testpmd,
    /// The backend if it is a testpmd too; others need no commands.
    backend: Option<Testpmd>,
    forwarding: Forwarding,
    /// Frames are in the loop.
    primed: bool,
}

impl Pair {
    pub(super) fn new(
        frontend: Testpmd,
        backend: Option<Testpmd>,
        forwarding: Forwarding,
    ) -> Result<Self> {
        let mut pair = Self {
            frontend,
            backend,
            forwarding,
            primed: false,
        };
        let [ours, theirs] = forwarding.modes();
        pair.frontend.command(&format!("set fwd {ours}"))?;
        if let Some(backend) = &mut pair.backend {
            backend.command(&format!("set fwd {theirs}"))?;
        }
        Ok(pair)
    }

    /// Sets the size of frames in bytes.
    fn set_size(&mut self, size: u16) -> Result<()> {
        if std::mem::take(&mut self.primed) {
            // Removes the frames of the loop.
            self.frontend.command("set fwd rxonly")?;
            self.start("start")?;
            thread::sleep(SETTLE);
            self.stop()?;
            let [ours, _] = self.forwarding.modes();
            self.frontend.command(&format!("set fwd {ours}"))?;
        }
        for testpmd in std::iter::once(&mut self.frontend).chain(&mut self.backend) {
            testpmd.command(&format!("set txpkts {size}"))?;
        }
        Ok(())
    }

    /// Starts the backend first, so that no frame is lost.
    fn start(&mut self, command: &str) -> Result<()> {
        if let Some(backend) = &mut self.backend {
            backend.command("start")?;
        }
        self.frontend.command(command).map(drop)
    }

    /// Frames of a loop stay in the rings.
    fn stop(&mut self) -> Result<()> {
        self.frontend.command("stop")?;
        if let Some(backend) = &mut self.backend {
            backend.command("stop")?;
        }
        Ok(())
    }

    /// Returns the number of frames that the frontend sent.
    pub(super) fn sent(&mut self) -> Result<u64> {
        self.frontend.sent()
    }

    /// Forwards frames for `time`, and returns the frames per second.
    fn sample(&mut self, time: Duration) -> Result<f64> {
        if self.forwarding == Forwarding::Loop && !self.primed {
            self.primed = true;
            self.start(&format!("start tx_first {BURSTS}"))?;
        } else {
            self.start("start")?;
        }
        thread::sleep(SETTLE);
        let counter = self.forwarding.counter();
        self.frontend.rate(counter)?;
        thread::sleep(time);
        let rate = self.frontend.rate(counter)?;
        self.stop()?;
        // A real-time process gets at most 95 % of a processor.
        thread::sleep((SETTLE + time) / 10);
        Ok(rate)
    }
}

/// The parameters of comparisons.
pub(super) struct Comparison<'a> {
    pub(super) testpmd: &'a BuildRoot,
    pub(super) programs: &'a Programs,
    pub(super) method: Method,
    pub(super) forwarding: Forwarding,
    pub(super) queues: u16,
    /// More options of frontends.
    pub(super) options: Vec<String>,
    /// The directory for sockets.
    pub(super) work: TempDir,
}

impl Comparison<'_> {
    /// Makes a directory for sockets.
    pub(super) fn work() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("zcnic-bench-").tempdir()?)
    }

    /// Compares with `theirs`, for frames of each of these sizes. Figures are named after `peer`.
    pub(super) fn compare(
        &self,
        peer: &str,
        theirs: &mut Pair,
        sizes: &[u16],
    ) -> Result<Vec<Figure>> {
        let queues = self.queues;
        let mut ours: Option<(Zcnic, Pair)> = None;
        let mut figures = Vec::new();
        for &size in sizes {
            // Only a generator has its frame size from its start.
            let kept = ours
                .take()
                .filter(|_| self.forwarding != Forwarding::Source);
            let (mut zcnic, mut pair) = match kept {
                Some(ours) => ours,
                None => {
                    let wire = self.forwarding.wire(size, queues);
                    let zcnic = Zcnic::start(self.programs, self.method, self.work.path(), &wire)?;
                    let frontend = self.frontend(&format!("ours{size}"), "zcnic.sock")?;
                    (zcnic, Pair::new(frontend, None, self.forwarding)?)
                }
            };
            let name = match queues {
                1 => format!("{peer}_{}_{size}", self.forwarding.name()),
                _ => format!("{peer}_{}_{size}_{queues}_queues", self.forwarding.name()),
            };
            pair.set_size(size)?;
            theirs.set_size(size)?;
            let mut figure = self.interleave(name, &mut pair, theirs)?;
            figure.counters = Some(zcnic.counters(self.forwarding)?);
            let count = |name: &str| figure.counter(name).unwrap_or_default();
            if self.forwarding != Forwarding::Sink {
                let (frames, hashed) = (count("frames"), count("hashed"));
                ensure!(
                    frames > 0 && frames == hashed,
                    "{hashed} of {frames} frames were hashed"
                );
            }
            let busy = count("busy_queues");
            ensure!(
                busy == u64::from(queues),
                "{}: frames on {busy} of {queues} queues",
                figure.name
            );
            figures.push(figure);
            ours = Some((zcnic, pair));
        }
        Ok(figures)
    }

    fn interleave(&self, name: String, ours: &mut Pair, theirs: &mut Pair) -> Result<Figure> {
        let mut figure = Figure {
            name,
            unit: "frames/s".to_owned(),
            ..Figure::default()
        };
        let time = self.method.sample;
        ours.sample(time)?;
        theirs.sample(time)?;
        for _ in 0..self.method.rounds {
            figure.a.push(ours.sample(time)?);
            figure.b.push(theirs.sample(time)?);
            figure.again.push(ours.sample(time)?);
        }
        Ok(figure)
    }

    /// Starts a frontend, which does the same work for either backend: in-order completion, which
    /// only DPDK offers, would save work.
    pub(super) fn frontend(&self, name: &str, socket: &str) -> Result<Testpmd> {
        let [worker, other] = self.method.cpus;
        let device = format!(
            "net_virtio_user0,path={WORK}/{socket},server=0,queues={},queue_size={RING},in_order=0",
            self.queues
        );
        self.testpmd(name, &device, &self.options, [other, worker])
    }

    /// Starts a testpmd that forwards frames on the first of `cpus`.
    pub(super) fn testpmd(
        &self,
        name: &str,
        device: &str,
        options: &[String],
        cpus: [usize; 2],
    ) -> Result<Testpmd> {
        let vdev = Vdev {
            name,
            device,
            queues: self.queues,
            options,
            cpus,
        };
        Testpmd::start(self.testpmd, self.work.path(), self.method, &vdev)
    }
}

/// A zcnic with one plain port.
struct Zcnic {
    running: Running,
    control: Control,
}

impl Zcnic {
    fn start(programs: &Programs, method: Method, work: &Path, wire: &str) -> Result<Self> {
        let [socket, control]: [PathBuf; 2] =
            ["zcnic.sock", "control.sock"].map(|name| work.join(name));
        // Sockets that a killed backend left.
        for path in [&socket, &control] {
            let _ = fs::remove_file(path);
        }
        let mut command = std::process::Command::new(&programs.zcnic);
        command
            .args(["--port", &format!("path={},mode=plain", socket.display())])
            .args([
                "--wire",
                &format!("0={wire}"),
                "--cpus",
                &method.cpus[0].to_string(),
            ])
            // DPDK polls without end, too, and does not let its memory be sealed.
            .args(["--poll-us", "1000", "--trust-memory", "--control"])
            .arg(&control);
        let log = fs::File::create(work.join("zcnic.log"))?;
        let mut running = Running::start("zcnic", method.priority.apply(&command).stderr(log))?;
        running.wait_for_file(&control, PATIENCE)?;
        Ok(Self {
            running,
            control: Control {
                zcnicctl: programs.zcnicctl.clone(),
                socket: control,
            },
        })
    }

    /// Returns its counters of frames.
    fn counters(&mut self, forwarding: Forwarding) -> Result<Counters> {
        if let Some(status) = self.running.try_wait()? {
            bail!("zcnic ended with {status}");
        }
        let stats: Stats = self.control.ask(&["stats"])?;
        let ports = stats.ports.into_iter();
        let queues: Vec<_> = ports.take(1).flat_map(|port| port.queues).collect();
        let count = |queue: &BTreeMap<String, u64>, name: &str| {
            queue.get(name).copied().unwrap_or_default()
        };
        let sum = |name: &str| -> u64 { queues.iter().map(|queue| count(queue, name)).sum() };
        // The hash spreads frames that arrive; those of a sink never arrive.
        let counter = match forwarding {
            Forwarding::Loop | Forwarding::Source => "rx-frames",
            Forwarding::Sink => "tx-frames",
        };
        let busy = queues.iter().filter(|queue| count(queue, counter) > 0);
        let counted = [
            ("busy_queues", busy.count() as u64),
            ("frames", sum("rx-frames")),
            ("hashed", sum("rx-hashed")),
            ("no_buffer", sum("rx-no-buffer")),
            ("csum_bad", sum("rx-csum-bad")),
            ("sent", sum("tx-frames")),
        ];
        Ok(counted
            .map(|(name, count)| (name.to_owned(), Some(count)))
            .into())
    }
}

/// The part of `zcnicctl stats`'s answer that is read.
#[derive(Deserialize)]
struct Stats {
    ports: Vec<PortStats>,
}

#[derive(Deserialize)]
struct PortStats {
    queues: Vec<BTreeMap<String, u64>>,
}
