//! The end of a binding: a process is killed, and a program is run again.

use std::{
    io::Read,
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    fixture::{
        connection::{Sender, connect},
        device::{await_pools, provider_pool, provider_pools},
        lab::{Lab, eventually},
        receiver::{Receiver, bind, bind_patiently},
        traffic::{How, PORT, QUEUE, Stream},
        transcript::Transcript,
    },
    kit::zcrx::Options,
};

/// Buffers of a receive ring of default size.
const POSTED: u64 = 512;
/// Time limit for sent data to arrive.
const ARRIVAL: Duration = Duration::from_secs(15);

/// Small sizes, which a program can exhaust at once.
fn small() -> Options {
    Options {
        area_bytes: 4 << 20,
        ..Options::default()
    }
}

pub(crate) fn process_killed(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    transcript.does("A process receives a stream and holds 256 buffers at any time; others are posted to the device");
    let mut stream = Stream::start_with(How::ZeroCopy, 1 << 40, &["--window=256"])?;
    stream.wait_for_progress()?;
    let pool = provider_pool()?;
    transcript.within(
        "buffers in use of its page pool",
        pool.inflight,
        POSTED + 256..=8192,
    )?;
    let ledger = lab.ledger(QUEUE)?;
    transcript.within(
        "chains that the device owns",
        ledger.with_device,
        1..=POSTED,
    )?;
    transcript.within("filled and not posted again", ledger.out, 256..=8192)?;

    transcript.does("It gets SIGKILL, and queue 3 is bound again as soon as that is possible");
    stream.kill_receiver()?;
    let killed = Instant::now();
    let (zcrx, refusals) = bind_patiently(QUEUE, &small())?;
    transcript.sees("refused with EEXIST before", format!("{refusals} times"));
    transcript.sees("milliseconds", killed.elapsed().as_millis());
    ensure!(
        provider_pool()?.id != pool.id,
        "the page pool is still the old one"
    );
    transcript.why(
        "The ring is torn down by a work item, after the process has gone (io_ring_exit_work,",
    );
    transcript.why(
        "io_uring/io_uring.c), and only then does the queue restart with the driver's memory.",
    );

    transcript.does("The device and the kernel report what the process left behind");
    let stop = lab
        .ledger(QUEUE)?
        .last_stop
        .context("the queue did not stop")?;
    transcript.holds(
        "the device has returned every chain, and the ledger has no violation",
        stop.clean,
    )?;
    transcript.is(
        "chains posted and not returned",
        stop.posted - stop.returned,
        0,
    )?;
    await_pools(|left| left.iter().all(|found| found.id != pool.id))?;
    transcript.sees("the process's page pool", "ended");
    let sender = stream.sender_end()?;
    let error = sender.error.as_deref().unwrap_or_default();
    transcript.sees("the sender's error", error);
    // The error depends on whether the socket had unread data when it was closed.
    let refused = ["reset by peer", "Broken pipe"].map(|words| error.contains(words));
    ensure!(refused.contains(&true), "the sender reports {sender:?}");
    transcript.why(
        "The kernel reclaims buffers that the program holds (io_zcrx_scrub, io_uring/zcrx.c), those in",
    );
    transcript.why("sockets when these are closed, and those of the device with RXQ_STOP.");
    drop(zcrx);
    await_pools(<[_]>::is_empty)
}

pub(super) fn rerun(lab: &mut Lab, transcript: &Transcript) -> Result<()> {
    let options = small();
    transcript.does("A program binds queue 3, and a second program tries to");
    let (first, _) = bind_patiently(QUEUE, &options)?;
    transcript.fails("the second program", bind(QUEUE, &options), libc::EEXIST)?;
    transcript.why("A queue has one provider (__netif_mp_open_rxq, net/core/netdev_rx_queue.c).");

    transcript.does("The program starts a helper that inherits the ring's descriptor, and ends");
    // Unlike the original descriptor, a copy is not closed on exec.
    let copy = rustix::io::dup(first.as_fd())?;
    let mut helper = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    drop(copy);
    drop(first);
    std::thread::sleep(Duration::from_millis(500));
    transcript.fails("half a second later", bind(QUEUE, &options), libc::EEXIST)?;
    transcript.why(
        "The provider lives as long as the ring, and the ring as long as any process has it open.",
    );

    transcript.does("The helper ends");
    drop(helper.stdin.take());
    helper.wait()?;
    let ended = Instant::now();
    let (zcrx, refusals) = bind_patiently(QUEUE, &options)?;
    transcript.sees("refused with EEXIST before", format!("{refusals} times"));
    transcript.sees("milliseconds", ended.elapsed().as_millis());
    transcript
        .why("Even then the ring ends some time after its last descriptor (io_ring_exit_work,");
    transcript.why("io_uring/io_uring.c), so a program that is run again at once has to retry.");

    transcript.does("The ring is closed while a socket has unread data");
    const UNREAD: u64 = 32 << 10;
    let mut connection = connect(PORT, 1)?.remove(0);
    Sender::start(connection.sender, 1, UNREAD).finish()?;
    eventually(ARRIVAL, || {
        let unread = rustix::io::ioctl_fionread(&connection.receiver)?;
        ensure!(unread == UNREAD, "{unread} of {UNREAD} bytes have arrived");
        Ok(())
    })?;
    let pool = provider_pool()?;
    drop(zcrx);
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let left = |id| -> Result<u64> {
        let pools = provider_pools()?;
        let found = pools.iter().find(|pool| pool.id == id);
        let found = found.context("the old page pool has ended")?;
        ensure!(
            found.detach_time.is_some(),
            "the old page pool was not destroyed"
        );
        Ok(found.inflight)
    };
    let inflight = left(pool.id)?;
    transcript.within(
        "buffers in the destroyed page pool",
        inflight,
        UNREAD / 4096..=POSTED,
    )?;
    transcript.sees("the queue", "bound again");
    transcript.why("Buffers with unread data keep their page pool alive, not the binding.");

    transcript.does("The new ring, and then read(), ask for that data");
    receiver.add(connection.receiver.try_clone()?, 1)?;
    receiver.until("the request ends", |receiver| receiver.end(0).is_some())?;
    transcript.completion("recvzc", receiver.end(0).as_ref(), -libc::EFAULT)?;
    match connection.receiver.read(&mut [0; 1]) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
            transcript.sees("read", "EFAULT");
        }
        other => bail!("read: {other:?}, not EFAULT"),
    }
    transcript.why(
        "It is in the old ring's memory (io_zcrx_recv_frag, io_uring/zcrx.c), which the kernel",
    );
    transcript.why("itself never reads.");

    transcript.does("The socket is closed");
    drop(receiver);
    drop(connection.receiver);
    await_pools(<[_]>::is_empty)?;
    transcript.sees("the destroyed page pool", "ended");
    lab.ledger_is_clean()
}
