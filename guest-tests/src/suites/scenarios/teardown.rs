//! The end of a binding: a process that is killed, and one that is run again.

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
        story::Story,
        traffic::{How, PORT, QUEUE, Stream},
    },
    kit::zcrx::Options,
};

/// Buffers of a ring that was not made smaller.
const POSTED: u64 = 512;
/// How long what was sent may need to come.
const ARRIVAL: Duration = Duration::from_secs(15);

/// What a program can bring about at once.
fn small() -> Options {
    Options {
        area_bytes: 4 << 20,
        ..Options::default()
    }
}

pub(crate) fn process_killed(lab: &mut Lab, story: &Story) -> Result<()> {
    story.does("A process receives a stream and has 256 buffers at any time; others are posted to the card");
    let mut stream = Stream::start_with(How::ZeroCopy, 1 << 40, &["--window=256"])?;
    stream.wait_for_progress()?;
    let pool = provider_pool()?;
    story.within(
        "buffers out of its page pool",
        pool.inflight,
        POSTED + 256..=8192,
    )?;
    let ledger = lab.ledger(QUEUE)?;
    story.within("chains that the card owns", ledger.with_device, 1..=POSTED)?;
    story.within("filled and not posted again", ledger.out, 256..=8192)?;

    story.does("It gets SIGKILL, and queue 3 is bound again as soon as that is possible");
    stream.kill_receiver()?;
    let killed = Instant::now();
    let (zcrx, refusals) = bind_patiently(QUEUE, &small())?;
    story.sees("refused with EEXIST before", format!("{refusals} times"));
    story.sees("milliseconds", killed.elapsed().as_millis());
    ensure!(
        provider_pool()?.id != pool.id,
        "the page pool is the old one"
    );
    story.why(
        "The ring is torn down by a work item, after the process has gone (io_ring_exit_work,",
    );
    story.why("io_uring/io_uring.c), and only then is the queue restarted with memory of its own.");

    story.does("What the card and the kernel say of what was left behind");
    let stop = lab
        .ledger(QUEUE)?
        .last_stop
        .context("the queue did not stop")?;
    story.holds(
        "the card has returned every chain, and the ledger has found nothing",
        stop.clean,
    )?;
    story.is(
        "chains posted and not returned",
        stop.posted - stop.returned,
        0,
    )?;
    await_pools(|left| left.iter().all(|found| found.id != pool.id))?;
    story.sees("the process's page pool", "gone");
    let sender = stream.sender_end()?;
    let error = sender.error.as_deref().unwrap_or_default();
    story.sees("the sender's error", error);
    // Which of them depends on whether the socket had unread data when it was closed.
    let refused = ["reset by peer", "Broken pipe"].map(|words| error.contains(words));
    ensure!(refused.contains(&true), "the sender reports {sender:?}");
    story.why(
        "Buffers in the program's hands are taken back (io_zcrx_scrub, io_uring/zcrx.c), those in",
    );
    story.why("sockets go with their sockets, and those on the card with RXQ_STOP.");
    drop(zcrx);
    await_pools(<[_]>::is_empty)
}

pub(super) fn rerun(lab: &mut Lab, story: &Story) -> Result<()> {
    let options = small();
    story.does("A program binds queue 3, and so does another one");
    let (first, _) = bind_patiently(QUEUE, &options)?;
    story.fails("the other one", bind(QUEUE, &options), libc::EEXIST)?;
    story.why("A queue has one provider (__netif_mp_open_rxq, net/core/netdev_rx_queue.c).");

    story.does("The program starts a helper that inherits the ring's descriptor, and ends");
    // Unlike the original a copy is not closed on exec.
    let copy = rustix::io::dup(first.as_fd())?;
    let mut helper = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    drop(copy);
    drop(first);
    std::thread::sleep(Duration::from_millis(500));
    story.fails("half a second later", bind(QUEUE, &options), libc::EEXIST)?;
    story.why(
        "The provider lives as long as the ring, and the ring as long as anybody has it open.",
    );

    story.does("The helper ends");
    drop(helper.stdin.take());
    helper.wait()?;
    let ended = Instant::now();
    let (zcrx, refusals) = bind_patiently(QUEUE, &options)?;
    story.sees("refused with EEXIST before", format!("{refusals} times"));
    story.sees("milliseconds", ended.elapsed().as_millis());
    story.why("Even then the ring ends some time after its last descriptor (io_ring_exit_work,");
    story.why("io_uring/io_uring.c): who runs a program again at once should try more than once.");

    story.does("The ring is closed while a socket has data that nobody has read");
    const UNREAD: u64 = 32 << 10;
    let mut connection = connect(PORT, 1)?.remove(0);
    Sender::start(connection.sender, 1, UNREAD).finish()?;
    eventually(ARRIVAL, || {
        let unread = rustix::io::ioctl_fionread(&connection.receiver)?;
        ensure!(unread == UNREAD, "{unread} of {UNREAD} bytes have come");
        Ok(())
    })?;
    let pool = provider_pool()?;
    drop(zcrx);
    let mut receiver = Receiver::new(QUEUE, &options)?;
    let left = |id| -> Result<u64> {
        let pools = provider_pools()?;
        let found = pools.iter().find(|pool| pool.id == id);
        let found = found.context("the old page pool is gone")?;
        ensure!(
            found.detach_time.is_some(),
            "the old page pool was not destroyed"
        );
        Ok(found.inflight)
    };
    let inflight = left(pool.id)?;
    story.within(
        "buffers in the destroyed page pool",
        inflight,
        UNREAD / 4096..=POSTED,
    )?;
    story.sees("the queue", "bound again");
    story.why("Buffers with data that nobody has read keep their page pool, not the queue.");

    story.does("That data is asked for by way of the new ring, and by read()");
    receiver.add(connection.receiver.try_clone()?, 1)?;
    receiver.until("the request ends", |receiver| receiver.end(0).is_some())?;
    story.completion("recvzc", receiver.end(0).as_ref(), -libc::EFAULT)?;
    match connection.receiver.read(&mut [0; 1]) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => story.sees("read", "EFAULT"),
        other => bail!("read: {other:?}, not EFAULT"),
    }
    story.why(
        "It is in memory of the old ring (io_zcrx_recv_frag, io_uring/zcrx.c), which the kernel",
    );
    story.why("itself never reads.");

    story.does("The socket is closed");
    drop(receiver);
    drop(connection.receiver);
    await_pools(<[_]>::is_empty)?;
    story.sees("the destroyed page pool", "gone");
    lab.ledger_is_clean()
}
