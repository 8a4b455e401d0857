//! What is compared with what.

use std::time::Instant;

use serde_json::{Value, json};
use zcnic_ctl::protocol::ledger::LedgerMode;
use zcnic_model::Shape;

use crate::{
    Method,
    spec::Spec,
    world::{RING, Turn, World, rule},
};

/// Payload of a frame that fills a page.
const PAGE: usize = 4096;

/// A train of fifteen such frames: the most that an IPv4 packet of 64 KiB has.
const TRAIN: usize = 15 * PAGE;

/// Payload of an ordinary full frame.
const FULL: usize = 1448;

/// Flows that alternate where rules are measured.
const FLOWS: u16 = 10_000;

/// Rules and queues of the scaling curves.
const RULES: [u16; 5] = [0, 10, 100, 1000, 10_000];
const QUEUES: [u16; 5] = [2, 4, 8, 16, 32];

/// Pages that are used cyclically where copying is measured: 32 MiB of 4 KiB each, as the area for
/// zero-copy receive of the kernel's `iou-zcrx` has. A ring that gets the same 1024 pages again and
/// again exists in benchmarks only.
const POOL: u16 = 8192;

/// Rounds of a comparison with memcpy before memory is allocated again: the physical pages can make
/// a quarter of the speed.
const ROUNDS_OF_A_WORLD: usize = 3;

/// Commands that are timed, per round.
const COMMANDS: usize = 200;

/// Runs all comparisons whose name `wanted` accepts.
pub(crate) fn run(method: Method, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for (name, spec) in copies() {
        if wanted(name) {
            copy(method, name, spec)?;
        }
    }
    for (name, a, b) in comparisons() {
        if wanted(&name) {
            compare(method, &name, a, b)?;
        }
    }
    if wanted("forward") {
        forward(method)?;
    }
    if wanted("commands") {
        commands(method)?;
    }
    Ok(())
}

/// Worlds to compare with memcpy.
fn copies() -> [(&'static str, Spec); 6] {
    let split = |page: u32| Spec {
        shape: Shape::split(256, page),
        payload: PAGE,
        checksum: true,
        pool: POOL,
        ..Spec::SMALL
    };
    let train = |page: u32| Spec {
        payload: TRAIN,
        segment: Some(PAGE as u16),
        gro: true,
        ..split(page)
    };
    [
        ("memcpy_split_4k", split(4096)),
        (
            "memcpy_split_4k_warm",
            Spec {
                pool: RING,
                ..split(4096)
            },
        ),
        ("memcpy_split_32k", split(32768)),
        ("memcpy_gso_64k", train(4096)),
        ("memcpy_gso_64k_32k", train(32768)),
        (
            "memcpy_gso_64k_cut",
            Spec {
                gro: false,
                ..train(4096)
            },
        ),
    ]
}

/// Pairs of worlds.
#[expect(clippy::too_many_lines, reason = "a table")]
fn comparisons() -> Vec<(String, Spec, Spec)> {
    let small = Spec::SMALL;
    let full = Spec {
        payload: FULL,
        ..small
    };
    let split = Spec {
        shape: Shape::split(256, 4096),
        ..full
    };
    let many = Spec {
        flows: FLOWS,
        queues: 4,
        ..small
    };
    let mut pairs = vec![
        (
            "rss",
            small,
            Spec {
                rss: false,
                ..small
            },
        ),
        ("rule", Spec { rules: 1, ..small }, small),
        ("split", split, full),
        (
            "checksum_insertion",
            Spec {
                checksum: true,
                ..full
            },
            full,
        ),
        ("checksum_verdict", full, Spec { tcp: false, ..full }),
        (
            "segmentation",
            Spec {
                payload: 40 * FULL,
                segment: Some(FULL as u16),
                ..split
            },
            Spec {
                checksum: true,
                ..split
            },
        ),
        (
            "ledger_counting",
            Spec {
                ledger: LedgerMode::Counting,
                ..small
            },
            small,
        ),
        (
            "ledger_full",
            Spec {
                ledger: LedgerMode::Full,
                ..small
            },
            small,
        ),
        (
            "faults_armed",
            Spec {
                fault: true,
                ..small
            },
            small,
        ),
        (
            "capture",
            Spec {
                capture: true,
                ..small
            },
            small,
        ),
        (
            "rules_10000_over_1",
            Spec {
                rules: FLOWS,
                ..many
            },
            Spec { rules: 1, ..many },
        ),
    ]
    .into_iter()
    .map(|(name, a, b)| (name.to_owned(), a, b))
    .collect::<Vec<_>>();
    pairs.extend(RULES.map(|rules| {
        let name = format!("rules_{rules}");
        (name, Spec { rules, ..many }, Spec { rules: 1, ..many })
    }));
    let some = Spec {
        flows: 1024,
        ..small
    };
    pairs.extend(QUEUES.map(|queues| {
        let name = format!("queues_{queues}");
        (name, Spec { queues, ..some }, some)
    }));
    pairs
}

fn compare(method: Method, name: &str, a: Spec, b: Spec) -> anyhow::Result<()> {
    let (mut a, mut b) = (World::new(a, method.cpus)?, World::new(b, method.cpus)?);
    // The first access to memory, which is not measured.
    a.send(method.turn);
    b.send(method.turn);
    let [mut first, mut other, mut again] = [const { Vec::new() }; 3];
    for _ in 0..method.rounds {
        first.push(a.send(method.turn));
        other.push(b.send(method.turn));
        again.push(a.send(method.turn));
    }
    let samples = [first, other, again];
    print(name, "frames/s", 1.0, samples, &a.counters()?);
    b.counters().map(drop)
}

fn copy(method: Method, name: &str, spec: Spec) -> anyhow::Result<()> {
    let [mut sent, mut copied, mut again] = [const { Vec::new() }; 3];
    let mut counters = Value::Null;
    while sent.len() < method.rounds {
        let mut world = World::new(spec, method.cpus)?;
        world.use_all_chains(method.turn);
        world.verify()?;
        for _ in 0..ROUNDS_OF_A_WORLD.min(method.rounds - sent.len()) {
            sent.push(world.send(method.turn));
            copied.push(world.copy(method.turn)?);
            again.push(world.send(method.turn));
        }
        counters = world.counters()?;
    }
    let samples = [sent, copied, again];
    print(name, "bytes/s", spec.bytes(), samples, &counters);
    Ok(())
}

/// Only frames, for comparing builds.
fn forward(method: Method) -> anyhow::Result<()> {
    let mut world = World::new(Spec::SMALL, method.cpus)?;
    world.send(method.turn);
    let turns = (0..method.rounds)
        .map(|_| world.send(method.turn))
        .collect();
    let samples = [turns, Vec::new(), Vec::new()];
    print("forward", "frames/s", 1.0, samples, &world.counters()?);
    Ok(())
}

fn print(name: &str, unit: &str, factor: f64, turns: [Vec<Turn>; 3], counters: &Value) {
    let [a, b, again] = turns.map(|turns| -> Vec<f64> {
        turns
            .into_iter()
            .map(|turn| turn.per_second() * factor)
            .collect()
    });
    println!(
        "{}",
        json!({ "name": name, "unit": unit, "a": a, "b": b, "again": again, "counters": counters })
    );
}

/// The duration of commands: STATUS, and RULE_SET of one more rule while there are few and many.
fn commands(method: Method) -> anyhow::Result<()> {
    let mut world = World::new(Spec::SMALL, method.cpus)?;
    let count = method.rounds * COMMANDS;
    let timed = |action: &mut dyn FnMut(u16)| -> Vec<f64> {
        (0..count as u16)
            .map(|number| {
                let start = Instant::now();
                action(number);
                start.elapsed().as_secs_f64()
            })
            .collect()
    };
    let driver = world.driver();
    let status = timed(&mut |_| {
        let _ = driver.status();
    });
    let first = timed(&mut |number| driver.set_rules(&[rule(number, 1)]).expect("a rule"));
    for start in (0..FLOWS).step_by(250) {
        let rules: Vec<_> = (start..start + 250).map(|number| rule(number, 1)).collect();
        driver.set_rules(&rules).expect("rules");
    }
    let last = timed(&mut |number| {
        driver
            .set_rules(&[rule(FLOWS + number, 1)])
            .expect("a rule");
    });
    for (name, samples) in [
        ("command_status", status),
        ("command_rule", first),
        ("command_rule_of_10000", last),
    ] {
        println!("{}", json!({ "name": name, "unit": "s", "a": samples }));
    }
    Ok(())
}
