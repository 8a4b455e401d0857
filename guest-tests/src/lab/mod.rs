//! Where cases are run that share a guest: two ports with a cable between them, the device's control
//! socket, senders and receivers, and what tells that a case has left everything as it was.

pub(crate) mod cases;
pub(crate) mod connection;
pub(crate) mod device;
pub(crate) mod processor;
pub(crate) mod receiver;
pub(crate) mod recycling;
pub(crate) mod settings;
pub(crate) mod story;
pub(crate) mod trace;
pub(crate) mod traffic;

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use zcnic_ctl::client::{Client, find_port};

use crate::{
    gate::{log, pools},
    net,
    ports::PORTS,
};
use traffic::{How, PLAIN, SECOND, Stream, ZERO_COPY};

/// How long it may take until everything is as it was: a transmit queue that stands still and a command that
/// is not answered are noticed after five seconds.
pub(crate) const RECOVERY: Duration = Duration::from_secs(40);
/// How long buffers may need to come home.
pub(crate) const HOME: Duration = Duration::from_secs(15);
/// Enough for some thousand frames.
pub(crate) const MUCH: u64 = 6 << 20;
const LITTLE: u64 = 1 << 20;

/// Both ports, configured, with a flow that is steered to [`ZERO_COPY`].
pub(crate) struct Lab {
    control: Client,
    /// The first record of the kernel's log that no case has seen.
    log: u64,
    /// What the device knew of both ports when all was well.
    configured: Value,
    /// Where the rule is that steers to [`ZERO_COPY`].
    rule: u32,
}

/// The counters of a port, by the names of `ethtool -S`, those of queues added up.
pub(crate) type Counters = BTreeMap<String, u64>;

impl Lab {
    /// Splits, steers, and has more configuration than that, so that a replay has something to do.
    pub(crate) fn new() -> Result<Self> {
        let path = find_port().context("this guest has no port named zcnic.control")?;
        let rule = prepare()?;
        net::run(
            None,
            &["ethtool", "-X", "eth0", "context", "new", "equal", "2"],
        )?;
        let mut lab = Self {
            control: Client::connect(&path)?,
            log: log::read(0)?.next_seq,
            configured: Value::Null,
            rule,
        };
        lab.disarm()?;
        lab.configured = lab.configuration()?;
        lab.works().context("before any case")?;
        Ok(lab)
    }

    /// Takes the rule away that steers to [`ZERO_COPY`].
    pub(crate) fn unsteer(&self) -> Result<()> {
        Ok(net::delete_flow_rule("eth0", self.rule)?)
    }

    /// Puts it back.
    pub(crate) fn steer(&mut self) -> Result<()> {
        let (queue, port) = ZERO_COPY;
        self.rule = net::add_flow_rule("eth0", "tcp4", port, queue)?;
        Ok(())
    }

    /// Keeps everything off the queue of [`SECOND`] except its flow while `work` goes on.
    pub(crate) fn with_second<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (queue, port) = SECOND;
        net::set_rss_equal("eth0", queue)?;
        let rule = net::add_flow_rule("eth0", "tcp4", port, queue)?;
        let result = work(self);
        net::delete_flow_rule("eth0", rule)?;
        net::set_rss_equal("eth0", ZERO_COPY.0)?;
        result
    }

    /// Sees that a case has left nothing: the configuration is what it was, traffic works, the kernel has
    /// not complained, and no page is missing.
    pub(crate) fn as_before(&mut self) -> Result<()> {
        self.recovered()?;
        self.works().context("after the case")?;
        self.accepted()
    }

    /// Runs a case under the device's ledger, and sees that it leaves nothing.
    pub(crate) fn watched(&mut self, case: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.keep_ledger(true)?;
        let result = case(self).and_then(|()| {
            self.as_before()?;
            self.ledger_is_clean()
        });
        self.keep_ledger(false)?;
        self.next_case()?;
        result
    }

    /// What the kernel's log says from now on is the next case's.
    pub(crate) fn next_case(&mut self) -> Result<()> {
        self.log = log::read(self.log)?.next_seq;
        Ok(())
    }

    pub(crate) fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.control.execute(command, Some(arguments));
        answer.with_context(|| format!("{command} {arguments}"))
    }

    /// Adds a rule and returns its number.
    pub(crate) fn arm(&mut self, port: &str, rule: &Value) -> Result<u64> {
        let added = self.ask("fault-add", &json!({"port": port, "rules": [rule]}))?;
        added["ids"][0].as_u64().context("a rule without a number")
    }

    /// Takes all faults away.
    pub(crate) fn disarm(&mut self) -> Result<()> {
        for port in ["0", "1"] {
            self.ask("fault-remove", &json!({ "port": port }))?;
        }
        Ok(())
    }

    /// Waits until a rule has hit so often.
    pub(crate) fn wait_for_hits(&mut self, id: u64, hits: u64) -> Result<()> {
        let timeout = RECOVERY.as_nanos() as u64;
        let wait = json!({"id": id, "hits": hits, "timeout": timeout});
        self.ask("fault-wait", &wait).map(drop)
    }

    /// How often a rule has hit, if it is still there.
    pub(crate) fn hits(&mut self, id: u64) -> Result<Option<u64>> {
        let list = self.ask("fault-list", &json!({}))?;
        let mut rules = list["faults"].as_array().into_iter().flatten();
        Ok(rules
            .find(|rule| rule["id"] == id)
            .and_then(|rule| rule["hits"].as_u64()))
    }

    /// The driver's and the device's counters, by the driver.
    pub(crate) fn counters(&self, port: &str) -> Result<Counters> {
        let side = &PORTS[usize::from(port == "1")];
        let all = net::run(side.netns, &["ethtool", "-S", side.name])?;
        let mut counters = Counters::new();
        for line in all.lines() {
            let Some((name, value)) = line.trim().split_once(": ") else {
                continue;
            };
            // q12_rx_dropped
            let queue = |name: &'_ str| -> Option<String> {
                let (number, rest) = name.strip_prefix('q')?.split_once('_')?;
                number.parse::<u16>().ok()?;
                Some(rest.to_owned())
            };
            let name = queue(name).unwrap_or_else(|| name.to_owned());
            *counters.entry(name).or_default() += value.parse::<u64>()?;
        }
        Ok(counters)
    }

    /// What the device has been told of both ports.
    fn configuration(&mut self) -> Result<Value> {
        let mut ports = Map::new();
        for port in ["0", "1"] {
            let name = json!({ "port": port });
            let queues = self.ask("query-queues", &name)?;
            let queues = queues["pairs"].as_array().into_iter().flatten();
            let running = queues.filter(|pair| pair["commands"] == false).map(|pair| {
                json!({"queue": pair["queue"], "layout": pair["layout"], "transmits": pair["transmits"]})
            });
            let known = json!({
                "queues": running.collect::<Vec<_>>(),
                "steering": self.ask("query-steering", &name)?,
                "offloads": self.ask("query-features", &name)?["offloads"],
            });
            ports.insert(port.to_owned(), known);
        }
        Ok(ports.into())
    }

    /// Waits until both ports are configured as they were and reach each other.
    pub(crate) fn recovered(&mut self) -> Result<()> {
        eventually(RECOVERY, || {
            let now = self.configuration()?;
            ensure!(
                now == self.configured,
                "the device is not configured as before: {now}, not {}",
                self.configured
            );
            let ping = ["ping", "-q", "-c", "1", "-W", "1", "192.0.2.1"];
            net::run(PORTS[1].netns, &ping)?;
            Ok(())
        })
    }

    /// Ordinary traffic works, without copies where there should be none, and RTNL is free.
    fn works(&mut self) -> Result<()> {
        let started = Instant::now();
        net::run(None, &["ip", "link", "set", "eth0", "txqueuelen", "1000"])?;
        let seconds = started.elapsed().as_secs();
        ensure!(seconds < 5, "RTNL was not to be had for {seconds} s");
        Stream::start(How::Plain, LITTLE)?.finish()?;
        let result = Stream::start(How::ZeroCopy, LITTLE)?.finish()?;
        ensure!(
            result.bytes_copied == Some(0),
            "the kernel copied: {result:?}"
        );
        Ok(())
    }

    /// The kernel has nothing to complain of, and no page is missing.
    fn accepted(&self) -> Result<()> {
        let found = pools::settle(None, HOME)?;
        let problems: Vec<_> = found.iter().filter_map(pools::Found::problem).collect();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        let found = log::read(self.log)?;
        ensure!(found.lost == 0, "records of the kernel's log are lost");
        match found.hits.first() {
            Some(hit) => bail!("kernel log: {}", hit.line),
            None => Ok(()),
        }
    }
}

/// Has [`ZERO_COPY`] split, and nothing but its flow reach it. Returns the rule's number.
pub(crate) fn prepare() -> Result<u32> {
    let (queue, port) = ZERO_COPY;
    net::set_channels(None, "eth0", queue + 1)?;
    // Rules count by queue, and the scheduler chooses the one that sends.
    net::set_channels(PORTS[1].netns, PORTS[1].name, 1)?;
    net::set_tcp_data_split("eth0", true)?;
    net::set_hds_thresh("eth0", 0)?;
    net::set_rss_equal("eth0", queue)?;
    Ok(net::add_flow_rule("eth0", "tcp4", port, queue)?)
}

/// How often eth0's carrier came or went.
pub(crate) fn carrier_changes() -> Result<u64> {
    let text = fs::read_to_string("/sys/class/net/eth0/carrier_changes")?;
    Ok(text.trim().parse()?)
}

/// The TCP port that is not steered.
pub(crate) fn plain_port() -> Value {
    json!({"protocol": "tcp", "destination-port": PLAIN})
}

/// Tries again until it works or the time is up.
pub(crate) fn eventually<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(100)),
            result => return result,
        }
    }
}
