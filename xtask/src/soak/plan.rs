//! The operations of a soak: drawn from a seed, and kept in a log that can be replayed.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use zcnic_guest_protocol::soak::{EchoBy, Operation};

/// Queues of eth0 that providers and AF_XDP sockets use; flow rules steer to them.
const QUEUES: std::ops::Range<u32> = 2..6;
/// Operations between two quiet points.
const STRETCH: std::ops::Range<u32> = 8..25;
/// Switchable features, as `ethtool -K` calls them.
const FEATURES: [&str; 9] = [
    "generic-receive-offload",
    "ntuple-filters",
    "receive-hashing",
    "rx-checksumming",
    "rx-gro-hw",
    "rx-vlan-offload",
    "scatter-gather",
    "tcp-segmentation-offload",
    "tx-udp-segmentation",
];
/// Faults that TCP or the driver makes up for without a loss of data.
const FAULTS: [&[&str]; 19] = [
    &["rx", "drop", "--probability=0.01"],
    &["rx", "duplicate", "--probability=0.02"],
    &["rx", "delay", "--time=2ms", "--probability=0.02"],
    &["rx", "reorder", "--by=3", "--probability=0.02"],
    &["rx", "corrupt", "--probability=0.005"],
    &["rx", "lost-interrupt", "--probability=0.01"],
    &["rx", "spurious-interrupt", "--every=10"],
    &["rx", "payload-in-header", "--every=3"],
    &["rx", "split-missed", "--every=200"],
    &["rx", "wrong-hash", "--every=2"],
    &["rx", "descriptor-error", "--every=200"],
    &["rx", "stall", "--time=300ms", "--times=1"],
    &["rx", "device-reset", "--nth=100"],
    &["rx", "link-flap", "--time=200ms", "--nth=100"],
    &["tx", "drop", "--probability=0.01"],
    &["tx", "reorder", "--by=2", "--probability=0.02"],
    &["tx", "descriptor-error", "--every=200"],
    &["tx", "stall", "--time=300ms", "--times=1"],
    &["tx", "disconnect", "--nth=100"],
];

/// Draws operations from a seed, without an end.
pub(super) struct Plan {
    random: fastrand::Rng,
    /// Operations until the next quiet point.
    left: u32,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let left = random.u32(STRETCH);
        Self { random, left }
    }

    fn bytes(&mut self) -> u64 {
        self.random.u64(1..=24) << 20
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.usize(..from.len())]
    }

    fn draw(&mut self) -> Operation {
        let port = self.random.usize(..2);
        let queue = self.random.u32(QUEUES);
        let on = self.random.bool();
        let milliseconds = self.random.u64(..1500);
        let location = self.random.u32(600..610);
        match self.random.u32(..100) {
            0..10 => Operation::ZeroCopy {
                queue,
                bytes: self.bytes(),
            },
            10..18 => Operation::Stream {
                bytes: self.bytes(),
            },
            18..24 => Operation::Devmem {
                queue,
                bytes: self.bytes(),
            },
            24..28 => Operation::KillReceiver,
            28..34 => Operation::Echo {
                by: self.pick(&[EchoBy::Tx, EchoBy::Socket, EchoBy::Socket]),
                queue,
            },
            34..36 => Operation::KillEcho,
            36..41 => Operation::Channels {
                count: self.random.u32(2..10),
            },
            41..45 => Operation::Rings {
                rx: 1 << self.random.u32(6..11),
                tx: 1 << self.random.u32(6..11),
            },
            45..48 => Operation::Split { on },
            48..53 => Operation::Feature {
                name: self.pick(&FEATURES).to_owned(),
                on,
            },
            53..56 => Operation::Coalesce {
                rx: self.random.u32(..100),
                tx: self.random.u32(..100),
            },
            56..59 => Operation::Spread {
                queues: self.random.u32(1..=2),
            },
            59..62 => Operation::Context { new: on },
            62..65 => Operation::Rule { location, queue },
            65..67 => Operation::DeleteRule { location },
            67..70 => Operation::Mtu {
                bytes: self.pick(&[576, 1280, 1500, 3000, 9000]),
            },
            70..74 => Operation::Flap { port, milliseconds },
            74..76 => Operation::Namespace { port },
            76 => Operation::Suspend,
            77..80 => Operation::Wait { milliseconds },
            80..88 => {
                let mut rule: Vec<_> = self.pick(&FAULTS).iter().map(ToString::to_string).collect();
                rule.push(format!("--seed={}", self.random.u16(..)));
                Operation::Fault { port, rule }
            }
            88..90 => Operation::Disarm,
            90..92 => Operation::Carrier { port, milliseconds },
            92..94 => Operation::Reset { port },
            94..96 => Operation::Disconnect { port },
            96..98 => Operation::KillBackend { milliseconds },
            98 => Operation::PauseBackend {
                milliseconds: 4 * milliseconds,
            },
            _ => Operation::PauseMachine { milliseconds },
        }
    }
}

impl Iterator for Plan {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        if self.left == 0 {
            self.left = self.random.u32(STRETCH);
            return Some(Operation::Quiet);
        }
        self.left -= 1;
        Some(self.draw())
    }
}

/// The first line of a log.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// The seed that the operations were drawn from.
    pub(super) seed: u64,
    /// The guest's kernel.
    pub(super) kernel: String,
}

/// A log of operations: a header, then one operation a line, each written before it begins.
pub(super) struct Log(File);

impl Log {
    pub(super) fn create(path: &Path, header: &Header) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut this = Self(file);
        this.line(header)?;
        Ok(this)
    }

    pub(super) fn add(&mut self, operation: &Operation) -> Result<()> {
        self.line(operation)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value)? + "\n";
        Ok(self.0.write_all(line.as_bytes())?)
    }
}

/// Reads a log.
pub(super) fn read(path: &Path) -> Result<(Header, Vec<Operation>)> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines().zip(1..);
    let at = |number: usize| format!("{}, line {number}", path.display());
    let (first, number) = lines
        .next()
        .with_context(|| format!("{} is empty", path.display()))?;
    let header = serde_json::from_str(first).with_context(|| at(number))?;
    let operations =
        lines.map(|(line, number)| serde_json::from_str(line).with_context(|| at(number)));
    Ok((header, operations.collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_operations_every_time() {
        let operations = |seed| Plan::new(seed).take(500).collect::<Vec<_>>();
        assert_eq!(operations(7), operations(7));
        assert_ne!(operations(7), operations(8));
    }

    #[test]
    fn every_kind_of_operation_is_drawn() {
        let mut kinds: Vec<_> = Plan::new(1)
            .take(5000)
            .map(|it| std::mem::discriminant(&it))
            .collect();
        kinds.dedup();
        let mut different = Vec::new();
        for kind in kinds {
            if !different.contains(&kind) {
                different.push(kind);
            }
        }
        assert_eq!(different.len(), 29);
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let header = Header {
            seed: 3,
            kernel: "7.3.4".to_owned(),
        };
        let operations: Vec<_> = Plan::new(3).take(300).collect();
        let mut log = Log::create(&path, &header).unwrap();
        operations.iter().for_each(|it| log.add(it).unwrap());
        drop(log);
        let (read_header, read_operations) = read(&path).unwrap();
        assert_eq!((read_header.seed, read_operations), (3, operations));
        fs::write(
            &path,
            "{\"seed\":1,\"kernel\":\"k\"}\n{\"do\":\"nothing\"}\n",
        )
        .unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            format!("{error:#}").contains("line 2: unknown variant `nothing`"),
            "{error:#}"
        );
    }
}
