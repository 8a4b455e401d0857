//! The end of a binding with buffers everywhere: held by the program, in the refill ring, in
//! sockets, posted to the device.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};

use super::stream::{connection, pools_released, stream};
use crate::{
    fixture::{
        connection::Sender,
        device::{await_pools, provider_pool, provider_pools},
        lab::{Lab, eventually},
        receiver::{Receiver, bind},
        trace::PoolEnds,
        traffic::QUEUE,
        transcript::Transcript,
    },
    kit::{link, net, zcrx::Options},
    runtime::ports::{self, PORTS, in_netns},
};

/// Time limit for sent data to arrive.
const ARRIVAL: Duration = Duration::from_secs(15);
/// Time limit for a namespace to be destroyed, and for carrier.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn ring_closed(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 1 << 20;
    const UNREAD: u64 = 32 << 10;
    const FEW: u64 = 64;
    let ends = PoolEnds::watch()?;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    receiver.keep(true);
    stream(&mut receiver, 1, BYTES)?;
    receiver.give_back();
    transcript.at_least(
        "buffers in the refill ring",
        receiver.zcrx.in_refill_ring().into(),
        1,
    )?;
    stream(&mut receiver, 2, BYTES)?;
    transcript.at_least("buffers held by the program", receiver.held() as u64, 1)?;
    let posted = lab.ledger(QUEUE)?.with_device;
    transcript.at_least("buffers that the device has", posted, 1)?;
    let unread = connection()?;
    Sender::start(unread.sender, 3, UNREAD).finish()?;
    eventually(ARRIVAL, || {
        let came = rustix::io::ioctl_fionread(&unread.receiver)?;
        ensure!(came == UNREAD, "{came} of {UNREAD} bytes have arrived");
        Ok(())
    })?;
    transcript.sees("unread bytes in a socket", UNREAD);
    let out = provider_pool()?.inflight;

    transcript.does("The ring is closed");
    drop(receiver);
    // The kernel checks a destroyed page pool for returned buffers once a second.
    await_pools(|left| left.iter().all(|pool| pool.inflight < FEW))?;
    let left = provider_pools()?;
    transcript.is("page pools that are left", left.len(), 1)?;
    ensure!(left[0].detach_time.is_some(), "it was not destroyed");
    transcript.within(
        "buffers of it in use, by the socket",
        left[0].inflight,
        UNREAD / 4096..=FEW,
    )?;
    let stop = lab.ledger(QUEUE)?.last_stop;
    let stop = stop.context("the queue did not stop")?;
    transcript.holds("the device has returned every chain", stop.clean)?;
    transcript.does("The socket is closed");
    drop(unread.receiver);
    pools_released(transcript, &ends, out)
}

/// The namespace that is destroyed, and a name for the initial one, where eth0 belongs.
const DOOMED: &str = "doomed";
const OWN_NETNS: &str = "home";

pub(super) fn namespace_destroyed(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let ends = PoolEnds::watch()?;
    net::run(None, &["ip", "netns", "attach", OWN_NETNS, "1"])?;
    net::run(None, &["ip", "netns", "add", DOOMED])?;
    let moved = net::run(None, &["ip", "link", "set", "eth0", "netns", DOOMED]);
    let out = moved.map_err(Into::into).and_then(|_| {
        // Rings and namespaces belong to a thread.
        in_netns(Some(DOOMED), || destroy(transcript))
    });
    let restored = restore();
    let out = out?;
    restored?;
    pools_released(transcript, &ends, out)
}

/// Binds a queue of eth0 in the namespace, and destroys that. Returns the number of buffers in use
/// by then.
fn destroy(transcript: &Transcript) -> Result<u64> {
    const BYTES: u64 = 1 << 20;
    ports::configure(&PORTS[0])?;
    link::wait_for_carrier(net::ifindex("eth0")?, PATIENCE)?;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    receiver.keep(true);
    stream(&mut receiver, 1, BYTES)?;
    let held = receiver.held() as u64;
    transcript.at_least("buffers held by the program", held, 1)?;
    let out = provider_pool()?.inflight;
    transcript.at_least("buffers in use of the page pool", out, held)?;

    transcript.does("The program leaves the namespace, which is destroyed then");
    // Each of its sockets would keep it alive.
    receiver.hang_up();
    net::enter_netns(OWN_NETNS)?;
    net::run(None, &["ip", "netns", "delete", DOOMED])?;
    eventually(PATIENCE, || Ok(net::ifindex("eth0")?))?;
    transcript.sees("eth0", "back in the initial namespace");
    let state = fs::read_to_string("/sys/class/net/eth0/operstate")?;
    transcript.is("its state", state.trim(), "down")?;
    transcript.fails(
        "binding the queue",
        bind(QUEUE, &Options::default()),
        libc::EEXIST,
    )?;
    transcript.why("The provider belongs to the interface, which returns to its former namespace");
    transcript.why("(default_device_exit_net, net/core/dev.c).");
    transcript.does("The ring is closed");
    drop(receiver);
    Ok(out)
}

/// Moves eth0 back to the initial namespace, from any other.
fn restore() -> Result<()> {
    if fs::exists(format!("/run/netns/{DOOMED}"))? {
        net::run(None, &["ip", "netns", "delete", DOOMED])?;
    }
    net::run(None, &["ip", "netns", "delete", OWN_NETNS])?;
    let index = eventually(PATIENCE, || Ok(net::ifindex("eth0")?))?;
    ports::configure(&PORTS[0])?;
    Ok(link::wait_for_carrier(index, PATIENCE)?)
}
