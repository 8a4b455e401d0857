//! Fuzz targets: each takes bytes that an outsider wrote, gives them to one part of zcnic, and
//! panics if an invariant does not hold.
//!
//! `cargo xtask fuzz TARGET` runs a target under libFuzzer. `cargo test -p zcnic-fuzz` runs all of
//! them over the corpora in `fuzz/corpus` and a bounded number of mutations.

mod commands;
mod frames;
mod memory;
mod plainly;
mod texts;
mod transmit;

use zcnic_backend::fuzzing;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and its directory in `fuzz/corpus`.
    pub name: &'static str,
    /// What it reads, for people.
    pub about: &'static str,
    /// Runs it once.
    pub run: fn(&[u8]),
    /// Mutations that a test has time for.
    pub mutations: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        about: "frames: headers, steering, split points",
        run: frames::run,
        mutations: 4000,
    },
    Target {
        name: "transmit",
        about: "transmit chains: headers, segmentation, checksums, placing in receive buffers",
        run: transmit::run,
        mutations: 2000,
    },
    Target {
        name: "commands",
        about: "commands of the driver",
        run: commands::run,
        mutations: 1000,
    },
    Target {
        name: "chains",
        about: "rings and descriptors in guest memory",
        run: fuzzing::chains,
        mutations: 1000,
    },
    Target {
        name: "guest",
        about: "two guests that do anything to their rings",
        run: fuzzing::guest,
        mutations: 500,
    },
    Target {
        name: "relay",
        about: "the bytes of a vhost-user frontend, on their way to the daemon",
        run: fuzzing::relay,
        mutations: 1000,
    },
    Target {
        name: "frontend",
        about: "vhost-user messages with any files, to a whole connection",
        run: fuzzing::frontend,
        mutations: 100,
    },
    Target {
        name: "control",
        about: "lines of a control client",
        run: fuzzing::control,
        mutations: 1000,
    },
    Target {
        name: "capture",
        about: "captures that are replayed, pcap and pcapng",
        run: fuzzing::capture,
        mutations: 4000,
    },
    Target {
        name: "framing",
        about: "the frames of a stream wire",
        run: fuzzing::framing,
        mutations: 500,
    },
    Target {
        name: "ktap",
        about: "output of the kernel's selftests",
        run: texts::ktap,
        mutations: 4000,
    },
    Target {
        name: "scenario",
        about: "scenario files",
        run: texts::scenario,
        mutations: 4000,
    },
    Target {
        name: "topology",
        about: "topology files",
        run: texts::topology,
        mutations: 4000,
    },
];
