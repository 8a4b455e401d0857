//! `cargo xtask demo`: from a bare machine to io_uring zero-copy receive.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    backend::Cable,
    sandbox,
    setup::{GuestArgs, Setup},
    step::{downloaded, since_call, step},
    stream::{Stream, Streamed},
};

/// Set everything up, boot, and receive a stream by io_uring zero-copy receive
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
    /// Leave the flow rule out; the demo then fails (for its own test)
    #[arg(long, hide = true)]
    no_rule: bool,
    /// Don't split headers from payload; the demo then fails (for its own test)
    #[arg(long, hide = true)]
    no_split: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    sandbox::clean_up_on_signals()?;
    let setup = Setup::for_zero_copy(&args.guest)?;
    let prepared = since_call()?;
    let mut guest = setup.boot(&setup.machine(), Cable::Drop)?;
    let first_output = since_call()?;
    let boot = guest.boot;
    step("bring up two ports, cabled", || {
        guest.bring_up(setup.driver())
    })?;
    let stream = Stream {
        rule: !args.no_rule,
        split: !args.no_split,
        ..Stream::default()
    };
    let what = format!("stream {} MiB from eth1 to eth0", stream.bytes >> 20);
    let result = step(&what, || stream.run(&mut guest))?;
    let kernel = guest.kernel.clone();
    let end = step("look for warnings and leaks, power off", || guest.finish());

    let downloading = downloaded();
    let seconds = |time: Duration| (time.as_secs_f64() * 100.0).round() / 100.0;
    let times = json!({
        "download_seconds": seconds(downloading),
        "setup_seconds": seconds(prepared.saturating_sub(downloading)),
        "boot_seconds": seconds(boot),
        "first_output_seconds": seconds(first_output),
    });
    let mut report = json!(result);
    merge(&mut report, &times);
    merge(
        &mut report,
        &json!({
            "kernel": kernel,
            "qemu": setup.qemu.version,
            "acceleration": setup.acceleration.name(),
        }),
    );
    let mut faults = result.faults(&stream);
    faults.extend(end.err().map(|error| format!("{error:#}")));
    merge(
        &mut report,
        &json!({"pass": faults.is_empty(), "faults": faults}),
    );
    print(&result, &kernel, &times);
    args.report.write(&report)?;
    if !faults.is_empty() {
        bail!("the demo failed: {}", faults.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(result: &Streamed, kernel: &str, times: &Value) {
    let Streamed {
        queue,
        bytes_verified,
        frames_split,
        frames_unsplit,
        frames_elsewhere,
        ..
    } = result;
    let copied = result
        .bytes_copied
        .map_or_else(|| "an unknown number".to_owned(), |bytes| bytes.to_string());
    println!("io_uring zero-copy receive on queue {queue} of eth0, Linux {kernel}:");
    println!(
        "  {bytes_verified} bytes verified in {:.1} s, {copied} copied by the kernel",
        result.seconds
    );
    println!("  {frames_split} frames split into header and payload, {frames_unsplit} not split");
    println!("  {frames_elsewhere} frames of the flow on other queues");
    if let Some(pool) = result.io_uring_pool() {
        println!(
            "  page pool {}: memory from io_uring, {} buffers of {} bytes in use",
            pool.id,
            pool.inflight,
            pool.io_uring_rx_buf_len.unwrap_or_default()
        );
    }
    println!(
        "  booted in {} s; first output of the guest {} s after the call",
        times["boot_seconds"], times["first_output_seconds"]
    );
}

/// Adds the keys of one object to another.
fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.clone());
    }
}
