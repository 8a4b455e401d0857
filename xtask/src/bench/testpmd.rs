//! DPDK's `dpdk-testpmd`, which forwards frames with a given driver, and takes commands meanwhile.
//!
//! Its memory is a memfd of small pages, so that huge pages make no difference.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use zcnic_testbed::{
    provision::buildroot::{Bind, BuildRoot, WORK},
    step::tail,
};

use super::method::Method;

/// Its Debian packages; the first one's version is DPDK's.
pub(super) const PACKAGES: [&str; 4] = [
    "dpdk-dev",
    "librte-mempool-ring25",
    "librte-net-vhost25",
    "librte-net-virtio25",
];

/// Time limit for the start of a program, and for a command of testpmd.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The prompt that it prints before a command.
const PROMPT: &str = "testpmd> ";

/// Descriptors of a ring.
pub(super) const RING: u32 = 1024;

/// The virtual device of a testpmd.
#[derive(Debug)]
pub(super) struct Vdev<'a> {
    /// The name of its files.
    pub(super) name: &'a str,
    /// Driver and options, as `--vdev` takes them.
    pub(super) device: &'a str,
    pub(super) queues: u16,
    /// More options.
    pub(super) options: &'a [String],
    /// The processor that forwards frames, and the one that takes commands.
    pub(super) cpus: [usize; 2],
}

/// A testpmd that waits for commands.
pub(super) struct Testpmd {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Its output since the last command.
    heard: String,
}

impl Testpmd {
    /// Starts one with a device. Its files are in `work`, which it finds at [`WORK`].
    pub(super) fn start(
        root: &BuildRoot,
        work: &Path,
        method: Method,
        vdev: &Vdev<'_>,
    ) -> Result<Self> {
        let Vdev {
            name,
            device,
            queues,
            options,
            cpus: [cpu, other],
        } = vdev;
        let var = work.join(format!("{name}.var"));
        fs::create_dir_all(var.join("run"))?;
        let binds = [
            Bind::write(work, WORK),
            Bind::write(&var, "/var"),
            Bind::read(Path::new("/sys"), "/sys"),
        ];
        let mut command = root.command_among(&binds, "stdbuf");
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
            .args((*queues > 1).then_some("--txonly-multi-flow"))
            .args([format!("--rxq={queues}"), format!("--txq={queues}")])
            .args([format!("--rxd={RING}"), format!("--txd={RING}")])
            .args(*options);
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

    /// Executes a command and returns its output.
    pub(super) fn command(&mut self, text: &str) -> Result<String> {
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
            // The command is echoed behind the previous prompt.
            if self.heard.ends_with(PROMPT) {
                return Ok(self.heard.clone());
            }
        }
    }

    /// Returns the frames per second that were received (`Rx`) or sent (`Tx`) since the last call.
    pub(super) fn rate(&mut self, direction: &str) -> Result<f64> {
        self.statistic(&format!("{direction}-pps"))
    }

    /// Returns the number of frames that were sent.
    pub(super) fn sent(&mut self) -> Result<u64> {
        self.statistic("TX-packets").map(|count| count as u64)
    }

    fn statistic(&mut self, name: &str) -> Result<f64> {
        let text = self.command("show port stats 0")?;
        let value = text
            .split_once(&format!("{name}:"))
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("testpmd prints no {name}\n{text}"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
