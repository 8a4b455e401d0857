//! `zcnic-guest receive`: one TCP connection, received by io_uring zero-copy receive on one queue
//! (or, for comparison, by plain reads), every byte verified.

use std::{
    collections::VecDeque,
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zcnic_guest_protocol::{
    event::{ENDED_EARLY, Event, ReceiveResult},
    interface::PagePool,
};

use crate::{
    kit::{
        net,
        zcrx::{Buffer, CompletionKind, Options, Target, Zcrx},
    },
    traffic::{
        pattern::Pattern,
        progress::{INTERVAL, Progress, report, report_result},
        send::is_timeout,
    },
};

/// Bytes per request with --oneshot.
const ONESHOT: u32 = 64 << 10;

/// Receives the pattern on one TCP connection, by io_uring zero-copy receive, and verifies it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Interface whose queue receives
    #[arg(long, required_unless_present_any = ["plain", "no_device"])]
    interface: Option<String>,
    /// Receive queue that the flow is steered to
    #[arg(long, required_unless_present_any = ["plain", "no_device"])]
    queue: Option<u32>,
    /// TCP port to listen on (0: any, see the "listening" line)
    #[arg(long)]
    port: u16,
    /// Length of the stream
    #[arg(long)]
    bytes: u64,
    /// Bytes per receive buffer, a power of two; more than a page needs huge pages
    #[arg(long, value_name = "BYTES")]
    buf_len: Option<u32>,
    /// Requests of limited length one after the other instead of one for the whole stream
    #[arg(long)]
    oneshot: bool,
    /// Keep all buffers instead of returning them (with --plain: read nothing), without a time
    /// limit
    #[arg(long)]
    hold: bool,
    /// Verify each buffer again and return it only after this number of further buffers
    #[arg(long, value_name = "BUFFERS", default_value_t = 0, conflicts_with_all = ["plain", "hold"])]
    window: usize,
    /// Return buffers wrongly, to test that the driver, the ledger or the pattern detects it
    #[arg(long, value_name = "HOW", conflicts_with_all = ["plain", "hold"])]
    misbehave: Option<Misbehaviour>,
    /// Receive with plain reads, from any interface
    #[arg(long, conflicts_with_all = ["interface", "queue", "buf_len", "oneshot", "no_device"])]
    plain: bool,
    /// io_uring zero-copy receive without a device (ZCRX_REG_NODEV): the kernel copies everything
    #[arg(long, conflicts_with_all = ["interface", "queue"])]
    no_device: bool,
    /// Seed of the pattern; the sender needs the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fail when nothing has moved for this time (0: never)
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    stall_limit: u64,
}

/// A wrong way to return buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Misbehaviour {
    /// Each buffer a second time, when the kernel may have reused it
    ReturnTwice,
    /// At an offset that is beyond the area by the area's length
    ReturnBeyond,
}

/// Counts besides bytes.
#[derive(Default)]
struct Counts {
    completions: u64,
    requests: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let limit = (args.stall_limit > 0 && !args.hold).then(|| Duration::from_secs(args.stall_limit));
    let mut progress = Progress::new(limit);
    let mut counts = Counts::default();
    let started = Instant::now();
    let mut zcrx = None;
    let outcome = if args.plain {
        receive_plain(args, &mut progress, &mut counts)
    } else {
        let options = Options {
            buf_len: args.buf_len,
            ..Options::default()
        };
        Zcrx::new(&target(args), &options)
            .map_err(anyhow::Error::from)
            .and_then(|opened| receive_zcrx(args, zcrx.insert(opened), &mut progress, &mut counts))
    };

    let stats = zcrx.as_ref().and_then(Zcrx::stats);
    report_result(ReceiveResult {
        ok: outcome.is_ok(),
        error: outcome.as_ref().err().map(|error| format!("{error:#}")),
        interface: args.interface.clone(),
        queue: args.queue,
        bytes_verified: progress.bytes(),
        bytes_copied: stats.map(|stats| stats.copy_bytes),
        copies: stats.map(|stats| stats.copy_count),
        rx_buf_len: zcrx.as_ref().map(Zcrx::buf_len),
        completions: counts.completions,
        requests: counts.requests,
        page_pool: match (&zcrx, &args.interface) {
            (Some(_), Some(interface)) => pools_of(interface)?,
            _ => Vec::new(),
        },
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        seconds: started.elapsed().as_secs_f64(),
    });
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The command line has both interface and queue, or --no-device.
fn target(args: &Args) -> Target {
    match (args.interface.clone(), args.queue) {
        (Some(interface), Some(queue)) => Target::Queue { interface, queue },
        _ => Target::NoDevice,
    }
}

fn pools_of(interface: &str) -> Result<Vec<PagePool>, net::Error> {
    let index = net::ifindex(interface)?;
    let mut pools = net::page_pools()?;
    pools.retain(|pool| pool.ifindex == Some(index.into()));
    Ok(pools)
}

/// Accepts the one connection.
fn accept(port: u16, progress: &mut Progress) -> anyhow::Result<TcpStream> {
    // The IPv6 wildcard takes IPv4, too. Kernels without IPv6 need the IPv4 wildcard.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .with_context(|| format!("listening on port {port}"))?;
    report(&Event::Listening {
        port: listener.local_addr()?.port(),
    });
    let timeout = Timespec {
        tv_sec: INTERVAL.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    while poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&timeout))? == 0 {
        progress.idle().context("waiting for a connection")?;
    }
    let (stream, peer) = listener.accept()?;
    report(&Event::Connected {
        peer: peer.to_string(),
    });
    Ok(stream)
}

/// Verifies and counts received bytes.
fn take(
    args: &Args,
    pattern: &Pattern,
    bytes: &[u8],
    progress: &mut Progress,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let left = args.bytes - progress.bytes();
    ensure!(
        bytes.len() as u64 <= left,
        "more than {} bytes came",
        args.bytes
    );
    pattern.verify(progress.bytes(), bytes)?;
    progress.add(bytes.len() as u64);
    counts.completions += 1;
    Ok(())
}

fn at_end(args: &Args, progress: &Progress) -> anyhow::Result<()> {
    let got = progress.bytes();
    ensure!(
        got == args.bytes,
        "{ENDED_EARLY}{got} of {} bytes",
        args.bytes
    );
    Ok(())
}

/// Waits to be killed.
fn hold() -> ! {
    report(&Event::Held);
    loop {
        std::thread::park();
    }
}

fn receive_plain(args: &Args, progress: &mut Progress, counts: &mut Counts) -> anyhow::Result<()> {
    let pattern = Pattern::new(args.seed);
    let mut stream = accept(args.port, progress)?;
    if args.hold {
        // Received data stays in the socket, in the device's buffers.
        stream.peek(&mut [0])?;
        hold();
    }
    stream.set_read_timeout(Some(INTERVAL))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return at_end(args, progress),
            Ok(len) => take(args, &pattern, &buffer[..len], progress, counts)?,
            Err(error) if is_timeout(error.kind()) => progress.idle()?,
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

/// Buffers to be returned.
struct Returns {
    window: usize,
    misbehaviour: Option<Misbehaviour>,
    /// Buffers to be verified again, with their positions in the stream.
    held: VecDeque<(Buffer, u64)>,
    /// Buffers that were returned, to be returned once more.
    returned: VecDeque<Buffer>,
}

impl Returns {
    /// After this number of further returns the kernel has probably reused a returned buffer.
    const LATE: usize = 1500;

    fn new(args: &Args) -> Self {
        Self {
            window: args.window,
            misbehaviour: args.misbehave,
            held: VecDeque::new(),
            returned: VecDeque::new(),
        }
    }

    /// Returns a buffer, at the end of the window.
    fn add(
        &mut self,
        zcrx: &mut Zcrx,
        pattern: &Pattern,
        buffer: (Buffer, u64),
    ) -> anyhow::Result<()> {
        self.held.push_back(buffer);
        if self.held.len() <= self.window {
            return Ok(());
        }
        let Some((mut buffer, position)) = self.held.pop_front() else {
            return Ok(());
        };
        if self.window > 0 {
            let bytes = zcrx.bytes(buffer).context("the area shrank")?;
            pattern
                .verify(position, bytes)
                .context("a buffer changed while it was held")?;
        }
        match self.misbehaviour {
            Some(Misbehaviour::ReturnBeyond) => buffer.offset += zcrx.area_bytes(),
            Some(Misbehaviour::ReturnTwice) => {
                self.returned.push_back(buffer);
                if self.returned.len() > Self::LATE
                    && let Some(earlier) = self.returned.pop_front()
                {
                    zcrx.recycle(earlier);
                }
            }
            None => {}
        }
        zcrx.recycle(buffer);
        Ok(())
    }
}

fn receive_zcrx(
    args: &Args,
    zcrx: &mut Zcrx,
    progress: &mut Progress,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let pattern = Pattern::new(args.seed);
    let stream = accept(args.port, progress)?;
    let limit = if args.oneshot { ONESHOT } else { 0 };
    let mut returns = Returns::new(args);
    let mut request_start = progress.bytes();
    zcrx.ring.receive(stream.as_fd(), limit, 0)?;
    counts.requests += 1;
    loop {
        zcrx.ring.wait(INTERVAL)?;
        let before = progress.bytes();
        let mut ended = None;
        while let Some(completion) = zcrx.ring.next_completion() {
            match completion.kind {
                CompletionKind::Data(buffer) => {
                    let bytes = zcrx.bytes(buffer).with_context(|| {
                        format!("the kernel named a buffer outside the area: {buffer:?}")
                    })?;
                    let position = progress.bytes();
                    take(args, &pattern, bytes, progress, counts)?;
                    if !args.hold {
                        returns.add(zcrx, &pattern, (buffer, position))?;
                    }
                }
                CompletionKind::End => ended = Some(completion.result),
                CompletionKind::Notification => {}
            }
        }
        zcrx.publish();
        if progress.bytes() == before && ended.is_none() {
            progress.idle()?;
        }
        match ended {
            None => continue,
            // A limited request has received all its bytes.
            Some(0) if limit > 0 && progress.bytes() - request_start >= u64::from(limit) => {}
            Some(0) => return at_end(args, progress),
            // No buffer to copy into is left.
            Some(error) if error == -libc::ENOMEM && args.hold => hold(),
            // No buffer to copy into: the returned ones are still in the refill ring.
            Some(error) if error == -libc::ENOMEM && zcrx.pending_returns() > 0 => zcrx.flush()?,
            // The completion queue was full; it no longer is.
            Some(error) if error == -libc::ENOSPC => {}
            Some(error) => bail!(
                "the receive request ended after {} bytes: {}",
                progress.bytes(),
                std::io::Error::from_raw_os_error(-error)
            ),
        }
        request_start = progress.bytes();
        zcrx.ring.receive(stream.as_fd(), limit, 0)?;
        counts.requests += 1;
    }
}
