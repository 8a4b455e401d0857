//! Changes of the interface's settings while a queue of it is bound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{
    fixture::{
        connection::{Sender, connect},
        device::{await_pools, provider_pool, provider_pools},
        lab::{Lab, eventually},
        receiver::{Receiver, bind, bind_patiently},
        traffic::{PORT, QUEUE},
        transcript::Transcript,
    },
    kit::{link, net, zcrx::Options},
};

/// Time limit for carrier.
const CARRIER: Duration = Duration::from_secs(30);
/// Time limit for the kernel to release the queue of a closed instance.
const RELEASE: Duration = Duration::from_secs(15);

fn set_link(state: &str) -> Result<()> {
    net::run(None, &["ip", "link", "set", "eth0", state])?;
    Ok(())
}

pub(super) fn interface_down(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 8 << 20;

    transcript.does("A program receives a stream and keeps 100 buffers or more");
    let options = Options::default();
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let connection = connect(PORT, 1)?.remove(0);
    receiver.keep(true);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.until("100 buffers are held", |receiver| receiver.held() >= 100)?;
    let before = provider_pool()?.id;

    transcript.does("ip link set eth0 down");
    set_link("down")?;
    let down = while_down(lab, transcript, before);
    let started = Instant::now();
    set_link("up")?;
    link::wait_for_carrier(net::ifindex("eth0")?, CARRIER)?;
    let took = started.elapsed();
    down?;
    transcript.does("ip link set eth0 up");
    transcript.sees("milliseconds until there is a carrier", took.as_millis());
    let new = provider_pool()?.id;
    transcript.holds(
        "there is another page pool with memory of io_uring",
        new != before,
    )?;

    transcript
        .does("The program returns the kept buffers, and those of the rest of the stream at once");
    receiver.keep(false);
    receiver.give_back();
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is(
        "bytes received and right, on the connection from before",
        receiver.received(),
        BYTES,
    )?;
    let stats = receiver.zcrx.stats().context("no statistics")?;
    transcript.is("bytes copied", stats.copy_bytes, 0)?;
    await_pools(|left| left.iter().all(|pool| pool.id != before))?;
    transcript.sees("the old page pool", "gone");
    transcript
        .why("A returned buffer goes to the pool that it was taken from (io_zcrx_return_niov,");
    transcript.why("io_uring/zcrx.c), and from there to the area.");
    Ok(())
}

/// Checks that the destroyed page pool waits for its buffers, and that the queue is still bound.
fn while_down(lab: &mut Lab, transcript: &Transcript, pool: u64) -> Result<()> {
    let stop = lab.ledger(QUEUE)?.last_stop;
    let stop = stop.context("the queue did not stop")?;
    transcript.holds("the device has returned every chain", stop.clean)?;
    let pools = provider_pools()?;
    let old = pools.iter().find(|found| found.id == pool);
    let old = old.context("the page pool has ended although buffers of it are in use")?;
    transcript.holds("its page pool was destroyed", old.detach_time.is_some())?;
    transcript.within("buffers of it still in use", old.inflight, 100..=8192)?;
    transcript.is("page pools with memory of io_uring", pools.len(), 1)?;
    let other = bind(QUEUE, &Options::default());
    transcript.fails("another program that binds the queue", other, libc::EEXIST)?;
    transcript
        .why("The provider belongs to the queue (rxq->mp_params), which outlives its page pools.");
    Ok(())
}

pub(super) fn channel_change(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    let was = net::rx_queues("eth0")?;
    let result = change_channels(lab, transcript, was);
    // The kernel releases the queue some time after the instance was closed.
    eventually(RELEASE, || Ok(channels(was)?))?;
    result
}

fn channels(count: u32) -> Result<(), net::Error> {
    net::set_channels(None, "eth0", count)
}

fn change_channels(lab: &mut Lab, transcript: &Transcript, was: u32) -> Result<()> {
    const BYTES: u64 = 8 << 20;

    transcript.does("A program receives a stream by queue 3, the last of four");
    transcript.is("queues", was, QUEUE + 1)?;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let connection = connect(PORT, 1)?.remove(0);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    let some = |receiver: &Receiver| receiver.received() >= BYTES / 4;
    receiver.until("a quarter has been received", some)?;
    let pool = provider_pool()?.id;

    transcript.does("ethtool -L eth0 combined 3, with a flow rule to queue 3 and without it");
    transcript.refused(
        "with",
        channels(QUEUE),
        "too low for existing ntuple filter settings",
    )?;
    lab.remove_flow_rule()?;
    let without = transcript.refused(
        "without",
        channels(QUEUE),
        "too low for existing memory provider setting (4)",
    );
    lab.add_flow_rule()?;
    without?;
    transcript.why("The core refuses without calling the driver (ethtool_check_max_channel,");
    transcript.why("net/ethtool/common.c).");

    transcript
        .does("ethtool -L eth0 combined 8, and after half of the stream combined 4 and combined 5");
    channels(8)?;
    transcript.is("queues", net::rx_queues("eth0")?, 8)?;
    let half = |receiver: &Receiver| receiver.received() >= BYTES / 2;
    receiver.until("half has been received", half)?;
    let words = "too low for existing memory provider setting (4)";
    transcript.refused("combined 4", channels(4), words)?;
    channels(5)?;
    transcript.is("queues", net::rx_queues("eth0")?, 5)?;
    receiver.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes received and right", receiver.received(), BYTES)?;
    let same = provider_pool()?.id == pool;
    transcript.holds("queue 3 has the page pool that it had", same)?;
    transcript.why(
        "The other queues are not touched. 4 would suffice for queue 3, but the core treats the",
    );
    transcript.why("required count as if it were a queue's number (dev_get_min_mp_channel_count,");
    transcript.why("net/core/dev.c), and wants one more.");
    Ok(())
}

pub(super) fn split_off(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let options = Options::default();
    transcript.does(
        "A program binds queue 3; then ethtool -G eth0 tcp-data-split off, or hds-thresh 100",
    );
    let (zcrx, _) = bind_patiently(QUEUE, &options)?;
    transcript.refused(
        "tcp-data-split off",
        net::set_tcp_data_split("eth0", false),
        "can't disable tcp-data-split while device has memory provider enabled",
    )?;
    transcript.refused(
        "hds-thresh 100",
        net::set_hds_thresh("eth0", 100),
        "can't set non-zero hds_thresh while device is memory provider enabled",
    )?;
    transcript.why(
        "Memory that the CPU does not read may only hold payload: the core refuses without calling",
    );
    transcript.why("the driver (ethnl_set_rings, net/ethtool/rings.c).");

    transcript.does("The program ends, and the same is repeated");
    drop(zcrx);
    // The kernel releases the queue some time after the instance was closed.
    eventually(RELEASE, || Ok(net::set_tcp_data_split("eth0", false)?))?;
    transcript.sees("tcp-data-split off", "done");
    let off = transcript.fails("binding then", bind(QUEUE, &options), libc::EINVAL);
    net::set_tcp_data_split("eth0", true)?;
    off?;
    net::set_hds_thresh("eth0", 100)?;
    transcript.sees("hds-thresh 100", "done");
    let thresh = transcript.fails("binding then", bind(QUEUE, &options), libc::EINVAL);
    net::set_hds_thresh("eth0", 0)?;
    thresh?;
    transcript.why(
        "Binding requires the same settings (__netif_mp_open_rxq, net/core/netdev_rx_queue.c).",
    );

    transcript.does("Both settings are restored, and the queue is bound again");
    let (zcrx, _) = bind_patiently(QUEUE, &options)?;
    let pool = provider_pool()?;
    let length = pool.io_uring_rx_buf_len.unwrap_or_default();
    transcript.is(
        "its page pool has memory of io_uring, in buffers of",
        length,
        4096,
    )?;
    drop(zcrx);
    Ok(())
}
