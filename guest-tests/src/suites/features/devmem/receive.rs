//! Receiving into dmabufs.

use std::{io::Read, os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use zcnic_guest_protocol::interface::PagePool;

use crate::{
    fixture::{
        connection::{Connection, Sender, connect},
        device::{await_pools, provider_pool, provider_pools},
        devmem::{PAGE, Reader},
        lab::{Lab, eventually},
        receiver::{bind, bind_patiently},
        settings::{with_hardware_gro, with_huge_pages},
        traffic::{PLAIN, PORT, QUEUE, SECOND},
        transcript::Transcript,
    },
    kit::{
        devmem::{Binding, dont_need},
        dmabuf::Dmabuf,
        net,
        zcrx::Options,
    },
};

const MIB: u64 = 1 << 20;
/// Bytes of a dmabuf that is large enough for all sent and posted data.
const LARGE: usize = 16 << 20;

/// A dmabuf that a queue receives into.
fn bound(queues: &[u32], bytes: usize) -> Result<(Dmabuf, Binding)> {
    let dmabuf = Dmabuf::new(bytes, false).context("making a udmabuf")?;
    let binding = Binding::receive("eth0", queues, &dmabuf, None)?;
    Ok((dmabuf, binding))
}

fn connection(port: u16) -> Result<Connection> {
    connect(port, 1)?.pop().context("one connection")
}

pub(super) fn tokens(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 8 * MIB;
    const KEPT: u64 = MIB;
    let (dmabuf, binding) = bound(&[QUEUE], 4 * MIB as usize)?;
    let pool = provider_pool()?;
    let id = pool.dmabuf.unwrap_or_default();
    transcript.is("the page pool's dmabuf", id, binding.id().into())?;
    let Connection { receiver, sender } = connection(PORT)?;
    let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
    let sender = Sender::start(sender, 1, BYTES);
    reader.keeps = true;
    reader.until(KEPT)?;
    match reader.socket.read(&mut [0; 1]) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
            transcript.sees("read", "EFAULT");
        }
        other => bail!("read: {other:?}, not EFAULT"),
    }
    transcript.why(
        "Without MSG_SOCK_DEVMEM a program can't read a dmabuf (tcp_recvmsg_locked, net/ipv4/tcp.c).",
    );
    let held = reader.held.len() as u64;
    transcript.at_least("tokens that are kept", held, KEPT / PAGE)?;
    let buffers = reader.buffers();
    transcript.sees("buffers that they refer to", buffers);
    let out = provider_pool()?.inflight;
    transcript.at_least("buffers in use of the page pool", out, buffers)?;
    let first = reader.held.first().context("no token")?.token;
    transcript.is("tokens that the kernel accepts", reader.give_back()?, held)?;
    let again = dont_need(reader.socket.as_fd(), &[first])?;
    transcript.is("tokens that it accepts a second time", again, 0)?;

    transcript.does(
        "The rest of the stream is twice as long as the dmabuf, and each token is returned at once",
    );
    reader.keeps = false;
    reader.finish(BYTES)?;
    sender.finish()?;
    transcript.is(
        "bytes that are right, in the dmabuf",
        reader.in_dmabuf,
        BYTES,
    )?;
    drop(reader);
    drop(binding);
    await_pools(<[_]>::is_empty)
}

pub(super) fn large_buffers(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 8 * MIB;
    const BUFFER: u32 = 16 << 10;
    with_huge_pages(|| {
        with_hardware_gro(|| {
            let dmabuf = Dmabuf::new(LARGE, true).context("making a udmabuf")?;
            let binding = Binding::receive("eth0", &[QUEUE], &dmabuf, Some(BUFFER))?;
            let Connection { receiver, sender } = connection(PORT)?;
            let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
            reader.keeps = true;
            let sender = Sender::start(sender, 1, BYTES);
            reader.finish(BYTES)?;
            sender.finish()?;
            transcript.is(
                "bytes that are right, in the dmabuf",
                reader.in_dmabuf,
                BYTES,
            )?;
            let fullest = reader.held.iter().map(|fragment| fragment.len).max();
            transcript.at_least(
                "bytes in the fullest buffer",
                fullest.unwrap_or_default().into(),
                u64::from(BUFFER) / 2,
            )?;
            let average = BYTES / reader.held.len() as u64;
            transcript.at_least("bytes in a fragment on average", average, PAGE)?;
            drop(reader);
            drop(binding);
            await_pools(<[_]>::is_empty)
        })
    })
}

pub(super) fn linear(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = MIB;
    let (dmabuf, binding) = bound(&[QUEUE], LARGE)?;
    let Connection { receiver, sender } = connection(PORT)?;
    let rule = json!({"direction": "rx", "queue": QUEUE, "action": "payload-in-header"});
    let rule = lab.arm("0", &rule)?;
    let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
    let sender = Sender::start(sender, 1, BYTES);
    reader.finish(BYTES)?;
    sender.finish()?;
    let hits = lab.hits(rule)?.context("the rule is no longer armed")?;
    lab.disarm()?;
    transcript.at_least("frames whose headers have payload behind them", hits, 64)?;
    transcript.at_least("bytes by SCM_DEVMEM_LINEAR", reader.linear, hits)?;
    transcript.at_least("bytes by SCM_DEVMEM_DMABUF", reader.in_dmabuf, hits)?;
    transcript.is("bytes that are right", reader.received(), BYTES)
}

pub(super) fn wrong_queue(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 2 * MIB;
    let (dmabuf, binding) = bound(&[QUEUE], LARGE)?;
    let Connection { receiver, sender } = connection(PLAIN)?;
    let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
    let sender = Sender::start(sender, 1, BYTES);
    reader.finish(BYTES)?;
    sender.finish()?;
    transcript.is("bytes that are right, in no dmabuf", reader.readable, BYTES)
}

pub(super) fn several_bindings(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 2 * MIB;
    lab.with_second(|_| {
        let first = bound(&[QUEUE], LARGE)?;
        let second = bound(&[SECOND.0], LARGE)?;
        let pools = provider_pools()?;
        transcript.is("page pools with dmabufs", pools.len(), 2)?;
        let streams = [(PORT, &first), (SECOND.1, &second)];
        let mut readers = Vec::new();
        let mut senders = Vec::new();
        for (seed, (port, (dmabuf, binding))) in (1..).zip(streams) {
            let Connection { receiver, sender } = connection(port)?;
            // The reader knows its own dmabuf only.
            readers.push(Reader::new(receiver, seed, &[(binding, dmabuf)])?);
            senders.push(Sender::start(sender, seed, BYTES));
        }
        for reader in &mut readers {
            reader.finish(BYTES)?;
            transcript.is(
                "bytes that are right, in its dmabuf",
                reader.in_dmabuf,
                BYTES,
            )?;
        }
        senders.into_iter().try_for_each(Sender::finish)
    })
}

pub(super) fn several_queues(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 2 * MIB;
    lab.with_second(|_| {
        let (dmabuf, binding) = bound(&[SECOND.0, QUEUE], LARGE)?;
        let pools = provider_pools()?;
        let its = |pool: &&PagePool| pool.dmabuf == Some(binding.id().into());
        transcript.is(
            "page pools with its memory",
            pools.iter().filter(its).count(),
            2,
        )?;
        for (seed, port) in [(1, PORT), (2, SECOND.1)] {
            let Connection { receiver, sender } = connection(port)?;
            let mut reader = Reader::new(receiver, seed, &[(&binding, &dmabuf)])?;
            let sender = Sender::start(sender, seed, BYTES);
            reader.finish(BYTES)?;
            sender.finish()?;
            transcript.is(
                "bytes that are right, in the dmabuf",
                reader.in_dmabuf,
                BYTES,
            )?;
        }
        Ok(())
    })
}

pub(super) fn closed_in_flight(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 8 * MIB;
    let (dmabuf, binding) = bound(&[QUEUE], LARGE)?;
    let Connection { receiver, sender } = connection(PORT)?;
    let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
    reader.keeps = true;
    let sender = Sender::start(sender, 1, BYTES);
    reader.until(MIB)?;
    eventually(Duration::from_secs(15), || {
        let unread = rustix::io::ioctl_fionread(&reader.socket)?;
        ensure!(unread > 0, "no more data has arrived");
        Ok(())
    })?;
    transcript.does("The binding is closed");
    drop(binding);
    let stop = lab.ledger(QUEUE)?.last_stop;
    let stop = stop.context("the queue did not stop")?;
    transcript.holds("the device has returned every chain", stop.clean)?;
    let pools = provider_pools()?;
    transcript.is("page pools that are left", pools.len(), 1)?;
    ensure!(pools[0].detach_time.is_some(), "it was not destroyed");
    let (before, kept) = (reader.in_dmabuf, reader.held.len() as u64);

    transcript.does("The rest of the stream is received");
    reader.finish(BYTES)?;
    sender.finish()?;
    transcript.at_least(
        "bytes that were in the socket, in the dmabuf",
        reader.in_dmabuf - before,
        1,
    )?;
    transcript.at_least("bytes in memory that the kernel reads", reader.readable, 1)?;
    transcript.is("bytes that are right", reader.received(), BYTES)?;
    transcript.why("Received data stays in its buffers; the queue has other memory at once");
    transcript.why("(net_devmem_unbind_dmabuf, net/core/devmem.c).");
    transcript.at_least("tokens that are kept", reader.held.len() as u64, kept)?;
    let held = reader.held.len() as u64;
    transcript.is("tokens that the kernel accepts", reader.give_back()?, held)?;
    await_pools(<[_]>::is_empty)?;
    transcript.sees("its page pool", "ended");
    Ok(())
}

pub(super) fn socket_closed(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    const BYTES: u64 = 2 * MIB;
    let (dmabuf, binding) = bound(&[QUEUE], LARGE)?;
    let Connection { receiver, sender } = connection(PORT)?;
    let mut reader = Reader::new(receiver, 1, &[(&binding, &dmabuf)])?;
    reader.keeps = true;
    let sender = Sender::start(sender, 1, BYTES);
    reader.finish(BYTES)?;
    sender.finish()?;
    let held = reader.held.len() as u64;
    transcript.at_least("tokens that are kept", held, BYTES / PAGE)?;
    let buffers = reader.buffers();
    transcript.sees("buffers that they refer to", buffers);
    let pool = provider_pool()?;

    transcript.does("The binding is closed, and then the socket");
    drop(binding);
    let left = provider_pools()?;
    transcript.is("page pools that are left", left.len(), 1)?;
    transcript.at_least("buffers of it in use", left[0].inflight, buffers)?;
    ensure!(left[0].id == pool.id, "it is another page pool");
    drop(reader);
    await_pools(<[_]>::is_empty)?;
    transcript.sees("the page pool", "ended");
    transcript.why(
        "tcp_v4_destroy_sock releases the buffers of the socket's tokens (net/ipv4/tcp_ipv4.c).",
    );
    Ok(())
}

pub(super) fn one_provider(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let (dmabuf, binding) = bound(&[QUEUE], LARGE)?;
    let zcrx = bind(QUEUE, &Options::default());
    transcript.fails("io_uring on a queue with a dmabuf", zcrx, libc::EEXIST)?;
    drop(binding);
    let (zcrx, _) = bind_patiently(QUEUE, &Options::default())?;
    let second = Binding::receive("eth0", &[QUEUE], &dmabuf, None);
    match second {
        Err(net::Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
            transcript.sees("a dmabuf on a queue with io_uring", "EEXIST");
        }
        other => bail!("a dmabuf on a queue with io_uring: {other:?}, not EEXIST"),
    }
    drop(zcrx);
    await_pools(<[_]>::is_empty)
}
