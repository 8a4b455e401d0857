//! Backends that crash, virtual machines that stop, links that go: the flow goes on.

use anyhow::{Context, Result};
use serde_json::json;

use super::{End, GuestCase, KernelLog, expect};
use crate::{
    agent::Exec,
    guest::{Driver, Guest},
    stream::{Counter, Flow, Stream},
};

pub(super) const CASES: &[GuestCase] = &[
    GuestCase {
        name: "a backend killed under traffic comes back, and the flow goes on to its queue",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: backend_killed,
    },
    GuestCase {
        name: "a backend killed with a provider bound, then the ring closed: nothing hangs or leaks",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: closed_without_backend,
    },
    GuestCase {
        name: "QEMU stopped and continued under traffic",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: stopped,
    },
    GuestCase {
        name: "set_link off and on under traffic",
        driver: Driver::Zcnic,
        end: End::Clean,
        run: unplugged,
    },
];

/// Long enough that it is still running when things happen to it.
const LONG: Stream = Stream {
    bytes: 512 << 20,
    queue: 3,
    channels: 4,
    port: 4433,
    rule: true,
    split: true,
};

fn begin(guest: &mut Guest) -> Result<Flow> {
    LONG.prepare(guest)?;
    let mut flow = LONG.start(guest)?;
    flow.wait_for_progress()?;
    Ok(flow)
}

/// The rest of the stream arrives, in order and complete, where it should and without a copy.
fn end(flow: Flow, counter: &Counter) -> Result<()> {
    let result = flow.finish()?;
    let verified = result["bytes_verified"].as_u64();
    expect(verified == Some(LONG.bytes), || {
        format!("{verified:?} bytes verified")
    })?;
    let copied = result["bytes_copied"].as_u64();
    expect(copied == Some(0), || format!("{copied:?} bytes copied"))?;
    let counts = counter.read(LONG.queue)?;
    expect(counts.split > 0, || {
        "nothing came after the interruption".to_owned()
    })?;
    expect(counts.unsplit == 0 && counts.elsewhere == 0, || {
        format!("{counts:?}")
    })
}

fn backend_killed(guest: &mut Guest) -> Result<()> {
    let mut flow = begin(guest)?;
    let mut log = KernelLog::follow(guest)?;
    guest.kill_backend()?;
    log.wait_for("eth0: link down")?;
    guest.restart_backend()?;
    log.wait_for("eth0: link up")?;
    let counter = LONG.count(guest)?;
    flow.wait_for_progress()?;
    end(flow, &counter)
}

fn closed_without_backend(guest: &mut Guest) -> Result<()> {
    let flow = begin(guest)?;
    let mut log = KernelLog::follow(guest)?;
    guest.kill_backend()?;
    log.wait_for("eth0: link down")?;
    flow.abort()?;
    let queues = guest.check(&Exec::new(["zcnic-guest", "state", "--interface=eth0"]))?;
    let queues: serde_json::Value = serde_json::from_str(&queues).context("state")?;
    let bound = queues["page_pools"]
        .as_array()
        .context("state: no page pools")?
        .iter()
        .any(|pool| !pool["io_uring_rx_buf_len"].is_null() && pool["detach_time"].is_null());
    expect(!bound, || format!("the provider is still there: {queues}"))?;
    guest.restart_backend()?;
    log.wait_for("eth0: link up")?;
    let stream = Stream {
        bytes: 16 << 20,
        ..Stream::default()
    };
    let counter = stream.count(guest)?;
    let result = stream.start(guest)?.finish()?;
    expect(result["bytes_copied"] == 0, || {
        format!("after the restart: {result}")
    })?;
    let counts = counter.read(stream.queue)?;
    expect(counts.unsplit == 0 && counts.elsewhere == 0, || {
        format!("{counts:?}")
    })
}

fn stopped(guest: &mut Guest) -> Result<()> {
    let mut flow = begin(guest)?;
    let counter = LONG.count(guest)?;
    for _ in 0..3 {
        guest.qmp().execute("stop", &json!({}))?;
        guest.qmp().execute("cont", &json!({}))?;
        flow.wait_for_progress()?;
    }
    end(flow, &counter)
}

fn unplugged(guest: &mut Guest) -> Result<()> {
    let mut flow = begin(guest)?;
    let counter = LONG.count(guest)?;
    let mut log = KernelLog::follow(guest)?;
    guest
        .qmp()
        .execute("set_link", &json!({"name": "nic0", "up": false}))?;
    log.wait_for("eth0: link down")?;
    guest
        .qmp()
        .execute("set_link", &json!({"name": "nic0", "up": true}))?;
    log.wait_for("eth0: link up")?;
    flow.wait_for_progress()?;
    end(flow, &counter)
}
