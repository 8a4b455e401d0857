//! DPDK's `dpdk-testpmd`: the frontend of both sides by its virtio-user driver, and the peer by its vhost driver.
//!
//! All processes of a comparison live at the same time; whose turn it is not waits for commands, without a
//! processor. Memory is a memfd of small pages on both sides, so that huge pages make no difference to anybody.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Method, figure::Figure};
use crate::{
    backend::Programs,
    buildroot::{Bind, BuildRoot, Recipe, WORK},
    cache::Cache,
    control::Control,
    process::Running,
    step::{step, tail},
};

const PACKAGES: [&str; 4] = [
    "dpdk-dev",
    "librte-mempool-ring25",
    "librte-net-vhost25",
    "librte-net-virtio25",
];

/// How long testpmd may take for a command.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it prints when it waits for one.
const PROMPT: &str = "testpmd> ";

/// Descriptors of a ring.
const RING: u32 = 1024;

/// Bursts of 32 frames that go around in a loop: fewer than a ring has room for, so that none is lost.
const BURSTS: u32 = 8;

/// How long a loop runs before its frames are counted.
const SETTLE: Duration = Duration::from_millis(50);

/// Debian's DPDK, unpacked.
#[derive(Debug)]
pub(crate) struct Root {
    root: BuildRoot,
}

impl Root {
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        let recipe = Recipe {
            kind: "dpdk",
            packages: &PACKAGES,
            ..Recipe::default()
        };
        let root = BuildRoot::ensure(cache, &recipe, "unpack Debian's DPDK")?;
        Ok(Self { root })
    }

    /// Which versions it has of what matters.
    pub(crate) fn versions(&self) -> Value {
        let listed = fs::read_to_string(self.root.tree().with_file_name("versions"));
        let listed = listed.unwrap_or_default();
        let version = listed
            .lines()
            .find_map(|line| line.strip_prefix("dpdk-dev "));
        json!({ "dpdk": version })
    }
}

/// A testpmd that waits for commands.
struct Testpmd {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// What it printed since the last command.
    heard: String,
}

impl Testpmd {
    /// One with a port that `device` describes, whose frames are moved on processor `cpu`; the thread that takes
    /// commands runs on `other`.
    fn start(
        root: &Root,
        work: &Path,
        method: Method,
        name: &str,
        device: &str,
        queues: u16,
        [cpu, other]: [usize; 2],
    ) -> Result<Self> {
        let var = work.join(format!("{name}.var"));
        fs::create_dir_all(var.join("run"))?;
        let binds = [
            Bind::write(work, WORK),
            Bind::write(&var, "/var"),
            Bind::read(Path::new("/sys"), "/sys"),
        ];
        let mut command = root.root.command_among(&binds, "stdbuf");
        command
            // Into a pipe it would print when it ends.
            .args(["-oL", "dpdk-testpmd"])
            .args(["--lcores", &format!("0@{other},1@{cpu}")])
            .args(["--no-pci", "--no-telemetry", "--no-huge", "-m", "512"])
            .args(["--file-prefix", name, "--vdev", device])
            .args([
                "--",
                "--interactive",
                "--no-flush-rx",
                "--port-topology=loop",
                "--nb-cores=1",
            ])
            .args(["--total-num-mbufs=16384"])
            .args([format!("--rxq={queues}"), format!("--txq={queues}")])
            .args([format!("--rxd={RING}"), format!("--txd={RING}")]);
        let mut child = method
            .priority
            .apply(&command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(work.join(format!("{name}.log")))?)
            .spawn()
            .context("cannot start dpdk-testpmd")?;
        let input = child.stdin.take().context("testpmd has no input")?;
        let mut output = child.stdout.take().context("testpmd has no output")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut testpmd = Self {
            child,
            input,
            output: receiver,
            heard: String::new(),
        };
        testpmd.wait().with_context(|| {
            let log = fs::read_to_string(work.join(format!("{name}.log")));
            format!("{name}: {}", tail(&log.unwrap_or_default(), 10))
        })?;
        method
            .priority
            .put_first(testpmd.child.id(), "dpdk-testpmd")?;
        Ok(testpmd)
    }

    /// Executes a command and returns what it printed.
    fn command(&mut self, text: &str) -> Result<String> {
        self.heard.clear();
        writeln!(self.input, "{text}")?;
        self.wait().with_context(|| format!("testpmd: {text}"))
    }

    fn wait(&mut self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                bail!("no prompt\n{}", tail(&self.heard, 20));
            };
            self.heard.push_str(&String::from_utf8_lossy(&bytes));
            // What was typed is echoed behind the previous prompt.
            if self.heard.ends_with(PROMPT) {
                return Ok(self.heard.clone());
            }
        }
    }

    /// Frames per second that were received, or sent, since this was asked before.
    fn rate(&mut self, direction: &str) -> Result<f64> {
        let text = self.command("show port stats 0")?;
        let field = format!("{direction}-pps:");
        let rate = text
            .split_once(&field)
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        rate.with_context(|| format!("testpmd prints no {field}\n{text}"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is done with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The backend gives back what it gets, and so does the frontend.
    Loop,
    /// The frontend sends, the backend takes.
    Sink,
    /// The backend sends, the frontend takes.
    Source,
}

impl Flow {
    fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Sink => "sink",
            Self::Source => "source",
        }
    }

    /// What testpmd calls it at the frontend and at the backend.
    fn modes(self) -> [&'static str; 2] {
        match self {
            Self::Loop => ["io", "io"],
            Self::Sink => ["txonly", "rxonly"],
            Self::Source => ["rxonly", "txonly"],
        }
    }

    /// The wire that does it in zcnic.
    fn wire(self, size: u16) -> String {
        match self {
            Self::Loop => "loopback".to_owned(),
            Self::Sink => "null".to_owned(),
            Self::Source => format!("generate,size={size}"),
        }
    }

    /// Which of the frontend's counters counts.
    fn counter(self) -> &'static str {
        match self {
            Self::Loop | Self::Source => "Rx",
            Self::Sink => "Tx",
        }
    }
}

/// A backend and its frontend.
struct Pair {
    frontend: Testpmd,
    /// `None`: zcnic, which needs no commands.
    backend: Option<Testpmd>,
    flow: Flow,
    /// Frames go around.
    primed: bool,
}

impl Pair {
    fn new(frontend: Testpmd, backend: Option<Testpmd>, flow: Flow) -> Result<Self> {
        let mut pair = Self {
            frontend,
            backend,
            flow,
            primed: false,
        };
        let [ours, theirs] = flow.modes();
        pair.frontend.command(&format!("set fwd {ours}"))?;
        if let Some(backend) = &mut pair.backend {
            backend.command(&format!("set fwd {theirs}"))?;
        }
        Ok(pair)
    }

    /// Frames have that many bytes from now on.
    fn set_size(&mut self, size: u16) -> Result<()> {
        if std::mem::take(&mut self.primed) {
            // Those that go around are taken out.
            self.frontend.command("set fwd rxonly")?;
            self.start("start")?;
            thread::sleep(SETTLE);
            self.stop()?;
            let [ours, _] = self.flow.modes();
            self.frontend.command(&format!("set fwd {ours}"))?;
        }
        for testpmd in std::iter::once(&mut self.frontend).chain(&mut self.backend) {
            testpmd.command(&format!("set txpkts {size}"))?;
        }
        Ok(())
    }

    /// The backend first, so that nothing is lost.
    fn start(&mut self, command: &str) -> Result<()> {
        if let Some(backend) = &mut self.backend {
            backend.command("start")?;
        }
        self.frontend.command(command).map(drop)
    }

    /// What goes around stays in the rings.
    fn stop(&mut self) -> Result<()> {
        self.frontend.command("stop")?;
        if let Some(backend) = &mut self.backend {
            backend.command("stop")?;
        }
        Ok(())
    }

    /// Has frames move for `time`; returns how many did per second.
    fn turn(&mut self, time: Duration) -> Result<f64> {
        if self.flow == Flow::Loop && !self.primed {
            self.primed = true;
            self.start(&format!("start tx_first {BURSTS}"))?;
        } else {
            self.start("start")?;
        }
        thread::sleep(SETTLE);
        let counter = self.flow.counter();
        self.frontend.rate(counter)?;
        thread::sleep(time);
        let rate = self.frontend.rate(counter)?;
        self.stop()?;
        // Who is put first may have 95 % of a processor.
        thread::sleep((SETTLE + time) / 10);
        Ok(rate)
    }
}

/// Bytes of frames, without the check sequence, which nobody carries.
const SIZES: [u16; 3] = [64, 256, 1500];

/// What is measured: what is done with frames, of which sizes, on how many queues.
const COMPARISONS: [(Flow, &[u16], u16); 4] = [
    (Flow::Loop, &SIZES, 1),
    (Flow::Sink, &SIZES, 1),
    (Flow::Source, &SIZES, 1),
    (Flow::Loop, SIZES.split_at(1).0, 4),
];

pub(crate) fn measure(root: &Root, programs: &Programs, method: Method) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (flow, sizes, queues) in COMPARISONS {
        let (flow_name, plural) = (flow.name(), if queues == 1 { "" } else { "s" });
        let what = format!("testpmd and DPDK's vhost: {flow_name}, {queues} queue{plural}");
        let setup = Setup {
            root,
            programs,
            method,
            flow,
            queues,
        };
        figures.extend(step(&what, || setup.compare(sizes))?);
    }
    Ok(figures)
}

/// What a comparison is made with.
struct Setup<'a> {
    root: &'a Root,
    programs: &'a Programs,
    method: Method,
    flow: Flow,
    queues: u16,
}

impl Setup<'_> {
    fn compare(&self, sizes: &[u16]) -> Result<Vec<Figure>> {
        let work = tempfile::Builder::new().prefix("zcnic-bench-").tempdir()?;
        let work = work.path();
        let [worker, other] = self.method.cpus;
        let queues = self.queues;
        let vhost = format!("net_vhost0,iface={WORK}/vhost.sock,queues={queues}");
        let vhost = self.testpmd(work, "vhost", &vhost, [worker, other])?;
        let theirs = self.frontend(work, "theirs", "vhost.sock")?;
        let mut theirs = Pair::new(theirs, Some(vhost), self.flow)?;

        let mut ours: Option<(Zcnic, Pair)> = None;
        let mut figures = Vec::new();
        for &size in sizes {
            // Only what a generator makes depends on how it was started.
            let kept = ours.take().filter(|_| self.flow != Flow::Source);
            let (mut zcnic, mut pair) = match kept {
                Some(ours) => ours,
                None => {
                    let wire = self.flow.wire(size);
                    let zcnic = Zcnic::start(self.programs, self.method, work, &wire)?;
                    let frontend = self.frontend(work, &format!("ours{size}"), "zcnic.sock")?;
                    (zcnic, Pair::new(frontend, None, self.flow)?)
                }
            };
            let name = match queues {
                1 => format!("dpdk_{}_{size}", self.flow.name()),
                _ => format!("dpdk_{}_{size}_{queues}_queues", self.flow.name()),
            };
            pair.set_size(size)?;
            theirs.set_size(size)?;
            let mut figure = self.take_turns(name, &mut pair, &mut theirs)?;
            figure.counters = zcnic.counters()?;
            let count = |name: &str| figure.counters[name].as_u64().unwrap_or_default();
            if self.flow != Flow::Sink {
                let (frames, hashed) = (count("frames"), count("hashed"));
                ensure!(
                    frames > 0 && frames == hashed,
                    "{hashed} of {frames} frames were hashed"
                );
            }
            figures.push(figure);
            ours = Some((zcnic, pair));
        }
        Ok(figures)
    }

    fn take_turns(&self, name: String, ours: &mut Pair, theirs: &mut Pair) -> Result<Figure> {
        let mut figure = Figure {
            name,
            unit: "frames/s".to_owned(),
            ..Figure::default()
        };
        let time = self.method.turn;
        ours.turn(time)?;
        theirs.turn(time)?;
        for _ in 0..self.method.rounds {
            figure.a.push(ours.turn(time)?);
            figure.b.push(theirs.turn(time)?);
            figure.again.push(ours.turn(time)?);
        }
        Ok(figure)
    }

    fn testpmd(&self, work: &Path, name: &str, device: &str, cpus: [usize; 2]) -> Result<Testpmd> {
        Testpmd::start(
            self.root,
            work,
            self.method,
            name,
            device,
            self.queues,
            cpus,
        )
    }

    /// A frontend, which does the same work whichever backend it has: in-order completion, which only DPDK offers,
    /// would spare it some.
    fn frontend(&self, work: &Path, name: &str, socket: &str) -> Result<Testpmd> {
        let [worker, other] = self.method.cpus;
        let device = format!(
            "net_virtio_user0,path={WORK}/{socket},server=0,queues={},queue_size={RING},in_order=0",
            self.queues
        );
        self.testpmd(work, name, &device, [other, worker])
    }
}

/// zcnic with one plain port.
struct Zcnic {
    running: Running,
    control: Control,
}

impl Zcnic {
    fn start(programs: &Programs, method: Method, work: &Path, wire: &str) -> Result<Self> {
        let [socket, control]: [PathBuf; 2] =
            ["zcnic.sock", "control.sock"].map(|name| work.join(name));
        // What one that was killed left.
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
            // As DPDK, which never stops looking.
            .args(["--poll-us", "1000", "--control"])
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

    /// What it received and sent, and that nothing was lost.
    fn counters(&mut self) -> Result<Value> {
        if let Some(status) = self.running.try_wait()? {
            bail!("zcnic ended with {status}");
        }
        let stats = self.control.ask(&["stats"])?;
        let queues = stats["ports"][0]["queues"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let sum =
            |name: &str| -> u64 { queues.iter().filter_map(|queue| queue[name].as_u64()).sum() };
        Ok(json!({
            "frames": sum("rx-frames"),
            "hashed": sum("rx-hashed"),
            "no_buffer": sum("rx-no-buffer"),
            "csum_bad": sum("rx-csum-bad"),
            "sent": sum("tx-frames"),
        }))
    }
}
