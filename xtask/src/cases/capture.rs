//! Tests of captures: what `zcnicctl capture` writes of a stream to a steered queue, and how
//! Wireshark shows it.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use zcnic_testbed::{
    guest::Guest as Machine,
    process::Running,
    provision::{
        buildroot::{BuildRoot, Recipe, WORK},
        cache::Cache,
    },
    step,
    stream::Stream,
};

use super::test::{Kind::Zcnic, Run::Guest, Test, expect};

pub(super) const TESTS: &[Test] = &[Test {
    name: "capture: tshark shows queue, hash, split point, flow rule and fault",
    run: Guest(Zcnic, tshark_shows_all),
}];

/// How long zcnicctl may take to begin or end a file.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answer to `fault add`.
#[derive(Deserialize)]
struct Ids {
    ids: Vec<u64>,
}

fn tshark_shows_all(guest: &mut Machine) -> Result<()> {
    let stream = Stream {
        bytes: 1 << 20,
        ..Stream::default()
    };
    let control = guest.control()?;
    let queue = format!("--queue={}", stream.queue);
    let add = ["--port=0", "fault", "add", "rx", "drop", &queue, "--nth=20"];
    let Ids { ids } = control.ask(&add)?;
    let rule = ids.first().context("no rule")?;

    let directory = tempfile::tempdir()?;
    let file = directory.path().join("frames.pcapng");
    let mut command = control.command(&["capture", "--all", "--length=128"]);
    command.arg(&file).stderr(Stdio::null());
    let mut zcnicctl = Running::start("zcnicctl", &mut command)?;
    wait_for_begin(&file)?;
    let faults = stream.run(guest)?.faults(&stream);
    expect(faults.is_empty(), || faults.join("; "))?;
    zcnicctl.interrupt()?;
    let status = zcnicctl.wait(PATIENCE)?;
    expect(status.success(), || {
        format!("the capture ended with {status}")
    })?;
    control.run(&["--port=0", "fault", "remove", "--all"])?;

    let lines = tshark(directory.path(), "frames.pcapng")?;
    let has = |words: &[&str]| {
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    let received = format!("zcnic port 0\t1\t{}\t", stream.queue);
    let fault = format!("fault drop #{rule}, dropped by the fault");
    for words in [
        &[&*received, "RSS 0x", "split at ", "rule "][..],
        &[&received, &fault],
        &["zcnic port 1\t2\t", "queue "],
    ] {
        expect(has(words), || {
            let some: Vec<_> = lines.iter().take(30).collect();
            format!("no frame has {words:?}: {some:#?}")
        })?;
    }
    Ok(())
}

/// Waits until the file has its first blocks: the capture has begun.
fn wait_for_begin(file: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !fs::metadata(file).is_ok_and(|file| file.len() > 0) {
        if Instant::now() > end {
            bail!("zcnicctl wrote nothing within {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Debian's tshark prints interface, direction (1: received, 2: sent), queue and comment of each
/// frame.
fn tshark(directory: &Path, file: &str) -> Result<Vec<String>> {
    let recipe = Recipe {
        kind: "tshark",
        packages: &["tshark"],
        ..Recipe::default()
    };
    let root = BuildRoot::ensure(&Cache::open()?, &recipe, "unpack Debian's tshark")?;
    let mut command = root.command(directory, "tshark");
    command.args(["-r", &format!("{WORK}/{file}"), "-T", "fields"]);
    for field in [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.interface_queue",
        "frame.comment",
    ] {
        command.args(["-e", field]);
    }
    // Directions are printed as 0x00000001.
    let text = step::run(&mut command)?.replace("0x0000000", "");
    Ok(text.lines().map(str::to_owned).collect())
}
