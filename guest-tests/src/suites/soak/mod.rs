//! `zcnic-guest soak`: carries out operations that the host draws from a seed, over everything that
//! users do to a port, and checks at quiet points that nothing was lost, spoiled or left behind.

mod programs;
mod refusals;
mod settings;

use std::{
    collections::VecDeque,
    io::stdin,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use zcnic_guest_protocol::soak::{Operation, OperationEnd};

use self::{
    programs::{DevmemStream, Echo, Stream},
    refusals::is_refusal,
    settings::{Settings, flap, round_trip, suspend},
};
use crate::{
    checks::gate::{log, pools},
    fixture::lab::{RECOVERY, RETURN_LIMIT, eventually},
    kit::net,
    runtime::ports::PORTS,
    traffic::progress::report_result,
};

/// Time limit for the streams at a quiet point.
const STREAMS: Duration = Duration::from_secs(240);
/// Time limit for the kernel to release queues whose owners were closed.
const RELEASE: Duration = Duration::from_secs(20);
/// The first TCP or UDP port of programs; each gets one of its own.
const FIRST_PORT: u16 = 5000;
/// Bytes of the stream at a quiet point.
const LITTLE: u64 = 1 << 20;

/// Carries out the operations of a soak, one per line of standard input (for the host)
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the subcommand.
pub fn run(_: &Args) -> Result<ExitCode> {
    let mut soak = Soak::new()?;
    for line in stdin().lines() {
        let operation: Operation = serde_json::from_str(&line?)?;
        report_result(soak.end_of(&operation));
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that runs.
struct Soak {
    settings: Settings,
    /// The first record of the kernel's log that was not looked at.
    log: u64,
    streams: VecDeque<Stream>,
    devmem: Vec<DevmemStream>,
    echoes: VecDeque<Echo>,
    next_port: u16,
}

impl Soak {
    fn new() -> Result<Self> {
        // An area of zero-copy receive is larger than the window of a connection, or the segments
        // behind a lost one could take all its buffers.
        net::run(
            None,
            &["sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 6291456"],
        )?;
        let mut settings = Settings::read()?;
        settings.restore()?;
        Ok(Self {
            settings,
            log: log::read(0)?.next_seq,
            streams: VecDeque::new(),
            devmem: Vec::new(),
            echoes: VecDeque::new(),
            next_port: FIRST_PORT,
        })
    }

    fn end_of(&mut self, operation: &Operation) -> OperationEnd {
        let result = self.execute(operation).and_then(|()| self.log_is_clean());
        match result {
            Ok(()) => OperationEnd::Done,
            Err(error) => {
                let text = format!("{error:#}");
                if is_refusal(operation, &text) {
                    OperationEnd::Refused(text)
                } else {
                    OperationEnd::Failed(text)
                }
            }
        }
    }

    /// A port that no other program had for a long time.
    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port < 30_000 { port + 1 } else { FIRST_PORT };
        port
    }

    /// A port whose connections are steered to a queue.
    fn steered(&mut self, queue: u32) -> Result<u16> {
        let port = self.port();
        net::add_flow_rule("eth0", "tcp4", port, queue)?;
        Ok(port)
    }

    fn execute(&mut self, operation: &Operation) -> Result<()> {
        let eth0 = |words: &[&str]| {
            let (option, rest) = words.split_at(1);
            net::run(None, &[&["ethtool"], option, &["eth0"], rest].concat()).map(drop)
        };
        let switch = |on: bool| if on { "on" } else { "off" };
        match operation {
            Operation::Stream { bytes } => {
                let port = self.port();
                self.streams.push_back(Stream::start(port, None, *bytes)?);
            }
            Operation::ZeroCopy { queue, bytes } => {
                let port = self.steered(*queue)?;
                let stream = Stream::start(port, Some(*queue), *bytes)?;
                self.streams.push_back(stream);
            }
            Operation::Devmem { queue, bytes } => {
                let port = self.steered(*queue)?;
                self.devmem.push(DevmemStream::start(port, *queue, *bytes)?);
            }
            Operation::KillReceiver => drop(self.streams.pop_front()),
            Operation::Echo { by, queue } => {
                let port = self.port();
                self.echoes.push_back(Echo::start(port, *by, *queue)?);
            }
            Operation::KillEcho => drop(self.echoes.pop_front()),
            Operation::Channels { count } => net::set_channels(None, "eth0", *count)?,
            Operation::Rings { rx, tx } => {
                eth0(&["-G", "rx", &rx.to_string(), "tx", &tx.to_string()])?;
            }
            Operation::Split { on } => net::set_tcp_data_split("eth0", *on)?,
            Operation::Feature { name, on } => eth0(&["-K", name, switch(*on)])?,
            Operation::Coalesce { rx, tx } => {
                let (rx, tx) = (rx.to_string(), tx.to_string());
                eth0(&["-C", "rx-usecs", &rx, "tx-usecs", &tx])?;
            }
            Operation::Spread { queues } => net::set_rss_equal("eth0", *queues)?,
            Operation::Context { new } => self.settings.context(*new)?,
            Operation::Rule { location, queue } => {
                net::set_flow_rule("eth0", "tcp4", 1, *queue, *location)?;
            }
            Operation::DeleteRule { location } => net::delete_flow_rule("eth0", *location)?,
            Operation::Mtu { bytes } => {
                let bytes = bytes.to_string();
                for port in &PORTS {
                    net::run(port.netns, &["ip", "link", "set", port.name, "mtu", &bytes])?;
                }
            }
            Operation::Flap { port, milliseconds } => flap(*port, *milliseconds)?,
            Operation::Namespace { port } => round_trip(*port)?,
            Operation::Suspend => suspend()?,
            Operation::Wait { milliseconds } => thread::sleep(Duration::from_millis(*milliseconds)),
            Operation::Quiet => self.quiet()?,
            Operation::Fault { .. }
            | Operation::Disarm
            | Operation::Carrier { .. }
            | Operation::Reset { .. }
            | Operation::Disconnect { .. }
            | Operation::KillBackend { .. }
            | Operation::PauseBackend { .. }
            | Operation::PauseMachine { .. } => {
                anyhow::bail!("the host carries out {operation:?}");
            }
        }
        Ok(())
    }

    fn quiet(&mut self) -> Result<()> {
        let deadline = Instant::now() + STREAMS;
        for stream in self.streams.drain(..) {
            stream.finish(deadline)?;
        }
        for stream in self.devmem.drain(..) {
            stream.finish(deadline)?;
        }
        if !self.echoes.is_empty() {
            // A program may forbid some of the usual settings; flow rules need this one.
            net::run(None, &["ethtool", "-K", "eth0", "ntuple-filters", "on"])?;
            self.echoes.drain(..).try_for_each(|echo| echo.verify())?;
        }
        eventually(RELEASE, || self.settings.restore()).context("restore the settings")?;
        eventually(RECOVERY, || {
            let ping = ["ping", "-q", "-c", "1", "-W", "1", "192.0.2.1"];
            Ok(net::run(PORTS[1].netns, &ping)?)
        })
        .context("no traffic at a quiet point")?;
        let ports = [self.port(), self.steered(2)?];
        for (port, queue) in ports.into_iter().zip([None, Some(2)]) {
            let stream = Stream::start(port, queue, LITTLE)?;
            stream.finish(Instant::now() + RECOVERY)?;
        }
        // All queues stop, so that the device's ledger has a balance.
        flap(0, 0)?;
        let found = pools::settle(None, RETURN_LIMIT)?;
        let problems: Vec<_> = found.iter().filter_map(pools::Found::problem).collect();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }

    fn log_is_clean(&mut self) -> Result<()> {
        let found = log::read(self.log)?;
        self.log = found.next_seq;
        ensure!(found.lost == 0, "records of the kernel's log are lost");
        let hit = found.hits.first();
        ensure!(hit.is_none(), "kernel log: {hit:?}");
        Ok(())
    }
}
